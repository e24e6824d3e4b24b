"""Boxes: conversions and overlaps."""

import numpy as np
import tensorflow as tf

from efficientdet_tf import box_tensors, boxes

# ymin, xmin, ymax, xmax of 20 x 40 pixels in an image of 100 x 200.
BOX = np.array([[10, 30, 30, 70]], np.float32)


def test_coco_form_and_back():
    assert boxes.to_xywh(BOX).tolist() == [[30, 10, 40, 20]]
    assert boxes.from_xywh(30, 10, 40, 20) == (10, 30, 30, 70)
    assert boxes.to_xywh(np.zeros((0, 4))).shape == (0, 4)
    assert boxes.to_xywh(BOX[0]).tolist() == [30, 10, 40, 20]


def test_centre_form_and_back():
    assert boxes.to_center(BOX).tolist() == [[20, 50, 20, 40]]
    assert boxes.from_center(50, 20, 40, 20) == (10, 30, 30, 70)


def test_fractions_of_the_image_and_back():
    fractions = boxes.to_fractions(BOX, (100, 200))
    np.testing.assert_allclose(fractions, [[0.1, 0.15, 0.3, 0.35]], rtol=1e-6)
    pixels = boxes.from_fractions(fractions, (100, 200))
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, BOX, rtol=1e-6)


def test_sizes_and_areas():
    assert boxes.sizes(BOX).tolist() == [[20, 40]]
    assert boxes.sizes(tf.constant(BOX)).numpy().tolist() == [[20, 40]]
    assert boxes.areas(BOX).tolist() == [800]


def test_pairwise_iou_and_share_of_the_first():
    others = [[10, 30, 30, 70], [20, 30, 40, 70], [50, 50, 60, 60], [5, 5, 5, 5]]
    iou, covered = boxes.pairwise_overlaps(BOX, others)
    np.testing.assert_allclose(iou, [[1, 400 / 1200, 0, 0]])
    np.testing.assert_allclose(covered, [[1, 0.5, 0, 0]])


def test_overlaps_in_graphs_equal_those_of_arrays():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 50, (2, 8, 2))
    one, other = np.concatenate([low, low + rng.uniform(1, 50, low.shape)], -1).astype(np.float32)
    expected = boxes.pairwise_overlaps(one, other)[0]
    intersection, union = box_tensors.intersection_and_union(one[:, None], other[None])
    np.testing.assert_allclose(intersection / union, expected, rtol=1e-5, atol=1e-6)
    sides = tf.unstack(one, axis=1)
    for index, box in enumerate(other):
        actual = box_tensors.iou_with_box(sides, box)
        np.testing.assert_allclose(actual, expected[:, index], rtol=1e-5, atol=1e-6)
