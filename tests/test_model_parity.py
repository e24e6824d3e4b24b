"""The models against the published implementation's numbers."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from cases import few
from efficientdet_tf import complexity
from efficientdet_tf import model as model_lib
from efficientdet_tf.checkpoints.reference import load_reference_weights, reference_name
from efficientdet_tf.config import MODELS, Config

# Trainable parameters, by the formulas of their structure.
NECK_AND_HEADS = {
    "efficientdet-d0": (196_281, 88_398),
    "efficientdet-d1": (390_972, 133_902),
    "efficientdet-d2": (708_159, 186_318),
    "efficientdet-d3": (1_559_474, 369_486),
    "efficientdet-d4": (3_349_829, 631_630),
    "efficientdet-d5": (5_405_893, 959_310),
    "efficientdet-d6": (10_583_808, 1_883_982),
    "efficientdet-d7": (10_583_808, 1_883_982),
    "efficientdet-d7x": (13_112_064, 1_891_662),
    "efficientdet-lite0": (196_224, 88_398),
    "efficientdet-lite1": (390_896, 133_902),
    "efficientdet-lite2": (708_064, 186_318),
    "efficientdet-lite3": (1_559_360, 369_486),
    "efficientdet-lite3x": (2_333_200, 525_646),
    "efficientdet-lite4": (3_349_696, 631_630),
}

# Of the others, `make test` compares the rows of the table: config/test_model_table.py.
BUILT = [f"efficientdet-{name}" for name in ("d0", "d7x", "lite0")]


def _config(name, size):
    return Config.for_model(name, **{"model.image_size": [size, size], "model.num_classes": 90})


def _fresh(config, folder):
    model = model_lib.build(config)
    load_reference_weights(model, dict(np.load(folder / "weights.npz")), config)
    return model


@pytest.fixture(scope="module", params=["efficientdet-d0", "efficientdet-lite0"])
def golden_model(request, goldens):
    """(name, model with the golden weights, the folder of its goldens)."""
    folder = goldens / request.param
    size = np.load(folder / "outputs.npz")["input"].shape[1]
    config = _config(request.param, size)
    model = _fresh(config, folder)
    return request.param, model, folder


@pytest.mark.parametrize("name", few(MODELS, BUILT.__contains__))
def test_parameters_multiply_adds_and_names(name, goldens):
    golden = json.loads((goldens / "models.json").read_text())[name]
    config = Config.for_model(name)
    model = model_lib.build(config)
    parts = complexity.measure_parts(model)
    assert len(parts) == 5
    neck = parts["extra_levels"].trainable + parts["feature_network"].trainable
    heads = parts["class_head"].trainable + parts["box_head"].trainable
    assert (neck, heads) == NECK_AND_HEADS[name]
    assert tuple(map(sum, zip(*parts.values()))) == (
        golden["params_trainable"],
        golden["params_non_trainable"],
        golden["multiply_adds_batch1"],
    )
    listed = json.loads((goldens / "variables" / f"{name}.json").read_text())
    if isinstance(listed, dict):
        listed = listed["variables"]
    ours = {
        reference_name(weight.name, config): (list(weight.shape), weight.trainable)
        for weight in model.weights
    }
    # The published lists hold BatchNorm statistics as not trainable, as ours do.
    assert ours == {entry[0].removesuffix(":0"): (entry[1], entry[2]) for entry in listed}
    keras.backend.clear_session()


def test_raw_outputs(golden_model):
    _, model, folder = golden_model
    golden = np.load(folder / "outputs.npz")
    outputs = model(golden["image_uint8"].astype(np.float32), training=False)
    assert set(outputs) == {f"{kind}_{level}" for kind in ("cls", "box") for level in range(3, 8)}
    for name, value in outputs.items():
        np.testing.assert_allclose(value, golden[name], atol=1e-4, rtol=0)


def test_features(golden_model):
    _, model, folder = golden_model
    golden = np.load(folder / "features.npz")
    network = model.get_layer("feature_network")
    probe = keras.Model(model.input, [network.input, network.output])
    image = np.load(folder / "outputs.npz")["image_uint8"].astype(np.float32)
    inputs, outputs = probe(image, training=False)
    for level in range(3, 8):
        # Features are larger than outputs; float noise grows with them.
        for kind, maps in (("in", inputs), ("out", outputs)):
            want = golden[f"fpn_{kind}_{level}"]
            np.testing.assert_allclose(maps[level], want, atol=1e-4, rtol=1e-4)


def test_training_mode_outputs_and_moving_statistics(goldens):
    folder = goldens / "efficientdet-d0"
    config = _config("efficientdet-d0", 256)
    model = _fresh(config, folder)
    golden = np.load(folder / "train_mode.npz")
    images = tf.cast(golden["image_uint8"], tf.float32)
    outputs = model(images, training=True)
    # Batch statistics of few pixels amplify rounding: an input that differs in its last
    # bit moves some logits by more than 1e-4, and every kind of CPU rounds in another
    # order. In float64 ours are the same everywhere, and what is left is the rounding
    # in the published numbers, which were computed in float32.
    exact = _float64_outputs(config, folder, images)
    for name in (key for key in golden if key.startswith(("cls_", "box_"))):
        error = np.abs(exact[name] - golden[name])
        assert error.max() < 3e-4
        assert np.quantile(error, 0.999) < 1.5e-4
        assert np.sqrt(np.mean(error**2)) < 2e-5
        # Ours in float32 are as far from that as the published ones.
        ours = np.abs(exact[name] - outputs[name])
        assert ours.max() < 2 * error.max()
        assert np.mean(ours**2) < 2 * np.mean(error**2)
    after = {reference_name(weight.name, config): weight for weight in model.weights}
    compared = 0
    for key in (key for key in golden if key.startswith("after/")):
        weight = after[key.removeprefix("after/").removesuffix(":0")]
        np.testing.assert_allclose(weight, golden[key], atol=1e-4, rtol=1e-4)
        compared += 1
    assert compared == sum(not weight.trainable for weight in model.weights)


def _float64_outputs(config, folder, images):
    """Raw outputs in training mode of a model that computes in float64."""
    keras.mixed_precision.set_global_policy("float64")
    try:
        outputs = _fresh(config, folder)(images, training=True)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    return {name: value.numpy() for name, value in outputs.items()}


def test_weights_of_another_model_are_refused(goldens):
    weights = dict(np.load(goldens / "efficientdet-lite0" / "weights.npz"))
    config = _config("efficientdet-d0", 128)
    model = model_lib.build(config)
    before = model.get_weights()
    with pytest.raises(ValueError, match="weights do not fit efficientdet-d0: missing: "):
        load_reference_weights(model, weights, config)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights()))
