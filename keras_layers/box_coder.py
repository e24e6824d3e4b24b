"""Coding of boxes relative to anchors: R-CNN's parametrisation, without variances.

Girshick, Donahue, Darrell, Malik, "Rich feature hierarchies for accurate object detection and
semantic segmentation", CVPR 2014, https://arxiv.org/abs/1311.2524, appendix C. In float32 equal bit
by bit to `official.vision.ops.box_ops` of tf-models-official, whose import takes a second and
100 MB in every process that detects.
"""

import math

import tensorflow as tf

# Added to sizes, so that the logarithm of an empty box is finite.
_EPSILON = 1e-8
# Largest logarithm of the ratio of a box's size to its anchor's.
_LARGEST = math.log(1000.0 / 16.0)


def encode(boxes: tf.Tensor, anchors: tf.Tensor) -> tf.Tensor:
    """Encode boxes relative to their anchors.

    Args:
      boxes: float32 [..., 4], ymin, xmin, ymax, xmax in pixels.
      anchors: float32 [..., 4] in pixels, broadcastable to `boxes`.

    Returns:
      float32 [..., 4], (ty, tx, th, tw): centre offsets in anchor sizes, and
      logarithms of the size ratios.
    """
    centres, sizes = _centres_and_sizes(boxes)
    anchor_centres, anchor_sizes = _centres_and_sizes(tf.convert_to_tensor(anchors))
    anchor_sizes += _EPSILON
    offsets = (centres - anchor_centres) / anchor_sizes
    return tf.concat([offsets, tf.math.log((sizes + _EPSILON) / anchor_sizes)], axis=-1)


def decode(deltas: tf.Tensor, anchors: tf.Tensor) -> tf.Tensor:
    """Decode boxes: the inverse of `encode`.

    Sizes are limited to 1000 / 16 times the anchor's, so that an untrained network
    cannot overflow.

    Args:
      deltas: float [..., 4], (ty, tx, th, tw).
      anchors: float32 [..., 4], ymin, xmin, ymax, xmax in pixels, broadcastable to `deltas`.

    Returns:
      float32 [..., 4] boxes in pixels, not clipped to the image.
    """
    anchor_centres, anchor_sizes = _centres_and_sizes(tf.convert_to_tensor(anchors))
    offsets, logarithms = tf.split(tf.cast(deltas, anchor_sizes.dtype), 2, axis=-1)
    centres = offsets * anchor_sizes + anchor_centres
    sizes = tf.exp(tf.minimum(logarithms, _LARGEST)) * anchor_sizes
    corners = centres - 0.5 * sizes
    return tf.concat([corners, corners + sizes], axis=-1)


def _centres_and_sizes(boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the centres (y, x) and sizes (height, width) of boxes: two [..., 2]."""
    corners, opposite = tf.split(boxes, 2, axis=-1)
    sizes = opposite - corners
    return corners + 0.5 * sizes, sizes
