"""Weighted box fusion: hand-computed cases and properties."""

import itertools

import numpy as np
import pytest

from efficientdet_tf.inference.box_fusion import weighted_box_fusion
from efficientdet_tf.inference.detections import Detections


def detections(*rows):
    """Make detections of (box, score, class index)."""
    boxes, scores, classes = zip(*rows) if rows else ((), (), ())
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(classes, np.int32),
    )


def random_detections(seed, count=30):
    """Make detections of three classes with many overlaps, best first, as after soft-NMS."""
    generator = np.random.default_rng(seed)
    corners = generator.uniform(0, 60, (count, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(5, 40, (count, 2))], axis=1)
    scores = -np.sort(-generator.uniform(0.001, 1, count))
    return Detections(
        boxes.astype(np.float32),
        scores.astype(np.float32),
        generator.integers(0, 3, count).astype(np.int32),
    )


def assert_same(found, expected):
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.class_indices, expected.class_indices)


def test_boxes_are_averaged_by_score():
    """IoU of the two boxes is 100 / 140; weights are 3/4 and 1/4."""
    found = weighted_box_fusion(
        [detections(([0, 0, 10, 10], 0.9, 1)), detections(([0, 0, 10, 14], 0.3, 1))]
    )
    np.testing.assert_allclose(found.boxes, [[0, 0, 10, 11]], atol=1e-5)
    np.testing.assert_allclose(found.scores, [0.6], atol=1e-6)
    assert found.class_indices.tolist() == [1]
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert found.class_indices.dtype == np.int32


def test_what_some_sets_lack_loses_score():
    """min(boxes, sets) / sets of the paper: 2/3 and 1/3 of the mean scores."""
    sets = [
        detections(([0, 0, 10, 10], 0.9, 0), ([50, 50, 60, 60], 0.6, 0)),
        detections(([0, 0, 10, 10], 0.6, 0)),
        detections(),
    ]
    found = weighted_box_fusion(sets)
    np.testing.assert_allclose(found.boxes, [[0, 0, 10, 10], [50, 50, 60, 60]], atol=1e-5)
    np.testing.assert_allclose(found.scores, [0.75 * 2 / 3, 0.6 / 3], atol=1e-6)


def test_a_box_is_compared_with_the_fused_box():
    """IoU of the last box is 13/27 with the first, and 0.6 with the mean of the first two."""
    first, second = ([0, 0, 10, 10], 0.6, 0), ([0, 2, 10, 12], 0.6, 0)
    sets = [detections(first), detections(second), detections(([0, 3.5, 10, 13.5], 0.3, 0))]
    found = weighted_box_fusion(sets, 0.59)
    np.testing.assert_allclose(found.boxes, [[0, 1.5, 10, 11.5]], atol=1e-5)
    np.testing.assert_allclose(found.scores, [0.5], atol=1e-6)
    # With a threshold above 0.6, it is a cluster of its own.
    found = weighted_box_fusion(sets, 0.61)
    np.testing.assert_allclose(found.boxes, [[0, 1, 10, 11], [0, 3.5, 10, 13.5]], atol=1e-5)
    np.testing.assert_allclose(found.scores, [0.4, 0.1], atol=1e-6)


def test_classes_are_kept_apart():
    found = weighted_box_fusion(
        [detections(([0, 0, 10, 10], 0.9, 0)), detections(([0, 0, 10, 10], 0.5, 2))]
    )
    assert found.class_indices.tolist() == [0, 2]
    np.testing.assert_allclose(found.scores, [0.45, 0.25], atol=1e-6)


def test_weak_boxes_of_soft_nms_do_not_lower_a_score():
    soft = detections(([0, 0, 10, 10], 0.9, 0), ([0, 0, 10, 12], 0.05, 0))
    found = weighted_box_fusion([soft, soft])
    np.testing.assert_allclose(found.scores, [0.9], atol=1e-6)
    # The mean of the four boxes by score.
    np.testing.assert_allclose(found.boxes, [[0, 0, 10, 10 + 2 * 0.05 / 0.95]], atol=1e-5)


def test_the_order_of_the_sets_does_not_matter():
    sets = [random_detections(seed) for seed in range(3)]
    # Equal scores in two sets.
    sets[2] = Detections(sets[2].boxes, sets[1].scores, sets[2].class_indices)
    expected = weighted_box_fusion(sets)
    assert 30 < len(expected) < 90
    for order in itertools.permutations(sets):
        assert_same(weighted_box_fusion(order), expected)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_identical_sets_give_the_same_detections(count):
    one = weighted_box_fusion([random_detections(4)], 0.2)
    # Boxes of one class that overlap less than the threshold.
    found = weighted_box_fusion([one] * count, 0.95)
    np.testing.assert_allclose(found.boxes, one.boxes, rtol=1e-6)
    np.testing.assert_allclose(found.scores, one.scores, rtol=1e-6)
    np.testing.assert_array_equal(found.class_indices, one.class_indices)


def test_fused_boxes_lie_within_their_cluster():
    sets = [random_detections(seed) for seed in range(4)]
    found = weighted_box_fusion(sets)
    boxes = np.concatenate([one.boxes for one in sets])
    assert (found.boxes >= boxes.min(axis=0)).all() and (found.boxes <= boxes.max(axis=0)).all()
    assert (found.scores > 0).all() and (found.scores <= 1).all()
    assert (np.diff(found.scores) <= 0).all()


def test_no_detections_and_scores_of_zero():
    assert len(weighted_box_fusion([detections(), detections()])) == 0
    zero = detections(([0, 0, 10, 10], 0.0, 0))
    found = weighted_box_fusion([zero, zero])
    assert (found.boxes.tolist(), found.scores.tolist()) == ([[0, 0, 10, 10]], [0])
