"""Overlaps of boxes in graphs; those of arrays: `boxes`.

A box is [ymin, xmin, ymax, xmax] in pixels.
"""

import tensorflow as tf

from efficientdet_tf.boxes import sizes


def intersection_and_union(boxes: tf.Tensor, others: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Compute the intersection and union of pairs of boxes.

    Args:
      boxes: float32 [..., 4]; boxes of negative size count as empty.
      others: float32 [..., 4], likewise.

    Returns:
      Two float32 [...]: intersection and union.
    """
    common = tf.nn.relu(
        tf.minimum(boxes[..., 2:], others[..., 2:]) - tf.maximum(boxes[..., :2], others[..., :2])
    )
    intersection = tf.reduce_prod(common, axis=-1)
    area, other_area = (tf.reduce_prod(tf.nn.relu(sizes(x)), axis=-1) for x in (boxes, others))
    return intersection, area + other_area - intersection


def iou_with_box(sides: list[tf.Tensor], box: tf.Tensor | list[tf.Tensor]) -> tf.Tensor:
    """Compute the IoU of many boxes with one, or of pairs, all of positive size: float32 [N].

    Args:
      sides: four float32 [N], `tf.unstack(boxes, axis=1)`, so that it is done only once.
      box: float32 [4], or for pairs four float32 [N], the sides of the others.
    """
    ymin, xmin, ymax, xmax = sides
    intersection = intersection_with_box(sides, box)
    both = (ymax - ymin) * (xmax - xmin) + (box[2] - box[0]) * (box[3] - box[1])
    return intersection / (both - intersection)


def intersection_with_box(sides: list[tf.Tensor], box: tf.Tensor | list[tf.Tensor]) -> tf.Tensor:
    """Compute the intersection of many boxes with one; arguments as in `iou_with_box`."""
    ymin, xmin, ymax, xmax = sides
    height = tf.nn.relu(tf.minimum(ymax, box[2]) - tf.maximum(ymin, box[0]))
    width = tf.nn.relu(tf.minimum(xmax, box[3]) - tf.maximum(xmin, box[1]))
    return height * width
