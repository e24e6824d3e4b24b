"""Cleaned copy of checked data sets.

What can be corrected is: the order of a box's numbers, exchanged corners, and boxes that reach
beyond their image. The rest is left out: images that cannot be used, and of equal images all
but one. A box without width or height is kept as a region to ignore, because its object would
be background otherwise.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from efficientdet_tf.boxes import sizes
from efficientdet_tf.data import conversion
from efficientdet_tf.data.checks.between_images import repeated_images
from efficientdet_tf.data.checks.box_order import reordered
from efficientdet_tf.data.checks.checked_set import CheckedSet, check_set, repeated_objects
from efficientdet_tf.data.checks.result import CheckResult
from efficientdet_tf.data.conversion_losses import losses
from efficientdet_tf.data.records import DataError, DetectionData, Record


class Cleaned(NamedTuple):
    """A cleaned split.

    Attributes:
      split: "train" or "val".
      data: its images and objects.
      num_images_left_out: number of images of the original that it lacks.
      num_objects_left_out: number of objects of its images that it lacks: those annotated
        twice, and those of an unknown category.
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
    of `output`. Of an image in both splits, that of the training set is left out: the metrics
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
    # Of the images that are written: a copy of an unusable one is the only one left.
    faults = repeated_images([_usable(part) for part in result.sets])
    every = [(split, fault) for split, found in faults.items() for fault in found]
    shared = {fault.other for _, fault in every if fault.kind == "leakage"}
    # An entry that occurs twice has itself as the other.
    repeated = {
        (split, fault.image)
        for split, fault in every
        if fault.kind == "image_duplicate" and fault.image != fault.other
    }
    cleaned = []
    for part in result.sets:
        unwanted = {name for split, name in repeated if split == part.split}
        # The earlier of two equal sets.
        if part is not result.sets[-1]:
            unwanted |= shared
        cleaned.append(_clean(_in_order(part), unwanted))
    for each in cleaned:
        source = str(each.data.source)
        conversion.write_split(each.data, source, each.split, "coco", output, flag="fix")
    return cleaned


def _usable(part: CheckedSet) -> CheckedSet:
    usable = [each for each in part.images if each.record is not None]
    return dataclasses.replace(part, images=usable)


def _in_order(part: CheckedSet) -> CheckedSet:
    """Check a set again with its boxes in the order that they seem to be in."""
    if not part.box_form:
        return part
    return check_set(reordered(part.annotations, part.box_form), part.split)


def _clean(part: CheckedSet, unwanted: set[str]) -> Cleaned:
    """Leave out unusable and unwanted images, and objects that are annotated twice."""
    records: dict[str, Record] = {}
    num_objects = 0
    for each in part.images:
        name = each.image.name
        if each.record is None or name in unwanted or name in records:
            continue
        records[name] = _clean_record(each.record, each.image.boxes)
        num_objects += len(each.record.boxes) - len(records[name].boxes)
    if not records:
        raise DataError(f"{part.source}: no image is left to write to --fix")
    data = DetectionData(
        list(records.values()),
        part.label_map,
        source=part.source,
        box_only=part.annotations.box_only,
    )
    num_images = len(part.images) - len(records)
    # The copy is in COCO's format with the ids of its source.
    return Cleaned(part.split, data, num_images, num_objects, losses(data, "coco", "coco"))


def _clean_record(record: Record, annotated: np.ndarray) -> Record:
    """Return a record without repeated objects and unknown categories, its corners in order.

    Args:
      record: the record.
      annotated: float [n, 4], its boxes as annotated.
    """
    kept = record.classes >= 0
    kept[list(repeated_objects(record))] = False
    extents = sizes(annotated)
    # With ordered corners they are objects like others.
    exchanged = (extents < 0).any(axis=1) & (extents != 0).all(axis=1)
    return dataclasses.replace(
        record,
        boxes=record.boxes[kept],
        classes=record.classes[kept],
        area=record.area[kept],
        is_crowd=record.is_crowd[kept],
        is_ignored=(record.is_ignored & ~exchanged)[kept],
        is_difficult=record.is_difficult[kept],
    )
