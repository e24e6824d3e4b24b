"""Coding of boxes relative to anchors."""

import numpy as np
import tensorflow as tf
from official.vision.ops import box_ops

from efficientdet_tf import anchors
from keras_layers.box_coder import decode, encode

RATIOS = (1.0, 2.0, 0.5)


def test_equal_to_the_library_bit_by_bit():
    grid = tf.constant(anchors.generate((128, 96), 3, 7, 3, RATIOS, 4.0).boxes)
    random = tf.random.Generator.from_seed(0)
    deltas = random.normal([2, *grid.shape], stddev=2.0)
    boxes = decode(deltas, grid)
    np.testing.assert_array_equal(boxes, box_ops.decode_boxes(deltas, grid))
    np.testing.assert_array_equal(encode(boxes, grid), box_ops.encode_boxes(boxes, grid))
    # Without size.
    empty = tf.repeat(grid[:, :2], 2, axis=-1)
    np.testing.assert_array_equal(encode(empty, grid), box_ops.encode_boxes(empty, grid))


def test_decode_is_the_inverse_of_encode_over_a_batch():
    grid = anchors.generate((128, 96), 3, 7, 3, RATIOS, 4.0).boxes
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 90, (2, len(grid), 2))
    given = np.concatenate([corners, corners + rng.uniform(4, 60, corners.shape)], axis=-1)
    given = given.astype(np.float32)
    decoded = decode(encode(given, grid), grid)
    np.testing.assert_allclose(decoded, given, atol=1e-3)


def test_an_anchor_relative_to_itself_is_zero():
    grid = anchors.generate((64, 64), 3, 7, 3, RATIOS, 4.0).boxes
    np.testing.assert_allclose(encode(grid, grid), 0, atol=1e-6)


def test_decode_stays_finite_for_huge_deltas():
    grid = anchors.generate((64, 64), 6, 7, 3, RATIOS, 4.0).boxes
    decoded = decode(tf.fill(grid.shape, 1e4), grid)
    assert np.isfinite(decoded).all()
