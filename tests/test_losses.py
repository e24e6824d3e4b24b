"""Losses: values and gradients against the published ones, and extreme inputs."""

import numpy as np
import pytest
import tensorflow as tf

from efficientdet_tf import anchors, losses
from efficientdet_tf.config import LossConfig

KINDS = ("iou", "giou", "diou", "ciou")
GRID = anchors.generate((64, 64), 3, 7, 3, (1.0, 2.0, 0.5), 4.0).boxes
LEVELS = range(3, 8)


@pytest.fixture(scope="module")
def golden(goldens):
    return np.load(goldens / "losses.npz")


@pytest.fixture(scope="module")
def batch(goldens):
    """Targets, outputs and expected results of two images with five classes."""
    golden = np.load(goldens / "detection_loss.npz")
    parts = [(part, level) for part in ("cls", "box") for level in LEVELS]
    class_targets, box_targets = (
        np.concatenate([golden[f"{part}_targets_{level}"].reshape(2, -1) for level in LEVELS], 1)
        for part in ("cls", "box")
    )
    targets = {
        "class_targets": class_targets,
        "box_targets": box_targets.reshape(2, -1, 4),
        "num_positives": golden["mean_num_positives"][:, 0],
    }
    outputs = {f"{part}_{level}": golden[f"{part}_outputs_{level}"] for part, level in parts}
    return targets, outputs, golden


def with_gradient(function, value):
    value = tf.constant(value)
    with tf.GradientTape() as tape:
        tape.watch(value)
        result = function(value)
    return result.numpy(), tape.gradient(result, value).numpy()


def assert_close(actual, expected):
    """Assert equality within 1e-5 of the largest entry."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_focal_loss_equals_the_published_one(golden, smoothing):
    shape = (2, 4, 5, 3, 7)
    value, gradient = with_gradient(
        lambda logits: (
            losses.focal_loss(golden["focal_cls_targets"], logits, 0.25, 1.5, smoothing)
            / golden["focal_normalizer"]
        ),
        golden["focal_logits"].reshape(shape),
    )
    assert_close(value, golden[f"focal_smooth{smoothing}"].reshape(shape))
    assert_close(gradient, golden[f"focal_smooth{smoothing}_grad_of_sum"].reshape(shape))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.5, 2.0])
def test_focal_gradient_is_the_slope_of_its_value(gamma):
    logits = np.linspace(-6, 6, 24, dtype=np.float32).reshape(4, 6)
    classes = np.array([0, 5, -1, 3])

    def total(logits):
        return tf.reduce_sum(losses.focal_loss(classes, logits, 0.25, gamma, 0.1), axis=-1)

    theoretical, numerical = tf.test.compute_gradient(total, [logits], delta=1e-2)
    np.testing.assert_allclose(theoretical[0], numerical[0], atol=1e-3)


@pytest.mark.parametrize("gamma", [0.5, 1.5])
def test_focal_loss_is_finite_and_correct_for_extreme_logits(gamma):
    logits = np.array([[60, -60], [-60, 60], [1e4, -1e4]], np.float32)
    value, gradient = with_gradient(
        lambda x: losses.focal_loss(np.array([0, 0, 0]), x, 0.25, gamma), logits
    )
    assert np.isfinite(value).all() and np.isfinite(gradient).all()
    np.testing.assert_allclose(value[1], [0.25 * 60, 0.75 * 60], rtol=1e-5)
    np.testing.assert_allclose(gradient[1], [-0.25, 0.75], rtol=1e-5)
    np.testing.assert_allclose(value[[0, 2]], 0, atol=1e-8)


def test_focal_loss_with_gamma_zero_is_weighted_cross_entropy():
    logits = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    one_hot = tf.one_hot([0, 1, 2, -1, 1], 3)
    expected = tf.nn.sigmoid_cross_entropy_with_logits(one_hot, logits) / 2
    actual = losses.focal_loss(tf.constant([0, 1, 2, -1, 1]), logits, 0.5, 0.0)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_huber_loss_equals_the_published_one(golden):
    value, gradient = with_gradient(
        lambda outputs: (
            tf.reduce_sum(losses.huber_loss(golden["box_targets"], outputs, 0.1))
            / (4 * golden["box_num_positives"])
        ),
        golden["box_outputs"],
    )
    assert_close(value, golden["box_huber_loss"])
    assert_close(gradient, golden["box_huber_loss_grad"])


@pytest.mark.parametrize("kind", KINDS)
def test_iou_loss_of_plain_boxes_equals_the_published_one(golden, kind):
    value, gradient = with_gradient(
        lambda boxes: losses.iou_loss(golden["pair_target"], boxes, kind), golden["pair_pred"]
    )
    assert_close(value, golden[f"pair_{kind}_loss"])
    assert_close(gradient, golden[f"pair_{kind}_loss_grad_of_sum"])


@pytest.mark.parametrize("kind", KINDS)
def test_iou_loss_of_deltas_equals_the_published_one(golden, kind):
    grid = np.tile(golden["iou_anchor_boxes"], (2, 1))
    value, gradient = with_gradient(
        lambda outputs: (
            tf.reduce_sum(losses.box_iou_loss(golden["iou_box_targets"], outputs, grid, kind))
            / (4 * golden["iou_num_positives"])
        ),
        golden["iou_box_outputs"],
    )
    assert_close(value, golden[f"box_{kind}_loss"])
    assert_close(gradient, golden[f"box_{kind}_loss_grad"])


@pytest.mark.parametrize("kind", KINDS)
def test_iou_loss_of_equal_boxes_is_zero_and_of_far_ones_at_least_one(kind):
    boxes = np.array([[10, 20, 30, 60], [0, 0, 5, 5]], np.float32)
    np.testing.assert_allclose(losses.iou_loss(boxes, boxes, kind), 0, atol=1e-6)
    assert (losses.iou_loss(boxes, boxes + 100, kind).numpy() >= 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_iou_gradient_is_finite_for_boxes_without_size(kind):
    targets = np.array([[0, 0, 0, 0], [5, 5, 9, 9], [5, 5, 9, 9]], np.float32)
    boxes = np.array([[0, 0, 0, 0], [7, 7, 7, 7], [8, 8, 6, 6]], np.float32)
    value, gradient = with_gradient(lambda b: losses.iou_loss(targets, b, kind), boxes)
    assert value[0] == 0
    assert np.isfinite(value).all() and np.isfinite(gradient).all()


def test_detection_loss_equals_the_published_one(batch):
    targets, outputs, golden = batch
    actual = losses.DetectionLoss(LossConfig(), GRID)(targets, outputs)
    assert_close(actual["class_loss"], golden["None/cls_loss"])
    assert_close(actual["box_loss"], golden["None/box_loss"])
    assert_close(actual["detection_loss"], golden["None/det_loss"])
    assert actual["box_iou_loss"].numpy() == 0


def test_ciou_is_added_and_differs_from_the_published_one_only_by_its_anchors(batch):
    targets, outputs, golden = batch
    actual = losses.DetectionLoss(LossConfig(iou_loss="ciou"), GRID)(targets, outputs)
    assert_close(actual["class_loss"], golden["ciou/cls_loss"])
    assert_close(actual["box_loss"], golden["ciou/box_loss"])
    # There, boxes are ordered by level, image, and anchors by image, level: with more
    # than one image they are decoded by the wrong anchors.
    flat = [
        np.concatenate([golden[f"box_{part}_{level}"].reshape(-1, 4) for level in LEVELS])
        for part in ("targets", "outputs")
    ]
    total = tf.reduce_sum(losses.box_iou_loss(*flat, np.tile(GRID, (2, 1)), "ciou"))
    normalizer = targets["num_positives"].sum() + 1
    published = total / (4 * normalizer)
    assert_close(published, golden["ciou/box_iou_loss"])
    difference = actual["box_iou_loss"] - published
    assert 0 < abs(difference) < 0.01 * published
    assert_close(actual["detection_loss"] - difference, golden["ciou/det_loss"])


@pytest.mark.parametrize("iou_loss", ["none", "ciou"])
def test_detection_loss_of_a_batch_is_the_sum_of_its_images(batch, iou_loss):
    targets, outputs, _ = batch
    loss = losses.DetectionLoss(LossConfig(iou_loss=iou_loss), GRID)
    whole = loss(targets, outputs, normalizer=1.0)
    images = [
        loss(
            {name: value[i : i + 1] for name, value in targets.items()},
            {name: value[i : i + 1] for name, value in outputs.items()},
            normalizer=1.0,
        )
        for i in range(2)
    ]
    for name, value in whole.items():
        np.testing.assert_allclose(value, images[0][name] + images[1][name], rtol=1e-5)


def test_ignored_anchors_do_not_count_for_the_class_loss(batch):
    targets, outputs, _ = batch
    loss = losses.DetectionLoss(LossConfig(), GRID)
    class_targets = targets["class_targets"].copy()
    class_targets[:, : 8 * 8 * 9] = -2
    ignored = {**targets, "class_targets": class_targets}
    louder = {**outputs, "cls_3": outputs["cls_3"] + 5}
    np.testing.assert_allclose(
        loss(ignored, louder)["class_loss"], loss(ignored, outputs)["class_loss"]
    )
    assert loss(targets, louder)["class_loss"] > loss(targets, outputs)["class_loss"]


def test_images_without_objects_have_a_class_loss_only(batch):
    targets, outputs, _ = batch
    empty = {
        name: np.full_like(value, -1) if name == "class_targets" else np.zeros_like(value)
        for name, value in targets.items()
    }
    actual = losses.DetectionLoss(LossConfig(iou_loss="giou"), GRID)(empty, outputs)
    assert actual["class_loss"] > 0
    assert actual["box_loss"] == 0 and actual["box_iou_loss"] == 0


@pytest.mark.parametrize("dtype", [tf.float32, tf.float16, tf.bfloat16])
def test_compiled_loss_and_gradient_equal_the_plain_ones(batch, dtype):
    targets, outputs, _ = batch
    outputs = {name: tf.cast(value, dtype) for name, value in outputs.items()}
    loss = losses.DetectionLoss(LossConfig(iou_loss="ciou"), GRID)

    def step(outputs):
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            value = loss(targets, outputs)["detection_loss"]
        return value, tape.gradient(value, outputs)

    value, gradients = step(outputs)
    compiled_value, compiled_gradients = tf.function(step, jit_compile=True)(outputs)
    assert value.dtype == tf.float32
    np.testing.assert_allclose(compiled_value, value, rtol=1e-5)
    for name, gradient in gradients.items():
        assert gradient.dtype == dtype
        expected = tf.cast(gradient, tf.float32)
        np.testing.assert_allclose(
            tf.cast(compiled_gradients[name], tf.float32), expected, rtol=1e-2, atol=1e-6
        )
