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
from efficientdet_tf.data.image_verification import size_text

_IGNORED = "ignored in training and evaluation"
_EXCLUDED = "image excluded"
_CLIPPED = "clipped"
# Rounding puts many boxes slightly outside the image: not worth a note.
_CLIPPED_PIXELS = 1.0

# By index of the image.
Faults = dict[int, list[Fault]]


@dataclasses.dataclass(frozen=True)
class CheckedObjects:
    """The checked objects of a block of images, and their problems.

    Attributes:
      owners: int64 [n], index of each object's image, ascending.
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels, clipped to the image.
      classes: int32 [n], class indices, -1 for an unknown category.
      is_crowd, is_ignored, is_difficult: bool [n], see `records.Record`.
      area: float32 [n], in pixels.
      problems: by index of the image, a fault for each object ignored because of an error.
      unplaced: the same for each object of unknown position. Such an image must be
        excluded, and its objects are meaningless.
      clipped: the same for each object whose box exceeds the image.
    """

    owners: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    is_crowd: np.ndarray
    is_ignored: np.ndarray
    is_difficult: np.ndarray
    area: np.ndarray
    problems: Faults
    unplaced: Faults
    clipped: Faults


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
    limits = np.tile(sizes[owners], 2).astype(np.float32)
    clipped = np.clip(boxes, 0, limits)
    classes = np.array(
        [annotations.class_indices.get(label, -1) for image in images for label in image.labels],
        np.int32,
    )
    is_unknown = classes < 0
    if annotations.ignored_labels:
        labels = [label for image in images for label in image.labels]
        is_unknown &= np.array([x not in annotations.ignored_labels for x in labels], bool)
    is_difficult = _per_object([image.is_difficult for image in images], counts, bool)
    annotated_area = _per_object([image.area for image in images], counts, np.float32)
    box, label = annotations.box_field, annotations.label_field
    not_placed = [
        _Check(~np.isfinite(given).all(axis=1), "box_not_finite", box, "is not finite"),
        # Many tools write a missing box this way.
        _Check(~given.any(axis=1), "box_all_zero", box, "is all zeros"),
        _Check(~_have_area(clipped), "box_outside", box, "lies outside the image of {size}"),
    ]
    is_placed = ~np.any([check.found for check in not_placed], axis=0)
    flat = "has no width or no height"
    not_used = [
        _Check((given[:, 2:] < given[:, :2]).any(axis=1), "box_negative", box, flat),
        _Check(~has_area, "box_empty", box, flat),
        _Check(is_unknown, "category_unknown", label, "{label!r} is not a known category"),
    ]
    is_beyond = (np.abs(boxes - clipped) > _CLIPPED_PIXELS).any(axis=1)
    is_far = is_beyond & ((given < -limits) | (given > 2 * limits)).any(axis=1)
    reaching = [
        _Check(is_far, "box_far_outside", box, "reaches far beyond the image of {size}"),
        _Check(is_beyond, "box_beyond", box, "reaches beyond the image of {size}"),
    ]
    faulty = _Faulty(images, annotations, owners, sizes, given)
    return CheckedObjects(
        owners=owners,
        boxes=clipped,
        classes=classes,
        is_crowd=_per_object([image.is_crowd for image in images], counts, bool),
        is_ignored=~has_area | (classes < 0) | (is_difficult & (not use_difficult)),
        is_difficult=is_difficult,
        # The box area where none is annotated.
        area=np.where(annotated_area > 0, annotated_area, areas(boxes)).astype(np.float32),
        problems=faulty.describe(not_used, _IGNORED, is_placed),
        unplaced=faulty.describe(not_placed, _EXCLUDED),
        clipped=faulty.describe(reaching, _CLIPPED, is_placed),
    )


class _Check(NamedTuple):
    """A check of objects: bool [n] of the faulty ones, kind of fault, field, and fact."""

    found: Any
    kind: str
    field: str
    fact: str


@dataclasses.dataclass(frozen=True)
class _Faulty:
    """Descriptions of faulty objects of a block of images."""

    images: Sequence[AnnotatedImage]
    annotations: Annotations
    owners: np.ndarray
    sizes: np.ndarray
    boxes: np.ndarray

    def describe(
        self, checks: Sequence[_Check], consequence: str, among: np.ndarray | bool = True
    ) -> Faults:
        """Describe the first fault of each faulty object, `among` those marked: bool [n]."""
        faults: Faults = {}
        is_faulty = np.any([check.found for check in checks], axis=0) & among
        for i in np.flatnonzero(is_faulty).tolist():
            check = next(check for check in checks if check.found[i])
            owner = int(self.owners[i])
            faults.setdefault(owner, []).append(self._fault(i, owner, check, consequence))
        return faults

    def _fault(self, i: int, owner: int, check: _Check, consequence: str) -> Fault:
        image, index = self.images[owner], i - int(np.searchsorted(self.owners, owner))
        size = size_text(tuple(self.sizes[owner].tolist()))
        fact = check.fact.format(label=image.labels[index], size=size)
        place = f"{self.annotations.object_word} {image.numbers[index]}"
        file, field = image.annotation_file, check.field
        line = f"{file}: {place}: {field}: {fact}; {consequence}"
        where = {"file": file, "place": place, "field": field, "image": image.name}
        return Fault(check.kind, line, box=self.boxes[i], **where)


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
