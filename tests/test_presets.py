"""Presets of RetinaNet and the EfficientDet paper's table 4: sizes, losses, and a training step."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

import tiny
from efficientdet_tf import model as model_lib
from efficientdet_tf.complexity import measure_parts
from efficientdet_tf.config import Config
from efficientdet_tf.losses import DetectionLoss
from efficientdet_tf.training import train as run_lib

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
PRESETS = sorted(
    file.stem for file in (REPOSITORY / "efficientdet_tf" / "config" / "presets").iterdir()
)
ABLATION = ("ablation-r50-fpn", "ablation-b3-fpn", "ablation-b3-bifpn")
# Parameters and multiply-adds of the paper's table 4.
PUBLISHED = ((34e6, 21e6, 12e6), (97e9, 75e9, 24e9))
# Those of EfficientDet-D3.
D3_SIZES = (12_032_296, 24_982_737_931)
# That of the specification for ratios of sizes and costs.
TOLERANCE = 0.07
BACKBONES = {"resnet50": 23_534_592, "efficientnet-b3": 10_103_336}
WIDTHS = {"resnet50": (512, 1024, 2048), "efficientnet-b3": (48, 136, 384)}
# A network of few weights in the preset's form.
TINY = {
    "model.backbone": "efficientnet-lite0",
    "model.backbone_width": 0.25,
    "model.backbone_depth": 0.1,
    "model.backbone_survival_prob": 1.0,
    "model.image_size": 64,
    "model.num_classes": 2,
    "neck.num_filters": 8,
}


def conv(inputs, outputs, kernel=3):
    """Parameters of a dense convolution with bias."""
    return kernel**2 * inputs * outputs + outputs


def head(num_outputs, width=256):
    """Parameters of a head of RetinaNet."""
    return 4 * conv(width, width) + conv(width, num_outputs)


def neck(widths, source, width=256):
    """Parameters of RetinaNet's FPN, whose level 6 is computed from a map of width `source`."""
    laterals = sum(conv(channels, width, 1) for channels in widths)
    return laterals + 3 * conv(width, width) + conv(source, width) + conv(width, width)


def parameters(layer):
    return sum(weight.shape.num_elements() for weight in layer.trainable_weights)


def test_presets_are_documented():
    page = (REPOSITORY / "docs" / "presets.md").read_text(encoding="utf-8")
    flags = (REPOSITORY / "efficientdet_tf" / "cli" / "config_flags.py").read_text(encoding="utf-8")
    for name in PRESETS:
        path = f"efficientdet_tf/config/presets/{name}.yaml"
        assert f"# {name}\n" in page and f'--8<-- "{path}"' in page
        assert name in flags


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_dict_and_file(tmp_path, name):
    config = Config.from_yaml(name)
    assert config.differences(Config())
    assert Config.from_dict(config.to_dict()) == config
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert Config.from_yaml(str(tmp_path / "config.yaml")) == config


def test_retinanet_has_the_published_parameters():
    config = Config.from_yaml("retinanet").override({"model.num_classes": 80})
    model = model_lib.build(config)
    parts = {layer.name: parameters(layer) for layer in model.layers if layer.weights}
    assert parts == {
        "backbone": 23_534_592,
        "feature_network": 7_997_440,
        "class_head": head(9 * 80),
        "box_head": head(9 * 4),
    }
    assert parts["feature_network"] == neck(WIDTHS["resnet50"], 2048)
    # mmdetection's model of 37.74 M does not train stem and first stage. Its convolutions have no
    # bias where BatchNorm follows; those of `tf_keras.applications` have.
    biases, frozen = 26_560, 225_344
    assert round((sum(parts.values()) - biases - frozen) / 1e6, 2) == 37.74


@pytest.fixture(scope="module")
def measured():
    """Sizes and costs of the parts of both rows with an FPN."""
    return {name: measure_parts(model_lib.build(Config.from_yaml(name))) for name in ABLATION[:2]}


@pytest.mark.parametrize("name", ABLATION[:2])
def test_rows_with_an_fpn_have_the_formulas_parameters(measured, name):
    backbone = Config.from_yaml(name).model.backbone
    assert {part: size.trainable for part, size in measured[name].items()} == {
        "backbone": BACKBONES[backbone],
        "feature_network": neck(WIDTHS[backbone], 256),
        "class_head": head(9 * 90),
        "box_head": head(9 * 4),
    }
    # One multiplication for each kernel weight and position of levels 3 to 7.
    positions = sum(side**2 for side in (80, 40, 20, 10, 5))
    for part, outputs in (("class_head", 9 * 90), ("box_head", 9 * 4)):
        kernels = head(outputs) - 4 * 256 - outputs
        assert measured[name][part].multiply_adds == positions * kernels


def test_resnet50_with_an_fpn_has_torchvisions_parameters(measured):
    """34,014,999 of its retinanet_resnet50_fpn, whose BatchNorm is frozen, for 91 classes."""
    ours = sum(part.trainable for part in measured["ablation-r50-fpn"].values())
    biases, norms, class_91 = 26_560, 2 * 26_560, conv(256, 9)
    assert ours - biases - norms + class_91 == 34_014_999


def test_the_row_with_a_bifpn_is_d3():
    ours, d3 = Config.from_yaml("ablation-b3-bifpn"), Config.for_model("efficientdet-d3")
    assert (ours.model, ours.neck) == (d3.model, d3.neck)


def test_the_ablation_has_the_published_ratios(measured):
    """Relative to row 1; the sizes of D3 are tested elsewhere."""
    first, second = (
        [sum(part[i] for part in parts.values()) for i in (0, 2)] for parts in measured.values()
    )
    for row, sizes in ((1, second), (2, D3_SIZES)):
        for size, start, published in zip(sizes, first, PUBLISHED):
            assert size / start == pytest.approx(published[row] / published[0], abs=TOLERANCE)


def test_rows_of_the_ablation_differ_in_the_network_only():
    rows = [Config.from_yaml(name) for name in ABLATION]
    for other in rows[1:]:
        different = {key.partition(".")[0] for key in rows[0].differences(other)}
        assert different == {"model", "neck"} - ({"neck"} if other is rows[1] else set())
    assert set(rows[0].differences(rows[1])) == {
        *("model.backbone", "model.backbone_survival_prob", "model.pixel_mean", "model.pixel_std")
    }


def test_losses_of_retinanet():
    """Focal loss with gamma 2; smooth L1 with beta 0.11, summed over the coordinates."""
    config = Config.from_yaml("retinanet").override(TINY | {"model.max_level": 5})
    loss = DetectionLoss.from_config(config)
    num_anchors = len(loss.anchors)
    errors = np.array([0.05, -0.11, 0.3, -2.0], np.float32)
    box_targets = np.zeros((1, num_anchors, 4), np.float32)
    box_targets[0, 0] = errors
    class_targets = np.full((1, num_anchors), -1, np.int32)
    targets = {
        "class_targets": class_targets,
        "box_targets": box_targets,
        "num_positives": np.ones(1, np.float32),
    }
    sizes = {3: 8, 4: 4, 5: 2}
    outputs = {f"cls_{k}": tf.zeros([1, n, n, 9 * 2]) for k, n in sizes.items()}
    outputs |= {f"box_{k}": tf.zeros([1, n, n, 9 * 4]) for k, n in sizes.items()}
    losses = loss(targets, outputs, normalizer=tf.constant(1.0))
    # Every probability is a half.
    focal = 0.75 * 0.5**2 * np.log(2) * 2 * num_anchors
    assert float(losses["class_loss"]) == pytest.approx(focal, rel=1e-5)
    size = np.abs(errors)
    smooth_l1 = np.where(size < 0.11, 0.5 * size**2 / 0.11, size - 0.5 * 0.11).sum()
    box_loss = float(losses["detection_loss"] - losses["class_loss"])
    assert box_loss == pytest.approx(smooth_l1, rel=1e-3)


def test_a_tiny_retinanet_takes_a_step_that_reaches_every_weight():
    model = run_lib.compiled_model(Config.from_yaml("retinanet").override(TINY), steps=1)
    assert not [weight.name for weight in model.weights if "_head/bn" in weight.name]
    images, targets = tiny.object_at_each_position()
    with tf.GradientTape() as tape:
        losses = model.detection_loss(targets, model(images, training=True))
    gradients = tape.gradient(losses["detection_loss"], model.trainable_variables)
    unreached = [
        variable.name
        for variable, gradient in zip(model.trainable_variables, gradients)
        if gradient is None or not np.any(gradient)
    ]
    assert unreached == []
    before = [variable.numpy() for variable in model.trainable_variables]
    logs = model.train_step((images, targets))
    assert np.isfinite(logs["loss"]) and logs["gradient_norm"] > 0
    assert all(np.any(v != old) for v, old in zip(model.trainable_variables, before))
