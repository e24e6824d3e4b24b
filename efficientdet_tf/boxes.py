"""Boxes: conversions between their forms, areas, overlaps, and coordinates relative to anchors.

A box is [ymin, xmin, ymax, xmax], in pixels where nothing else is said. Other forms are only at
the edges: COCO's (x, y, width, height), YOLO's centre and size, fractions of the image's size.
Data and evaluation use the functions of arrays, graphs those of tensors. Layers of `keras_layers`
need nothing of this but `decode`, which is tf-models-official's.
"""

from typing import Any

import numpy as np
import tensorflow as tf


def from_xywh(x: Any, y: Any, width: Any, height: Any) -> tuple:
    """Convert COCO's form, of the top left corner and the size.

    Args:
      x, y, width, height: numbers, or arrays of equal shape, in any unit.

    Returns:
      (ymin, xmin, ymax, xmax), as the arguments are.
    """
    return y, x, y + height, x + width


def to_xywh(boxes: np.ndarray) -> np.ndarray:
    """Convert to COCO's form.

    Args:
      boxes: float [..., 4].

    Returns:
      float64 [..., 4], x, y, width, height.
    """
    ymin, xmin, ymax, xmax = np.moveaxis(np.asarray(boxes, np.float64), -1, 0)
    return np.stack([xmin, ymin, xmax - xmin, ymax - ymin], axis=-1)


def from_center(x: Any, y: Any, width: Any, height: Any) -> tuple:
    """Convert YOLO's form, of the centre and the size; arguments and result as of `from_xywh`."""
    return y - height / 2, x - width / 2, y + height / 2, x + width / 2


def to_center(boxes: np.ndarray) -> np.ndarray:
    """Convert to centres and sizes, rows first: float [..., 4], cy, cx, height, width."""
    return np.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, sizes(boxes)], axis=-1)


def to_fractions(boxes: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Convert pixels to fractions of an image's (height, width): float [..., 4]."""
    return boxes / ([*image_size] * 2)


def from_fractions(boxes: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Convert fractions of an image's (height, width) to pixels: float32 [..., 4]."""
    return boxes.astype(np.float32) * np.array([*image_size] * 2, np.float32)


def sizes(boxes: Any) -> Any:
    """Return (height, width) of each box, as large as negative: [..., 2], as `boxes` is."""
    return boxes[..., 2:] - boxes[..., :2]


def areas(boxes: np.ndarray) -> np.ndarray:
    """Return the area of each box, whose corners are in order: float [...]."""
    return np.prod(sizes(boxes), axis=-1)


def pairwise_overlaps(boxes: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how much each box overlaps each of the others.

    Args:
      boxes: float [m, 4].
      others: float [n, 4].

    Returns:
      float64 [m, n], intersection over union, and intersection over the area of
      the first; 0 for boxes without size.
    """
    boxes, others = np.asarray(boxes, float)[:, None], np.asarray(others, float)[None]
    common = np.minimum(boxes[..., 2:], others[..., 2:]) - np.maximum(
        boxes[..., :2], others[..., :2]
    )
    intersection = common.clip(0).prod(axis=-1)
    area = sizes(boxes).clip(0).prod(axis=-1)
    union = area + sizes(others).clip(0).prod(axis=-1) - intersection
    area = np.broadcast_to(area, intersection.shape)
    return tuple(
        np.divide(intersection, whole, out=np.zeros_like(intersection), where=whole > 0)
        for whole in (union, area)
    )


def encode(boxes: tf.Tensor, anchors: tf.Tensor) -> tf.Tensor:
    """Boxes relative to their anchors (R-CNN's parametrisation, without factors).

    Args:
      boxes: float32 [..., 4] in pixels.
      anchors: float32 [..., 4] in pixels, broadcastable to `boxes`.

    Returns:
      float32 [..., 4], (ty, tx, th, tw): offset of the centres in anchor sizes,
      and the logarithm of the ratio of the sizes.
    """
    # Late: it takes a second to import, and conversions need it not.
    from official.vision.ops import box_ops

    return box_ops.encode_boxes(boxes, tf.convert_to_tensor(anchors))


def decode(deltas: tf.Tensor, anchors: tf.Tensor) -> tf.Tensor:
    """The boxes that `deltas` stand for: the inverse of `encode`.

    The anchor's size grows at most by 1000 / 16, so that an untrained network
    cannot overflow.

    Args:
      deltas: float [..., 4], (ty, tx, th, tw).
      anchors: float32 [..., 4] in pixels, broadcastable to `deltas`.

    Returns:
      float32 [..., 4] boxes in pixels, not clipped to the image.
    """
    # Late: it takes a second to import, and conversions need it not.
    from official.vision.ops import box_ops

    return box_ops.decode_boxes(deltas, tf.convert_to_tensor(anchors))


def intersection_and_union(boxes: tf.Tensor, others: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the areas that pairs of boxes share and cover.

    Args:
      boxes: float32 [..., 4]; of negative size they count as empty.
      others: float32 [..., 4], the same.

    Returns:
      Two float32 [...].
    """
    common = tf.nn.relu(
        tf.minimum(boxes[..., 2:], others[..., 2:]) - tf.maximum(boxes[..., :2], others[..., :2])
    )
    intersection = tf.reduce_prod(common, axis=-1)
    area, other_area = (tf.reduce_prod(tf.nn.relu(sizes(x)), axis=-1) for x in (boxes, others))
    return intersection, area + other_area - intersection


def iou_with_box(sides: list[tf.Tensor], box: tf.Tensor) -> tf.Tensor:
    """Return the IoU of many boxes with one, both with a size: float32 [N].

    Args:
      sides: four times float32 [N], `tf.unstack(boxes, axis=1)`, which is done once for all.
      box: float32 [4].
    """
    ymin, xmin, ymax, xmax = sides
    intersection = intersection_with_box(sides, box)
    both = (ymax - ymin) * (xmax - xmin) + (box[2] - box[0]) * (box[3] - box[1])
    return intersection / (both - intersection)


def intersection_with_box(sides: list[tf.Tensor], box: tf.Tensor) -> tf.Tensor:
    """Return the area that each of many boxes shares with one; arguments as of `iou_with_box`."""
    ymin, xmin, ymax, xmax = sides
    height = tf.nn.relu(tf.minimum(ymax, box[2]) - tf.maximum(ymin, box[0]))
    width = tf.nn.relu(tf.minimum(xmax, box[3]) - tf.maximum(xmin, box[1]))
    return height * width
