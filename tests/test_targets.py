"""Anchor assignment against the published one, and its guarantees."""

import numpy as np
import pytest
import tensorflow as tf

from efficientdet_tf import anchors, targets
from keras_layers.box_coder import decode

GRID = anchors.generate((512, 512), 3, 7, 3, (1.0, 2.0, 0.5), 4.0)
SMALL_GRID = anchors.generate((64, 96), 3, 7, 3, (1.0, 2.0, 0.5), 4.0)
NO_BOXES = np.zeros((0, 4), np.float32)
NO_CLASSES = np.zeros(0, np.int32)


def apart(boxes: np.ndarray) -> anchors.AnchorGrid:
    """Return anchors of any place and size: each is a grid of its own."""
    count = len(boxes)
    once = np.ones([count, 2], np.int32)
    center, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return anchors.AnchorGrid(
        boxes, size, center, once.astype(np.float32), once, np.arange(count, dtype=np.int32), once
    )


def overlaps(anchor_boxes: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the IoU of each box with each anchor: float32 [n, N]."""
    one, other = boxes[:, None], anchor_boxes[None]
    common = np.minimum(one[..., 2:], other[..., 2:]) - np.maximum(one[..., :2], other[..., :2])
    intersection = np.maximum(common, 0).prod(-1)
    area, other_area = ((x[..., 2:] - x[..., :2]).prod(-1) for x in (one, other))
    return intersection / (other_area + area - intersection)


@pytest.mark.parametrize(
    "index", range(8), ids=["many", "one", "none", "tiny", "border", "overlap", "huge", "slim"]
)
def test_targets_equal_the_published_ones(goldens, index):
    golden = np.load(goldens / "labels.npz")
    classes = golden[f"classes_{index}"][:, 0].astype(np.int32) - 1
    class_targets, box_targets, num_positives = targets.assign(
        GRID, golden[f"boxes_{index}"], classes
    )
    assert num_positives.numpy() == golden[f"num_positives_{index}"]
    # The published targets are maps of each level, [h, w, A] and [h, w, A * 4].
    classes, boxes = (
        np.concatenate(
            [golden[f"{part}_targets_{index}_level{level}"].ravel() for level in range(3, 8)]
        )
        for part in ("cls", "box")
    )
    np.testing.assert_array_equal(class_targets, classes)
    np.testing.assert_allclose(box_targets, boxes.reshape(-1, 4), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "positive", "ignore"),
    [((256, 256), 0.5, 0.4), ((127, 65), 0.5, 0.4), ((96, 64), 0.3, 0.0), ((96, 64), 0.0, 1.0)],
)
def test_any_boxes_have_the_targets_of_all_overlaps(size, positive, ignore):
    """Of any size, partly or far outside of the image, on top of each other, on whole pixels."""
    grid = anchors.generate(size, 3, 7, 3, (1.0, 2.0, 0.5), 4.0)
    signature = [tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int32)]
    assign = tf.function(lambda *boxes: targets.assign(grid, *boxes, positive, ignore), signature)
    rng = np.random.default_rng(0)
    for count in range(1, 60):
        sides = np.exp(rng.uniform(np.log(0.05), np.log(1.2 * max(size)), [count, 2]))
        centers = rng.uniform(-0.1, 1.1, [count, 2]) * size
        boxes = np.concatenate([centers - sides / 2, centers + sides / 2], axis=1)
        far = [[3000, 0, 3050, 50]]
        boxes = np.concatenate([boxes, boxes[:2], far]).astype(np.float32)
        if count % 2:
            boxes = np.stack([np.floor(boxes[:, :2]), np.ceil(boxes[:, 2:])], 1).reshape(-1, 4)
        numbers = np.arange(len(boxes))
        class_targets, _, num_positives = assign(boxes, numbers)

        matrix = overlaps(grid.boxes, boxes)
        best = matrix.max(axis=0)
        is_positive = (best >= positive) & (best > 0)
        others = np.where(best >= ignore, targets.IGNORED, targets.BACKGROUND)
        expected = np.where(is_positive, matrix.argmax(axis=0), others)
        # Backwards: of several boxes the first forces an anchor.
        expected[matrix.argmax(axis=1)[::-1]] = numbers[::-1]
        np.testing.assert_array_equal(class_targets, expected)
        assert num_positives == (expected >= 0).sum()


def test_no_boxes_leave_only_background():
    class_targets, box_targets, num_positives = targets.assign(SMALL_GRID, NO_BOXES, NO_CLASSES)
    assert set(class_targets.numpy()) == {targets.BACKGROUND}
    assert not box_targets.numpy().any()
    assert num_positives.numpy() == 0


def test_a_box_too_small_for_any_anchor_still_has_one():
    boxes = np.array([[10, 10, 12, 11]], np.float32)
    class_targets, box_targets, num_positives = targets.assign(SMALL_GRID, boxes, [7])
    assert num_positives.numpy() == 1
    positive = np.flatnonzero(class_targets == 7)
    decoded = decode(box_targets.numpy()[positive], SMALL_GRID.boxes[positive])
    np.testing.assert_allclose(decoded, boxes, atol=1e-4)


def test_anchors_between_the_thresholds_are_ignored():
    """As in RetinaNet; positives and box targets are the same."""
    boxes = np.array([[8, 8, 48, 56]], np.float32)
    [overlap] = overlaps(SMALL_GRID.boxes, boxes)
    between = (overlap >= 0.4) & (overlap < 0.5)
    assert between.sum() > 3 and (overlap >= 0.5).any()
    plain, plain_boxes, count = targets.assign(SMALL_GRID, boxes, [3])
    found, found_boxes, found_count = targets.assign(SMALL_GRID, boxes, [3], 0.5, 0.4)
    np.testing.assert_array_equal(found, np.where(between, targets.IGNORED, plain))
    np.testing.assert_array_equal(found_boxes, plain_boxes)
    assert found_count == count
    # At the threshold of positives, there are none in between.
    np.testing.assert_array_equal(targets.assign(SMALL_GRID, boxes, [3], 0.5, 0.5)[0], plain)


def test_an_anchor_forced_by_two_boxes_goes_to_the_first():
    boxes = np.array([[10, 10, 12, 12], [10, 10, 12, 12]], np.float32)
    class_targets, _, num_positives = targets.assign(SMALL_GRID, boxes, [4, 2])
    assert num_positives.numpy() == 1
    assert class_targets.numpy().max() == 4


def test_a_forced_anchor_overrides_a_better_match():
    # The only anchor near both boxes fits the second one exactly.
    anchor = np.array([[0, 0, 100, 100], [200, 200, 300, 300]], np.float32)
    boxes = np.array([[0, 0, 30, 30], [0, 0, 100, 100]], np.float32)
    class_targets, _, _ = targets.assign(apart(anchor), boxes, [1, 0])
    assert class_targets.numpy().tolist() == [1, targets.BACKGROUND]


def test_a_lower_threshold_makes_more_anchors_positive():
    boxes = np.array([[5, 5, 45, 60]], np.float32)
    counts = [
        float(targets.assign(SMALL_GRID, boxes, [0], threshold)[2]) for threshold in (0.3, 0.5, 0.7)
    ]
    assert counts[0] > counts[1] > counts[2] >= 1


def test_works_in_a_pipeline_with_images_of_any_number_of_boxes():
    def samples():
        yield NO_BOXES, NO_CLASSES
        yield np.array([[5, 5, 45, 60], [0, 0, 20, 20]], np.float32), np.array([2, 0], np.int32)

    def assign(boxes, classes):
        return targets.assign(SMALL_GRID, boxes, classes)

    signature = (tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int32))
    dataset = tf.data.Dataset.from_generator(samples, output_signature=signature).map(assign)
    class_targets, box_targets, num_positives = next(iter(dataset.batch(2, drop_remainder=True)))
    assert dataset.element_spec[0].shape == [len(SMALL_GRID.boxes)]
    assert dataset.element_spec[1].shape == [len(SMALL_GRID.boxes), 4]
    counted = (class_targets.numpy() >= 0).sum(1)
    np.testing.assert_array_equal(counted, num_positives)
    np.testing.assert_array_equal(box_targets.numpy().any(2).sum(1), num_positives)
    assert counted[0] == 0 and counted[1] > 1


def test_anchors_on_ignored_boxes_are_excluded_from_the_loss():
    """Those that would be positive, including the forced one, unless matched to an object."""
    boxes = np.array([[5, 5, 45, 60], [20, 60, 60, 90], [10, 10, 12, 11]], np.float32)
    positive, _, count = targets.assign(SMALL_GRID, boxes, [3, 3, 3])
    found, box_targets, num_positives = targets.assign(SMALL_GRID, boxes, [3, -2, -2])
    alone, alone_boxes, alone_count = targets.assign(SMALL_GRID, boxes[:1], [3])
    assert num_positives == alone_count < count
    np.testing.assert_array_equal(box_targets, alone_boxes)
    expected = np.where(alone == 3, 3, np.where(positive == 3, targets.IGNORED, -1))
    np.testing.assert_array_equal(found, expected)
    # The last box is too small for any anchor but its best one.
    assert (expected == targets.IGNORED).sum() > 5


def test_an_object_keeps_its_anchors_on_an_ignored_box():
    boxes = np.array([[5, 5, 45, 60]] * 2, np.float32)
    found, _, num_positives = targets.assign(SMALL_GRID, boxes, [targets.IGNORED, 1])
    alone, _, alone_count = targets.assign(SMALL_GRID, boxes[:1], [1])
    np.testing.assert_array_equal(found, alone)
    assert num_positives == alone_count


def test_anchors_half_inside_an_ignored_region_are_excluded():
    anchor_boxes = np.array(
        [
            [0, 0, 10, 10],
            # All, half and less than half of it inside; all of it, and far too small to match.
            [20, 20, 30, 30],
            [20, 15, 30, 25],
            [20, 14, 30, 24],
            [21, 21, 22, 22],
        ],
        np.float32,
    )
    regions = np.array([[20, 20, 60, 60], [-5, -5, 0, 0]], np.float32)
    classes = [targets.IGNORED_REGION] * 2
    found, _, num_positives = targets.assign(apart(anchor_boxes), regions, classes)
    assert found.numpy().tolist() == [-1, -2, -2, -1, -2]
    assert num_positives == 0
    # An object in the crowd has positive anchors.
    both = np.concatenate([regions, anchor_boxes[1:2]])
    found, _, num_positives = targets.assign(apart(anchor_boxes), both, [*classes, 4])
    assert found.numpy().tolist() == [-1, 4, -2, -1, -2]


def test_excluded_anchors_have_no_loss():
    """Neither class loss nor box loss, whatever the predictions."""
    from efficientdet_tf.config import LossConfig
    from efficientdet_tf.losses import DetectionLoss

    boxes = np.array([[5, 5, 45, 60], [20, 60, 60, 90]], np.float32)
    class_targets, box_targets, count = targets.assign(SMALL_GRID, boxes, [0, targets.IGNORED])
    left_out = class_targets.numpy() == targets.IGNORED
    maps = {"class_targets": class_targets[None], "box_targets": box_targets[None]}
    losses = []
    for value in (-9.0, 9.0):
        logits = np.where(left_out, value, 0.5).astype(np.float32)
        deltas = np.where(left_out[:, None], value, 0.5 * np.ones(4)).astype(np.float32)
        outputs = {
            "cls_3": tf.constant(logits)[None, :, None, None],
            "box_3": tf.constant(deltas)[None, :, None],
        }
        loss = DetectionLoss(LossConfig(iou_loss="ciou"), tf.constant(SMALL_GRID.boxes))
        losses.append(loss({**maps, "num_positives": count[None]}, outputs)["detection_loss"])
    assert left_out.any() and losses[0] == losses[1] > 0


def test_without_ignored_boxes_the_shorter_way_gives_the_same():
    boxes = tf.constant([[3.0, 4, 60, 50], [10, 10, 30, 90]])
    for classes in ([2, 0], []):
        given = SMALL_GRID, boxes[: len(classes)], tf.constant(classes, tf.int32)
        results = [targets.assign(*given, 0.5, 0.4, has_ignored) for has_ignored in (True, False)]
        for one, other in zip(*results, strict=True):
            np.testing.assert_array_equal(one, other)
