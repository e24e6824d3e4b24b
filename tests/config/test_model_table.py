"""Model table and compound scaling: the published sizes, and those between."""

import itertools
import json
import operator

import pytest

from efficientdet_tf.config import (
    MODELS,
    Config,
    ConfigError,
    compound_scaling,
)


@pytest.fixture(scope="module")
def published(goldens):
    return json.loads((goldens / "models.json").read_text())


def message(function, *args, **kwargs) -> str:
    with pytest.raises(ConfigError) as error:
        function(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def write(tmp_path, text) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return str(path)


def test_the_table_has_the_published_models(published):
    assert list(MODELS) == list(published)


@pytest.mark.parametrize("name", MODELS)
def test_a_row_says_what_was_published(published, name):
    config, golden = Config.for_model(name), published[name]
    model, reference = config.model, golden["config"]
    size = reference["image_size"]
    if isinstance(size, str):
        size = tuple(int(part) for part in size.split("x"))
    assert model.name == reference["name"] == name
    assert model.image_size == (size if isinstance(size, tuple) else (size, size))
    assert model.backbone == reference["backbone_name"]
    neck = config.neck
    assert neck.name == "bifpn"
    assert neck.fusion == {"fastattn": "fast", "sum": "sum"}[golden["resolved_fpn_weight_method"]]
    assert neck.num_filters == reference["fpn_num_filters"]
    assert neck.num_repeats == reference["fpn_cell_repeats"]
    assert model.head_repeats == reference["box_class_repeats"]
    assert model.activation == reference["act_type"]
    assert (model.min_level, model.max_level) == (reference["min_level"], reference["max_level"])
    assert model.num_classes == reference["num_classes"]
    assert model.pixel_mean == pytest.approx(golden["mean_rgb"])
    assert model.pixel_std == pytest.approx(golden["stddev_rgb"])
    # The reference says 0 for no stochastic depth.
    survival = golden["backbone_survival_prob_training"] or 1.0
    assert model.backbone_survival_prob == survival
    assert config.anchors.scale == reference["anchor_scale"]
    assert config.anchors.num_scales == reference["num_scales"]
    assert list(config.anchors.aspect_ratios) == reference["aspect_ratios"]


def test_the_recipe_is_the_published_one(published):
    config, reference = Config(), published["efficientdet-d0"]["config"]
    assert (config.loss.focal_alpha, config.loss.focal_gamma) == (0.25, 1.5)
    assert config.loss.huber_delta == reference["delta"]
    assert config.loss.box_weight == reference["box_loss_weight"]
    assert config.loss.label_smoothing == reference["label_smoothing"]
    assert config.augmentation.horizontal_flip == reference["input_rand_hflip"]
    assert config.augmentation.scale_min == reference["jitter_min"]
    assert config.augmentation.scale_max == reference["jitter_max"]
    assert config.optimizer.name == reference["optimizer"]
    assert config.optimizer.learning_rate == reference["learning_rate"]
    assert config.optimizer.momentum == reference["momentum"]
    assert config.optimizer.schedule == reference["lr_decay_method"]
    assert config.optimizer.warmup_epochs == reference["lr_warmup_epoch"]
    peak, fraction = config.optimizer.learning_rate, config.optimizer.warmup_fraction
    assert peak * fraction == pytest.approx(reference["lr_warmup_init"])
    assert config.optimizer.weight_decay == reference["weight_decay"]
    assert config.optimizer.clip_norm == reference["clip_gradients_norm"]
    assert config.optimizer.ema_decay == reference["moving_average_decay"]
    assert config.training.epochs == reference["num_epochs"]
    assert config.detection.nms == reference["nms_configs"]["method"]
    assert config.detection.max_detections == reference["nms_configs"]["max_output_size"]


# Table 1 of the paper takes other widths at D2 and D4 (112 for 116.6, 224 for
# 212.6), a cell less from D5 on, and 1280 pixels at D5.
@pytest.mark.parametrize(
    ("phi", "same"),
    [
        (0, {"neck.num_filters", "neck.num_repeats", "model.head_repeats", "model.image_size"}),
        (1, {"neck.num_filters", "neck.num_repeats", "model.head_repeats", "model.image_size"}),
        (2, {"neck.num_repeats", "model.head_repeats", "model.image_size"}),
        (3, {"neck.num_filters", "neck.num_repeats", "model.head_repeats", "model.image_size"}),
        (4, {"neck.num_repeats", "model.head_repeats", "model.image_size"}),
        (5, {"neck.num_filters", "model.head_repeats"}),
        (6, {"neck.num_filters", "model.head_repeats", "model.image_size"}),
    ],
)
def test_the_formulas_give_the_table_where_the_paper_follows_them(phi, same):
    config = Config.for_model(f"efficientdet-d{phi}")
    sizes = compound_scaling(phi)
    row = {key: operator.attrgetter(key)(config) for key in sizes}
    row["model.image_size"] = config.model.image_size[0]
    assert {key for key in sizes if sizes[key] == row[key]} == same


def test_sizes_between_the_models():
    assert compound_scaling(0.5) == {
        "neck.num_filters": 72,
        "neck.num_repeats": 4,
        "model.head_repeats": 3,
        "model.image_size": 640,
    }
    assert compound_scaling(-1) == {
        "neck.num_filters": 48,
        "neck.num_repeats": 2,
        "model.head_repeats": 2,
        "model.image_size": 384,
    }


def test_a_coefficient_of_invalid_sizes_is_refused():
    assert message(compound_scaling, -4) == (
        "compound coefficient -4 gives invalid sizes: {'neck.num_filters': 16, "
        "'neck.num_repeats': -1, 'model.head_repeats': 1, 'model.image_size': 0}"
    )
    assert message(compound_scaling, float("nan")) == (
        "compound coefficient nan is not a finite number"
    )


@pytest.mark.parametrize(
    ("phi", "different"),
    [
        (0, set()),
        (1, set()),
        (2, {"neck.num_filters"}),
        (3, set()),
        (4, {"neck.num_filters"}),
        (5, {"neck.num_repeats", "model.image_size"}),
        (6, {"neck.num_repeats"}),
    ],
)
def test_a_coefficient_gives_the_published_model_where_the_paper_follows_the_formulas(
    phi, different
):
    config = Config.for_phi(phi)
    assert set(config.differences(Config.for_model(f"efficientdet-d{phi}"))) == different
    assert config.model.backbone == f"efficientnet-b{phi}"


@pytest.mark.parametrize(
    ("phi", "name", "backbone", "width", "depth"),
    [
        (1.49, "efficientdet-d1", "efficientnet-b1", 1, 1),
        (1.5, "efficientdet-d2", "efficientnet-b2", 1, 1),
        # D7 itself has the backbone of D6.
        (7, "efficientdet-d7", "efficientnet-b7", 1, 1),
        (-0.25, "efficientdet-d0", "efficientnet-b0", 0.976, 0.955),
        (-1, "efficientdet-d0", "efficientnet-b0", 0.909, 0.833),
        (-2.5, "efficientdet-d0", "efficientnet-b0", 0.788, 0.634),
    ],
)
def test_the_backbone_of_a_coefficient(tmp_path, phi, name, backbone, width, depth):
    config = Config.for_phi(phi)
    model = config.model
    assert (model.name, model.backbone) == (name, backbone)
    assert (model.backbone_width, model.backbone_depth) == (width, depth)
    assert model.backbone_survival_prob == (1 if backbone == "efficientnet-b0" else 0.8)
    for key, size in compound_scaling(phi).items():
        value = operator.attrgetter(key)(config)
        assert value == ((size, size) if key == "model.image_size" else size)
    assert Config.from_dict(config.to_dict()) == config
    assert Config.from_yaml(write(tmp_path, config.to_yaml())) == config


def test_sizes_of_models_grow_with_the_coefficient():
    coefficients = [step / 4 for step in range(-10, 29)]
    sizes = [Config.for_phi(phi) for phi in coefficients]
    for smaller, larger in itertools.pairwise(sizes):
        assert smaller.neck.num_filters <= larger.neck.num_filters
        assert smaller.neck.num_repeats <= larger.neck.num_repeats
        assert smaller.model.head_repeats <= larger.model.head_repeats
        assert smaller.model.image_size <= larger.model.image_size
        assert smaller.model.backbone <= larger.model.backbone
        assert smaller.model.backbone_width <= larger.model.backbone_width


@pytest.mark.parametrize(("phi", "text"), [(-2.51, "-2.51"), (7.01, "7.01"), (float("nan"), "nan")])
def test_a_coefficient_outside_of_the_range_is_refused(phi, text):
    expected = f"phi: {text} is not a number from -2.5 to 7"
    assert message(Config.for_phi, phi) == expected
    assert message(Config.from_yaml, "finetune", phi=phi) == expected


def test_a_coefficient_replaces_the_model_of_a_file(tmp_path):
    path = write(tmp_path, "model: {name: efficientdet-d1, num_classes: 7, head_repeats: 2}\n")
    config = Config.from_yaml(path, phi=2.5)
    own = {"model.num_classes": 7, "model.head_repeats": 2}
    assert config == Config.for_phi(2.5, **own)


# Round trips and layers.
