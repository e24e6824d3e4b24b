"""Assignment of anchors against the published one, and what it promises."""

import numpy as np
import pytest
import tensorflow as tf

from efficientdet_tf import anchors, targets

GRID = anchors.generate((512, 512), 3, 7, 3, (1.0, 2.0, 0.5), 4.0)
SMALL_GRID = anchors.generate((64, 96), 3, 7, 3, (1.0, 2.0, 0.5), 4.0)
NO_BOXES = np.zeros((0, 4), np.float32)
NO_CLASSES = np.zeros(0, np.int32)


@pytest.mark.parametrize(
    "index", range(8), ids="many one none tiny border overlap huge slim".split()
)
def test_targets_equal_the_published_ones(goldens, index):
    golden = np.load(goldens / "labels.npz")
    classes = golden[f"classes_{index}"][:, 0].astype(np.int32) - 1
    class_targets, box_targets, num_positives = targets.assign(
        GRID, golden[f"boxes_{index}"], classes
    )
    assert num_positives.numpy() == golden[f"num_positives_{index}"]
    maps = targets.by_level(class_targets, box_targets, (512, 512), 3, 7)
    assert len(maps) == 10
    for level in range(3, 8):
        np.testing.assert_array_equal(
            maps[f"cls_{level}"], golden[f"cls_targets_{index}_level{level}"]
        )
        np.testing.assert_allclose(
            maps[f"box_{level}"], golden[f"box_targets_{index}_level{level}"], rtol=0, atol=1e-5
        )


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
    decoded = anchors.decode(box_targets.numpy()[positive], SMALL_GRID[positive])
    np.testing.assert_allclose(decoded, boxes, atol=1e-4)


def test_an_anchor_forced_by_two_boxes_goes_to_the_first():
    boxes = np.array([[10, 10, 12, 12], [10, 10, 12, 12]], np.float32)
    class_targets, _, num_positives = targets.assign(SMALL_GRID, boxes, [4, 2])
    assert num_positives.numpy() == 1
    assert class_targets.numpy().max() == 4


def test_a_forced_anchor_overrides_a_better_match():
    # The only anchor near both boxes fits the second one exactly.
    anchor = np.array([[0, 0, 100, 100], [200, 200, 300, 300]], np.float32)
    boxes = np.array([[0, 0, 30, 30], [0, 0, 100, 100]], np.float32)
    class_targets, _, _ = targets.assign(anchor, boxes, [1, 0])
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

    def maps(boxes, classes):
        class_targets, box_targets, num_positives = targets.assign(SMALL_GRID, boxes, classes)
        split = targets.by_level(class_targets, box_targets, (64, 96), 3, 7)
        return {**split, "num_positives": num_positives}

    signature = (tf.TensorSpec([None, 4]), tf.TensorSpec([None], tf.int32))
    dataset = tf.data.Dataset.from_generator(samples, output_signature=signature).map(maps)
    batch = next(iter(dataset.batch(2, drop_remainder=True)))
    assert dataset.element_spec["cls_3"].shape == [8, 12, 9]
    assert dataset.element_spec["box_7"].shape == [1, 1, 36]
    counted = sum((batch[f"cls_{level}"].numpy() >= 0).sum((1, 2, 3)) for level in range(3, 8))
    np.testing.assert_array_equal(counted, batch["num_positives"])
    assert counted[0] == 0 and counted[1] > 1
