"""Checks of annotated objects, common to all formats.

An object that is merely dropped from its image is trained as background, and a
detection of it counts as a false positive. So an annotated object that cannot be
used is ignored if its position is known: its anchors are excluded from the loss,
and detections of it are not counted. If its position is unknown, the whole image
is excluded.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from efficientdet_tf.boxes import areas, from_fractions
from efficientdet_tf.data.annotations import AnnotatedImage, Annotations

_IGNORED = "ignored in training and evaluation"
_EXCLUDED = "image excluded"
# Rounding puts many boxes slightly outside the image: not worth a note.
_CLIPPED_PIXELS = 1.0


@dataclasses.dataclass(frozen=True)
class CheckedObjects:
    """The checked objects of a block of images, and their problems.

    Attributes:
      owners: int64 [n], index of each object's image, ascending.
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels, clipped to the image.
      classes: int32 [n], class indices, -1 for an unknown category.
      is_crowd, is_ignored, is_difficult: bool [n], see `records.Record`.
      area: float32 [n], in pixels.
      is_clipped: bool [n], whether the box exceeds the image.
      problems: by index of the image, one line for each object ignored because of an error.
      unplaced: the same for each object of unknown position. Such an image must be
        excluded, and its objects are meaningless.
    """

    owners: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    is_crowd: np.ndarray
    is_ignored: np.ndarray
    is_difficult: np.ndarray
    area: np.ndarray
    is_clipped: np.ndarray
    problems: dict[int, list[str]]
    unplaced: dict[int, list[str]]


def check_objects(
    images: Sequence[AnnotatedImage],
    annotations: Annotations,
    sizes: np.ndarray,
    use_difficult: bool,
) -> CheckedObjects:
    """Check every object of a block of images at once.

    A box with swapped corners or without width or height gets sorted corners and
    sides of at least one pixel: its position is known no better.

    Args:
      images: the images and their objects as parsed by the reader.
      annotations: the data set that contains the images.
      sizes: int32 [len(images), 2], height and width of each image in pixels.
      use_difficult: whether objects marked as difficult are used in training and
        evaluation.
    """
    counts = [len(image.boxes) for image in images]
    owners = np.repeat(np.arange(len(images)), counts)
    given = np.concatenate([np.zeros((0, 4)), *(image.boxes for image in images)])
    if annotations.fractions:
        given = from_fractions(given, sizes[owners])
    given = given.astype(np.float32)
    has_area = _have_area(given)
    boxes = np.where(has_area[:, None], given, _widened(given))
    clipped = np.clip(boxes, 0, np.tile(sizes[owners], 2).astype(np.float32))
    classes = np.array(
        [annotations.class_indices.get(label, -1) for image in images for label in image.labels],
        np.int32,
    )
    is_difficult = _per_object([image.is_difficult for image in images], counts, bool)
    annotated_area = _per_object([image.area for image in images], counts, np.float32)
    not_placed = (
        (~np.isfinite(given).all(axis=1), annotations.box_field, "is not finite"),
        # Many tools write a missing box this way.
        (~given.any(axis=1), annotations.box_field, "is all zeros"),
        (~_have_area(clipped), annotations.box_field, "lies outside the image of {size}"),
    )
    not_used = (
        (~has_area, annotations.box_field, "has no width or no height"),
        (classes < 0, annotations.label_field, "{label!r} is not a known category"),
    )
    faulty = _Faulty(images, annotations, owners, sizes)
    return CheckedObjects(
        owners=owners,
        boxes=clipped,
        classes=classes,
        is_crowd=_per_object([image.is_crowd for image in images], counts, bool),
        is_ignored=~has_area | (classes < 0) | (is_difficult & (not use_difficult)),
        is_difficult=is_difficult,
        # The box area where none is annotated.
        area=np.where(annotated_area > 0, annotated_area, areas(boxes)).astype(np.float32),
        is_clipped=(np.abs(boxes - clipped) > _CLIPPED_PIXELS).any(axis=1),
        problems=faulty.lines(not_used, _IGNORED),
        unplaced=faulty.lines(not_placed, _EXCLUDED),
    )


@dataclasses.dataclass(frozen=True)
class _Faulty:
    """Descriptions of faulty objects of a block of images."""

    images: Sequence[AnnotatedImage]
    annotations: Annotations
    owners: np.ndarray
    sizes: np.ndarray

    def lines(self, faults: tuple, consequence: str) -> dict[int, list[str]]:
        """Describe the first fault of each faulty object, by index of the image."""
        lines: dict[int, list[str]] = {}
        for i in np.flatnonzero(np.any([found for found, _, _ in faults], axis=0)).tolist():
            owner = int(self.owners[i])
            image, index = self.images[owner], i - int(np.searchsorted(self.owners, owner))
            field, reason = next((field, reason) for found, field, reason in faults if found[i])
            height, width = self.sizes[owner].tolist()
            reason = reason.format(label=image.labels[index], size=f"{width} x {height} pixels")
            name = object_name(image, self.annotations, index)
            lines.setdefault(owner, []).append(f"{name}: {field}: {reason}; {consequence}")
        return lines


def object_name(image: AnnotatedImage, annotations: Annotations, index: int) -> str:
    """Name an object of an image in messages."""
    return f"{image.annotation_file}: {annotations.object_word} {image.numbers[index]}"


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


def _per_object(values: Sequence[Sequence], counts: Sequence[int], dtype: type) -> np.ndarray:
    """Concatenate the values of all images; an image without values has zeros."""
    filled: list[np.ndarray] = [
        np.asarray(given, dtype) if len(given) else np.zeros(count, dtype)
        for given, count in zip(values, counts)
    ]
    return np.concatenate([np.zeros(0, dtype), *filled])
