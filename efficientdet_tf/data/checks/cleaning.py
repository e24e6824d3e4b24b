"""Cleaned copy of checked data sets.

What can be corrected is: the order of a box's numbers, exchanged corners, and boxes that reach
beyond their image. Entries of the same image file are merged. The rest is left out: images that
cannot be used, and copies of images. Images that look the same are copies only if their objects
are the same too: the next frame of a fixed camera has its own. A box without width or height is
kept as a region to ignore, because its object would be background otherwise.
"""

import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from efficientdet_tf.boxes import pairwise_overlaps, sizes, to_fractions
from efficientdet_tf.data import conversion
from efficientdet_tf.data.checks.between_images import equal_images
from efficientdet_tf.data.checks.box_order import reordered
from efficientdet_tf.data.checks.checked_set import (
    SAME_OBJECT_IOU,
    CheckedImage,
    CheckedSet,
    check_set,
    repeated_objects,
)
from efficientdet_tf.data.checks.result import CheckResult
from efficientdet_tf.data.conversion_losses import losses
from efficientdet_tf.data.leakage import content_digest
from efficientdet_tf.data.records import DataError, DetectionData, LabelMap, Record

# Most images with the same classes of a group that a further one is compared with. Groups of
# copies are smaller; those of a fixed camera's frames are not.
_MOST_COMPARED = 50
_OBJECT_FIELDS = ("boxes", "classes", "area", "is_crowd", "is_ignored", "is_difficult")


class Cleaned(NamedTuple):
    """A cleaned split.

    Attributes:
      split: "train" or "val".
      data: its images and objects.
      num_images_left_out: number of images of the original that it lacks.
      num_objects_left_out: number of objects of the original that it lacks: those of these
        images, those annotated twice, and those of an unknown category.
      lost: one line for each kind of thing that the copy does not hold, e.g. masks.
    """

    split: str
    data: DetectionData
    num_images_left_out: int
    num_objects_left_out: int
    lost: Sequence[str]


def write_cleaned(result: CheckResult, output: Path) -> list[Cleaned]:
    """Write a cleaned copy of each split in COCO's format.

    The images are hard links, or copies where links are impossible; nothing is written outside
    of `output`. Of a copy in both splits, that of the training set is left out: the metrics
    stay comparable.

    Args:
      result: result of the check.
      output: folder to write to: empty, missing, or of an earlier call for the same data.

    Returns:
      The written splits.

    Raises:
      DataError: if a split has no image left.
      OutputError: if the folder holds something else.
      WriteError: if a file cannot be written.
    """
    parts = [_usable(_in_order(part)) for part in result.sets]
    # Of the images that are written: a copy of an unusable one is the only one left.
    copies = {copy for group in equal_images(parts) for copy in _copies(group, parts[-1])}
    cleaned = [
        _without_copies(part, {name for split, name in copies if split == part.split}, original)
        for part, original in zip(parts, result.sets)
    ]
    for each in cleaned:
        source = str(each.data.source)
        conversion.write_split(each.data, source, each.split, "coco", output, flag="fix")
    return cleaned


def _in_order(part: CheckedSet) -> CheckedSet:
    """Check a set again with its boxes in the order that they seem to be in."""
    if not part.box_form:
        return part
    return check_set(reordered(part.annotations, part.box_form), part.split)


def _usable(part: CheckedSet) -> CheckedSet:
    """Return a set of its usable image files, each once, with cleaned records."""
    images: dict[str, CheckedImage] = {}
    records: dict[str, Record] = {}
    for each in part.images:
        if each.record is None:
            continue
        record, name = _corrected(each.record, each.image.boxes), each.image.name
        images.setdefault(name, each)
        # Some tools write an entry of the image for each object.
        records[name] = _merged(records[name], record) if name in records else record
    once = [each._replace(record=_without_repeated(records[name])) for name, each in images.items()]
    return dataclasses.replace(part, images=once)


def _copies(
    group: Sequence[tuple[CheckedSet, CheckedImage]], kept_first: CheckedSet
) -> list[tuple[str, str]]:
    """Find images of a group that are left out as copies of one that is kept.

    Args:
      group: (set, image) of images that look the same.
      kept_first: the set whose images are kept rather than those of others.

    Returns:
      (split, name) of those with the bytes of another file, or the same objects.
    """
    copies, digests = [], set()
    kept: dict[tuple[str, ...], list[np.ndarray]] = collections.defaultdict(list)
    for part, each in sorted(group, key=lambda pair: pair[0] is not kept_first):
        classes, boxes = _objects(each, part.label_map)
        alike = kept[tuple(classes)]
        digest = content_digest(each.image.image)
        if digest in digests or any(
            _are_same(boxes, others, classes) for others in alike[:_MOST_COMPARED]
        ):
            copies.append((part.split, each.image.name))
        else:
            alike.append(boxes)
        digests.add(digest)
    return copies


def _objects(image: CheckedImage, label_map: LabelMap) -> tuple[list[str], np.ndarray]:
    """Return the sorted class names of n objects, and their boxes as fractions, [n, 4]."""
    record = image.record
    assert record is not None, image.image.name
    names = [label_map.names[index] for index in record.classes]
    order = sorted(range(len(names)), key=names.__getitem__)
    boxes = to_fractions(record.boxes[order], (record.height, record.width))
    return [names[i] for i in order], boxes


def _are_same(boxes: np.ndarray, others: np.ndarray, classes: Sequence[str]) -> bool:
    """Tell whether each of n objects has one of the same class and box among n others."""
    names = np.array(classes)
    same = pairwise_overlaps(boxes, others)[0] > SAME_OBJECT_IOU
    same &= names[:, None] == names
    return bool(same.any(axis=0).all() and same.any(axis=1).all())


def _without_copies(part: CheckedSet, copies: set[str], original: CheckedSet) -> Cleaned:
    """Leave out copies, and count what the original has in addition."""
    images = [each for each in part.images if each.image.name not in copies]
    records = [each.record for each in images if each.record is not None]
    if not records:
        raise DataError(f"{part.source}: no image is left to write to --fix")
    data = DetectionData(
        records, part.label_map, source=part.source, box_only=part.annotations.box_only
    )
    num_images = len(original.by_name) - len(records)
    num_objects = original.num_objects - sum(len(record.boxes) for record in records)
    # The copy is in COCO's format with the ids of its source.
    return Cleaned(part.split, data, num_images, num_objects, losses(data, "coco", "coco"))


def _corrected(record: Record, annotated: np.ndarray) -> Record:
    """Return a record without unknown categories, its corners in order.

    Args:
      record: the record.
      annotated: float [n, 4], its boxes as annotated.
    """
    extents = sizes(annotated)
    # With ordered corners they are objects like others.
    exchanged = (extents < 0).any(axis=1) & (extents != 0).all(axis=1)
    record = dataclasses.replace(record, is_ignored=record.is_ignored & ~exchanged)
    return _with_objects(record, record.classes >= 0)


def _without_repeated(record: Record) -> Record:
    kept = np.ones(len(record.boxes), bool)
    kept[list(repeated_objects(record))] = False
    return _with_objects(record, kept)


def _with_objects(record: Record, kept: np.ndarray) -> Record:
    """Return a record with some of its objects, those that `kept`, bool [n], marks."""
    fields: dict[str, Any] = {field: getattr(record, field)[kept] for field in _OBJECT_FIELDS}
    return dataclasses.replace(record, **fields)


def _merged(record: Record, other: Record) -> Record:
    """Return a record with the objects of another one of the same file too.

    If the other one is annotated for another size, its boxes cannot be those of this image.
    """
    if (record.height, record.width) != (other.height, other.width):
        return record
    fields: dict[str, Any] = {
        field: np.concatenate([getattr(each, field) for each in (record, other)])
        for field in _OBJECT_FIELDS
    }
    return dataclasses.replace(record, **fields)
