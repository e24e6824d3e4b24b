"""Boxes: conversions, areas and overlaps.

A box is [ymin, xmin, ymax, xmax], in pixels unless stated otherwise. Other forms appear only at
the edges: COCO's (x, y, width, height), YOLO's centre and size, fractions of the image size.
Overlaps in graphs: `box_tensors`. Boxes relative to anchors: `keras_layers.box_coder`.
"""

from typing import Any

import numpy as np


def from_xywh(x: Any, y: Any, width: Any, height: Any) -> tuple:
    """Convert from COCO's form: top-left corner and size.

    Args:
      x, y, width, height: numbers, or arrays of equal shape, in any unit.

    Returns:
      (ymin, xmin, ymax, xmax), of the same type as the arguments.
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
    """Convert from YOLO's form: centre and size; arguments and result as in `from_xywh`."""
    return y - height / 2, x - width / 2, y + height / 2, x + width / 2


def to_center(boxes: np.ndarray) -> np.ndarray:
    """Convert to centres and sizes, rows first: float [..., 4], cy, cx, height, width."""
    return np.concatenate([(boxes[..., :2] + boxes[..., 2:]) / 2, sizes(boxes)], axis=-1)


def to_fractions(boxes: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Convert pixels to fractions of an image's (height, width): float [..., 4]."""
    return boxes / ([*image_size] * 2)


def from_fractions(boxes: np.ndarray, image_size: tuple[int, int] | np.ndarray) -> np.ndarray:
    """Convert fractions of an image's (height, width) to pixels: float32 [..., 4].

    Args:
      boxes: float [..., 4].
      image_size: of all boxes, or of each: [..., 2].
    """
    return boxes.astype(np.float32) * np.tile(np.asarray(image_size, np.float32), 2)


def sizes(boxes: Any) -> Any:
    """Return (height, width) of each box, may be negative: [..., 2], of the type of `boxes`."""
    return boxes[..., 2:] - boxes[..., :2]


def areas(boxes: np.ndarray) -> np.ndarray:
    """Return the area of each box with ordered corners: float [...]."""
    return np.prod(sizes(boxes), axis=-1)


def pairwise_overlaps(boxes: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the pairwise overlaps of boxes.

    Args:
      boxes: float [m, 4].
      others: float [n, 4].

    Returns:
      Two float64 [m, n]: intersection over union, and intersection over the area of
      `boxes`; 0 for boxes without size.
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
