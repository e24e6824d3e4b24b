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
LARGEST_SIZE_DELTA = math.log(1000.0 / 16.0)


def encode(boxes: tf.Tensor, anchors: tf.Tensor) -> tf.Tensor:
    """Encode boxes relative to their anchors.

    Args:
      boxes: float32 [..., 4], ymin, xmin, ymax, xmax in pixels.
      anchors: float32 [..., 4] in pixels, broadcastable to `boxes`.

    Returns:
      float32 [..., 4], (ty, tx, th, tw): centre offsets in anchor sizes, and
      logarithms of the size ratios.
    """
    *centers, height, width = _center_form(boxes)
    *anchor_centers, anchor_height, anchor_width = _center_form(tf.convert_to_tensor(anchors))
    sizes = [anchor_height + _EPSILON, anchor_width + _EPSILON]
    offsets = [(c - a) / size for c, a, size in zip(centers, anchor_centers, sizes)]
    ratios = [(height + _EPSILON) / sizes[0], (width + _EPSILON) / sizes[1]]
    return tf.concat([*offsets, *(tf.math.log(ratio) for ratio in ratios)], axis=-1)


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
    y, x, height, width = _center_form(tf.convert_to_tensor(anchors))
    ty, tx, th, tw = tf.split(tf.cast(deltas, y.dtype), 4, axis=-1)
    centers = [ty * height + y, tx * width + x]
    sizes = [
        tf.exp(tf.minimum(th, LARGEST_SIZE_DELTA)) * height,
        tf.exp(tf.minimum(tw, LARGEST_SIZE_DELTA)) * width,
    ]
    low = [center - 0.5 * size for center, size in zip(centers, sizes)]
    return tf.concat([*low, *(corner + size for corner, size in zip(low, sizes))], axis=-1)


def _center_form(boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the centres (y, x) and sizes (height, width) of boxes: four [..., 1].

    Column by column: in other shapes, vectorised logarithms differ in the last bit.
    """
    ymin, xmin, ymax, xmax = tf.split(boxes, 4, axis=-1)
    height, width = ymax - ymin, xmax - xmin
    return ymin + 0.5 * height, xmin + 0.5 * width, height, width
