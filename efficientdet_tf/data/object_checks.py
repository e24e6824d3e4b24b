"""Which objects of an image are learned and counted, for all formats alike.

An object that is only left out of its image is trained as background, and a
detection of it counts as a false positive. So an object that is annotated but
cannot be used is ignored where its place is known: its anchors are left out of
the loss, and detections of it are not counted. Where nobody can tell its place,
its whole image has to be left out.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from efficientdet_tf.boxes import areas, from_fractions
from efficientdet_tf.data.annotations import AnnotatedImage, Annotations

_IGNORED = "ignored in training and evaluation"
_LEFT_OUT = "its image is left out"
# Rounding puts many boxes a little outside: those are no news.
_CLIPPED_PIXELS = 1.0


@dataclasses.dataclass(frozen=True)
class CheckedObjects:
    """The objects of an image as its record holds them, and what is wrong with them.

    Attributes:
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels, clipped to the image.
      classes: int32 [n], class indices, -1 for an unknown category.
      is_crowd, is_ignored, is_difficult: bool [n], see `records.Record`.
      area: float32 [n], in pixels.
      problems: one line for each object that is ignored because something is wrong.
      unplaced: one line for each object whose place cannot be told. Where there
        is one, the arrays mean nothing and the image has to be left out.
      clipped: names of the objects whose box reaches beyond the image.
    """

    boxes: np.ndarray
    classes: np.ndarray
    is_crowd: np.ndarray
    is_ignored: np.ndarray
    is_difficult: np.ndarray
    area: np.ndarray
    problems: list[str]
    unplaced: list[str]
    clipped: list[str]


def check_objects(
    image: AnnotatedImage, annotations: Annotations, size: tuple[int, int], use_difficult: bool
) -> CheckedObjects:
    """Check every object of an image.

    A box whose corners are swapped or that has no width or no height is sorted
    and widened to a pixel: that is as much as is known of its place.

    Args:
      image: the objects as the reader gives them.
      annotations: the data set of the image.
      size: (height, width) of the image in pixels.
      use_difficult: whether objects marked as difficult are learned and counted.
    """
    limit = np.array([*size, *size], np.float32)
    given = from_fractions(image.boxes, size) if annotations.fractions else image.boxes
    given = given.astype(np.float32)
    has_area = _have_area(given)
    boxes = np.where(has_area[:, None], given, _widened(given))
    clipped = np.clip(boxes, 0, limit)
    classes = np.array([annotations.class_indices.get(label, -1) for label in image.labels])
    is_difficult = _per_object(image.is_difficult, len(boxes), bool)
    not_placed = (
        (~np.isfinite(given).all(axis=1), annotations.box_field, "is not finite"),
        # How many tools write that there is no box.
        (~given.any(axis=1), annotations.box_field, "is all zeros"),
        (~_have_area(clipped), annotations.box_field, f"lies outside the image of {_text(size)}"),
    )
    not_used = (
        (~has_area, annotations.box_field, "has no width or no height"),
        (classes < 0, annotations.label_field, "{label!r} is not a known category"),
    )
    beyond = (np.abs(boxes - clipped) > _CLIPPED_PIXELS).any(axis=1)
    return CheckedObjects(
        boxes=clipped,
        classes=classes.astype(np.int32),
        is_crowd=_per_object(image.is_crowd, len(boxes), bool),
        is_ignored=~has_area | (classes < 0) | (is_difficult & (not use_difficult)),
        is_difficult=is_difficult,
        area=_areas(image, boxes),
        problems=_lines(image, annotations, not_used, _IGNORED),
        unplaced=_lines(image, annotations, not_placed, _LEFT_OUT),
        clipped=[_name(image, annotations, i) for i in np.flatnonzero(beyond).tolist()],
    )


def _lines(
    image: AnnotatedImage, annotations: Annotations, faults: tuple, consequence: str
) -> list[str]:
    """One line for each object that has one of the faults, naming the first one."""
    lines = []
    for i in np.flatnonzero(np.any([found for found, _, _ in faults], axis=0)).tolist():
        field, reason = next((field, reason) for found, field, reason in faults if found[i])
        reason = reason.format(label=image.labels[i])
        lines.append(f"{_name(image, annotations, i)}: {field}: {reason}; {consequence}")
    return lines


def _name(image: AnnotatedImage, annotations: Annotations, index: int) -> str:
    return f"{image.annotation_file}: {annotations.object_word} {image.numbers[index]}"


def _have_area(boxes: np.ndarray) -> np.ndarray:
    return np.all(boxes[:, 2:] > boxes[:, :2], axis=1)


def _widened(boxes: np.ndarray) -> np.ndarray:
    """The boxes with their corners in order, and sides of at least one pixel."""
    low = np.minimum(boxes[:, :2], boxes[:, 2:])
    high = np.maximum(boxes[:, :2], boxes[:, 2:])
    # An infinite side has no middle; such a box is left out anyway.
    with np.errstate(invalid="ignore"):
        missing = np.maximum(0, 1 - (high - low)) / 2
    return np.concatenate([low - missing, high + missing], axis=1).astype(np.float32)


def _areas(image: AnnotatedImage, boxes: np.ndarray) -> np.ndarray:
    """The annotated areas, and that of the box where there is none: float32 [n]."""
    of_box = areas(boxes)
    annotated = _per_object(image.area, len(boxes), np.float32)
    return np.where(annotated > 0, annotated, of_box).astype(np.float32)


def _per_object(values: Sequence, count: int, dtype: type) -> np.ndarray:
    return np.array(values if len(values) else [0] * count, dtype)


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]} pixels"
