"""Checks of annotated objects, common to all formats.

An object that is merely dropped from its image is trained as background, and a
detection of it counts as a false positive. So an annotated object that cannot be
used is ignored if its position is known: its anchors are excluded from the loss,
and detections of it are not counted. If its position is unknown, the whole image
is excluded.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from efficientdet_tf.boxes import areas, from_fractions
from efficientdet_tf.data.annotations import AnnotatedImage, Annotations
from efficientdet_tf.data.faults import Fault

_IGNORED = "ignored in training and evaluation"
_EXCLUDED = "image excluded"
_CLIPPED = "clipped"
# Rounding puts many boxes slightly outside the image: not worth a note.
_CLIPPED_PIXELS = 1.0


@dataclasses.dataclass(frozen=True)
class CheckedObjects:
    """The checked objects of an image, and their problems.

    Attributes:
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels, clipped to the image.
      classes: int32 [n], class indices, -1 for an unknown category.
      is_crowd, is_ignored, is_difficult: bool [n], see `records.Record`.
      area: float32 [n], in pixels.
      problems: a fault for each object ignored because of an error.
      unplaced: a fault for each object of unknown position. If not empty, the
        arrays are meaningless and the image must be excluded.
      clipped: a fault for each object whose box exceeds the image.
    """

    boxes: np.ndarray
    classes: np.ndarray
    is_crowd: np.ndarray
    is_ignored: np.ndarray
    is_difficult: np.ndarray
    area: np.ndarray
    problems: list[Fault]
    unplaced: list[Fault]
    clipped: list[Fault]


def check_objects(
    image: AnnotatedImage, annotations: Annotations, size: tuple[int, int], use_difficult: bool
) -> CheckedObjects:
    """Check every object of an image.

    A box with swapped corners or without width or height gets sorted corners and
    sides of at least one pixel: its position is known no better.

    Args:
      image: the image and its objects as parsed by the reader.
      annotations: the data set that contains the image.
      size: (height, width) of the image in pixels.
      use_difficult: whether objects marked as difficult are used in training and
        evaluation.
    """
    limit = np.array([*size, *size], np.float32)
    given = from_fractions(image.boxes, size) if annotations.fractions else image.boxes
    given = given.astype(np.float32)
    has_area = _have_area(given)
    boxes = np.where(has_area[:, None], given, _widened(given))
    clipped = np.clip(boxes, 0, limit)
    classes = np.array([annotations.class_indices.get(label, -1) for label in image.labels])
    is_difficult = _per_object(image.is_difficult, len(boxes), bool)
    extent, is_far = f"the image of {_text(size)}", _are_far_beyond(given, limit)
    box, label = annotations.box_field, annotations.label_field
    not_placed = [
        _Check(~np.all(np.isfinite(given), axis=1), "box_not_finite", box, "is not finite"),
        # Many tools write a missing box this way.
        _Check(~given.any(axis=1), "box_all_zero", box, "is all zeros"),
        _Check(~_have_area(clipped), "box_outside", box, f"lies outside {extent}"),
    ]
    placed = ~np.any([check.found for check in not_placed], axis=0)
    flat = "has no width or no height"
    not_used = [
        _Check(np.any(given[:, 2:] < given[:, :2], axis=1), "box_negative", box, flat),
        _Check(~has_area, "box_empty", box, flat),
        _Check(classes < 0, "category_unknown", label, "{label!r} is not a known category"),
    ]
    beyond = (np.abs(boxes - clipped) > _CLIPPED_PIXELS).any(axis=1)
    reaches = [
        _Check(beyond & is_far, "box_far_outside", box, f"reaches far beyond {extent}"),
        _Check(beyond, "box_beyond", box, f"reaches beyond {extent}"),
    ]
    return CheckedObjects(
        boxes=clipped,
        classes=classes.astype(np.int32),
        is_crowd=_per_object(image.is_crowd, len(boxes), bool),
        is_ignored=~has_area | (classes < 0) | (is_difficult & (not use_difficult)),
        is_difficult=is_difficult,
        area=_areas(image, boxes),
        problems=_faults(image, annotations, given, not_used, _IGNORED, placed),
        unplaced=_faults(image, annotations, given, not_placed, _EXCLUDED),
        clipped=_faults(image, annotations, given, reaches, _CLIPPED, placed),
    )


class _Check(NamedTuple):
    """A check of objects: bool [n] of the faulty ones, kind of fault, field, and fact."""

    found: Any
    kind: str
    field: str
    fact: str


def _faults(
    image: AnnotatedImage,
    annotations: Annotations,
    boxes: np.ndarray,
    checks: Sequence[_Check],
    consequence: str,
    among: np.ndarray | bool = True,
) -> list[Fault]:
    """List the first fault of each faulty object, `among` those marked: bool [n]."""
    faults = []
    faulty = np.any([check.found for check in checks], axis=0) & among
    for i in np.flatnonzero(faulty).tolist():
        check = next(check for check in checks if check.found[i])
        fact = check.fact.format(label=image.labels[i])
        place = f"{annotations.object_word} {image.numbers[i]}"
        line = f"{image.annotation_file}: {place}: {check.field}: {fact}; {consequence}"
        where = {"file": image.annotation_file, "place": place, "field": check.field}
        faults.append(Fault(check.kind, line, image=image.name, box=boxes[i], **where))
    return faults


def _are_far_beyond(boxes: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Tell which boxes reach more than an image's side beyond it: bool [n]."""
    return np.any((boxes < -limit) | (boxes > 2 * limit), axis=1)


def _have_area(boxes: np.ndarray) -> np.ndarray:
    return np.all(boxes[:, 2:] > boxes[:, :2], axis=1)


def _widened(boxes: np.ndarray) -> np.ndarray:
    """Sort the corners of boxes and widen their sides to at least one pixel."""
    low = np.minimum(boxes[:, :2], boxes[:, 2:])
    high = np.maximum(boxes[:, :2], boxes[:, 2:])
    # An infinite side has no middle; such a box is excluded anyway.
    with np.errstate(invalid="ignore"):
        missing = np.maximum(0, 1 - (high - low)) / 2
    return np.concatenate([low - missing, high + missing], axis=1).astype(np.float32)


def _areas(image: AnnotatedImage, boxes: np.ndarray) -> np.ndarray:
    """Return the annotated areas, or the box area if missing: float32 [n]."""
    of_box = areas(boxes)
    annotated = _per_object(image.area, len(boxes), np.float32)
    return np.where(annotated > 0, annotated, of_box).astype(np.float32)


def _per_object(values: Sequence, count: int, dtype: type) -> np.ndarray:
    return np.array(values if len(values) else [0] * count, dtype)


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]} pixels"
