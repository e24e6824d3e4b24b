"""Class weights: values, and effect on the loss and its gradient."""

import numpy as np
import pytest
import tensorflow as tf

from efficientdet_tf import losses
from efficientdet_tf.config import Config, ConfigError, LossConfig
from efficientdet_tf.data import digits
from efficientdet_tf.data.statistics import count_objects
from efficientdet_tf.training.class_weights import class_weights, settings


def test_inverse_weights_make_classes_weigh_the_same():
    weights = class_weights("inverse", [10, 30, 60])
    np.testing.assert_allclose(weights, [10 / 3, 10 / 9, 5 / 9])
    np.testing.assert_allclose(weights * [10, 30, 60], 100 / 3)


def test_effective_weights_level_off():
    counts = np.array([1, 2, 10**6, 10**7])
    weights = class_weights("effective", counts)
    # Effective numbers 1, 1.999, 1000 and 1000.
    np.testing.assert_allclose(weights / weights[0], [1, 1 / 1.999, 1e-3, 1e-3], rtol=1e-9)


@pytest.mark.parametrize("kind", ["inverse", "effective"])
def test_the_mean_over_objects_is_one(kind):
    counts = np.array([3, 0, 200, 41])
    weights = class_weights(kind, counts)
    assert np.isclose((weights * counts).sum() / counts.sum(), 1)
    # Without objects there is only background to learn from, as for any other class.
    assert weights[1] == 1
    np.testing.assert_allclose(class_weights(kind, [7, 7, 7]), 1)
    assert class_weights(kind, [0, 0]).tolist() == [1, 1]


def test_another_kind_is_refused():
    with pytest.raises(ValueError, match="^kind: 'reverse' is neither 'inverse' nor 'effective'$"):
        class_weights("reverse", [1])


def test_settings_are_of_the_training_set_and_survive_yaml(tmp_path):
    data = digits.load("train", num_images=12)
    config = Config.for_model("efficientdet-lite0").override({"loss.class_weights": "inverse"})
    config = config.override({"model.num_classes": 10, **settings(config.loss, data)})
    expected = class_weights("inverse", count_objects(data))
    np.testing.assert_allclose(config.loss.class_weight_values, expected, rtol=1e-5)
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert Config.from_yaml(str(path)) == config
    losses.DetectionLoss.from_config(config)
    # Given weights stay unchanged.
    given = LossConfig(class_weight_values=(1.0, 2.0))
    assert settings(given, data) == {}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"loss.class_weights": "inverse"},
            "loss.class_weights: needs the training set; override the config with "
            "class_weights.settings(config.loss, data) first",
        ),
        (
            {"loss.class_weight_values": [1, 2], "model.num_classes": 3},
            "loss.class_weight_values: has 2 weights for 3 classes",
        ),
        (
            {"loss.class_weight_values": [1, -2]},
            "loss.class_weight_values: [1, -2] is not a list of numbers, each 0 or more",
        ),
        (
            {"loss.class_weights": "reverse"},
            "loss.class_weights: 'reverse' is not one of none, inverse, effective",
        ),
    ],
)
def test_wrong_weights_are_one_line(overrides, message):
    with pytest.raises(ConfigError) as error:
        losses.DetectionLoss.from_config(Config.for_model("efficientdet-d0").override(overrides))
    assert str(error.value) == message


@pytest.fixture(scope="module")
def batch():
    """One level of 2 x 2 cells with 1 anchor and 3 classes; an object of each, and background."""
    random = np.random.default_rng(0)
    targets = {
        "class_targets": np.array([[0, 1, 2, -1]], np.int32),
        "box_targets": np.zeros((1, 4, 4), np.float32),
        "num_positives": np.array([3.0], np.float32),
    }
    outputs = {
        "cls_3": random.normal(size=(1, 2, 2, 3)).astype(np.float32),
        "box_3": np.zeros((1, 2, 2, 4), np.float32),
    }
    return targets, outputs


def loss_and_gradient(config, batch):
    targets, outputs = batch
    logits = tf.constant(outputs["cls_3"])
    loss = losses.DetectionLoss(config, np.zeros((4, 4), np.float32))
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(targets, {**outputs, "cls_3": logits})["class_loss"]
    return value.numpy(), tape.gradient(value, logits).numpy()


def test_a_weight_scales_all_terms_of_its_class(batch):
    plain, gradient = loss_and_gradient(LossConfig(), batch)
    weights = (0.5, 3.0, 1.0)
    weighted, weighted_gradient = loss_and_gradient(LossConfig(class_weight_values=weights), batch)
    targets, outputs = batch
    terms = losses.focal_loss(
        targets["class_targets"].reshape(1, 2, 2), outputs["cls_3"], 0.25, 1.5
    ).numpy()
    np.testing.assert_allclose(plain, terms.sum() / 4, rtol=1e-6)
    np.testing.assert_allclose(weighted, (terms * weights).sum() / 4, rtol=1e-6)
    np.testing.assert_allclose(weighted_gradient, gradient * np.float32(weights), rtol=1e-6)


def test_weights_of_one_change_nothing(batch):
    plain, weighted = (
        loss_and_gradient(LossConfig(class_weight_values=values), batch)
        for values in ((), (1.0, 1.0, 1.0))
    )
    assert plain[0] == weighted[0] and np.array_equal(plain[1], weighted[1])
