"""Checks of images and objects, common to all formats.

Unusable images are excluded (`image_verification`) and unusable objects ignored
(`object_checks`), with one line each, so that a long training neither stops at a
bad file nor learns from a wrong box.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from absl import logging
from tqdm import tqdm

from efficientdet_tf.data.annotations import AnnotatedImage, Annotations
from efficientdet_tf.data.faults import Fault
from efficientdet_tf.data.image_sources import image_column
from efficientdet_tf.data.image_verification import (
    BadImage,
    ImageVerification,
    UsableImage,
    is_decoded_first,
)
from efficientdet_tf.data.object_checks import CheckedObjects, check_objects
from efficientdet_tf.data.record_columns import RecordColumns, offsets_of
from efficientdet_tf.data.records import DataError, DetectionData

_PROBLEMS_SHOWN = 10
# Images that are checked at once.
BLOCK = 1024


def validate(
    annotations: Annotations,
    verify: str = "auto",
    strict: bool = False,
    use_difficult: bool = False,
) -> DetectionData:
    """Check every image and object, and keep the usable ones.

    Images are excluded if they are missing, cannot be decoded or do not have the
    annotated size, or if an object's box is not finite, all zeros or outside the
    image, as its position is unknown. Objects of an unknown category, or with a
    box without width or height, are ignored in training and evaluation. Boxes
    partly outside are clipped. One warning lists what is excluded or ignored, and
    one line what is clipped.

    Args:
      annotations: the data set as parsed by its reader.
      verify: "full" decodes every image once, "header" and "background" read only its
        header, "auto" decodes small sets; in all cases only new or changed files, see
        `image_verification`. Default "auto".
      strict: whether to raise at the first problem instead. Default False.
      use_difficult: whether to use objects marked as difficult in training and
        evaluation, which are otherwise ignored. Default False.

    Returns:
      The data set with its problems.

    Raises:
      DataError: if no image is usable, or at the first problem if `strict`.
    """
    blocks, problems, clipped = [], list(annotations.problems), _Clipped()
    excluded: set[int] = set()
    _raise_if(strict, problems)
    for block, found, excluded_ids in _check_all(annotations, verify, use_difficult, clipped):
        problems += found
        _raise_if(strict, found)
        excluded |= excluded_ids
        blocks.append(block)
    records = RecordColumns.concatenate(blocks)
    notes = _notes(records, clipped, use_difficult)
    if not records:
        reason = f"; the first problem: {problems[0]}" if problems else ""
        raise DataError(f"{annotations.source}: has no usable image{reason}")
    _warn(annotations.source, problems, notes)
    return DetectionData(
        records=records,
        label_map=annotations.label_map,
        problems=tuple(problems),
        source=annotations.source,
        notes=tuple(notes),
        box_only=annotations.box_only,
        excluded_ids=frozenset(excluded),
    )


class _Clipped:
    """Number of clipped boxes, and the fault of the first."""

    number = 0
    first: Fault | None = None

    def add(self, faults: Sequence[Fault]) -> None:
        """Count more clipped boxes."""
        self.number += len(faults)
        self.first = self.first or next(iter(faults), None)


def _check_all(
    annotations: Annotations, verify: str, use_difficult: bool, clipped: _Clipped
) -> Iterator[tuple[RecordColumns, list[Fault], set[int]]]:
    """Check the images block by block: usable records, all problems, ids of excluded images."""
    images = annotations.images
    decodes = is_decoded_first(verify, len(images))
    with (
        ImageVerification(decodes, has_sizes=not annotations.fractions) as verification,
        progress_bar(annotations) as bar,
    ):
        for begin in range(0, len(images), BLOCK):
            block = images[begin : begin + BLOCK]
            placed = [image for image in block if not image.unplaced]
            bar.update(len(block) - len(placed))
            found = iter(verification.verify(placed, bar.update))
            results = [unplaced_faults(image) if image.unplaced else next(found) for image in block]
            yield _check_block(block, results, annotations, use_difficult, clipped)


def progress_bar(annotations: Annotations) -> tqdm:
    """Return a progress bar over the images of a data set, shown on a terminal."""
    description = f"Checking {annotations.source}"
    return tqdm(total=len(annotations.images), desc=description, unit="image", disable=None)


def _check_block(
    images: Sequence[AnnotatedImage],
    results: Sequence[UsableImage | BadImage | list[Fault]],
    annotations: Annotations,
    use_difficult: bool,
    clipped: _Clipped,
) -> tuple[RecordColumns, list[Fault], set[int]]:
    """Check the objects of a block of verified images; returned as by `_check_all`."""
    faults: dict[int, list[Fault]] = {}
    for i, (image, result) in enumerate(zip(images, results)):
        if isinstance(result, BadImage):
            faults[i] = [image_fault(image, result)]
        elif isinstance(result, list):
            faults[i] = result
    readable = [i for i in range(len(images)) if i not in faults]
    usable = [result for result in results if isinstance(result, UsableImage)]
    kept_images = [images[i] for i in readable]
    sizes = np.array([image.size for image in usable], np.int32).reshape(-1, 2)
    objects = check_objects(kept_images, annotations, sizes, use_difficult)
    for position, found in [*objects.problems.items(), *objects.unplaced.items()]:
        # An image of an object without position is excluded: its other problems do not matter.
        faults[readable[position]] = found
    is_kept = np.array([i not in objects.unplaced for i in range(len(kept_images))], bool)
    for position, found in objects.clipped.items():
        if is_kept[position]:
            clipped.add(found)
    apply_exif = np.array([image.apply_exif for image in usable], bool)
    records = make_records(kept_images, sizes, apply_exif, objects, is_kept)
    kept_ids = {image.image_id for image, kept in zip(kept_images, is_kept) if kept}
    excluded = {image.image_id for image in images} - kept_ids
    return records, [fault for i in sorted(faults) for fault in faults[i]], excluded


def unplaced_faults(image: AnnotatedImage) -> list[Fault]:
    """List the faults of the objects that the reader could not place."""
    return [
        Fault.parse("box_unreadable", f"{problem}; image excluded", image.name)
        for problem in image.unplaced
    ]


def image_fault(image: AnnotatedImage, error: BadImage) -> Fault:
    """Return the fault of an image that cannot be used."""
    return Fault(error.kind, f"{image.name}: {error}", file=image.name, image=image.name)


def make_records(
    images: list[AnnotatedImage],
    sizes: np.ndarray,
    apply_exif: np.ndarray,
    objects: CheckedObjects,
    is_kept: np.ndarray,
) -> RecordColumns:
    """Build the records of the kept images, and of their objects."""
    kept = np.flatnonzero(is_kept).tolist()
    of_kept = is_kept[objects.owners]
    return RecordColumns(
        images=image_column([images[i].image for i in kept]),
        names=[images[i].name for i in kept],
        image_ids=np.array([images[i].image_id for i in kept], np.int64),
        sizes=sizes[is_kept],
        apply_exif=apply_exif[is_kept],
        offsets=offsets_of(np.bincount(objects.owners, minlength=len(images))[is_kept]),
        boxes=objects.boxes[of_kept],
        classes=objects.classes[of_kept],
        is_crowd=objects.is_crowd[of_kept],
        area=objects.area[of_kept],
        is_ignored=objects.is_ignored[of_kept],
        is_difficult=objects.is_difficult[of_kept],
    )


def _raise_if(strict: bool, problems: Sequence[str]) -> None:
    if strict and problems:
        raise DataError(problems[0])


def _notes(records: RecordColumns, clipped: _Clipped, use_difficult: bool) -> list[str]:
    """Return remarks on the objects that are no errors."""
    notes = []
    if clipped.first is not None:
        name = f"{clipped.first.file}: {clipped.first.place}"
        first = f"1 box reaches beyond its image and was clipped: {name}"
        many = f"{clipped.number} boxes reach beyond their images and were clipped; "
        notes.append(first if clipped.number == 1 else f"{many}the first is {name}")
    difficult = int(records.is_difficult.sum())
    if difficult and not use_difficult:
        count = "1 difficult object is" if difficult == 1 else f"{difficult} difficult objects are"
        notes.append(
            f"{count} ignored in training and evaluation; data.use_difficult=true counts them"
        )
    return notes


def _warn(source: str, problems: list[str], notes: list[str]) -> None:
    if problems:
        lines = problems[:_PROBLEMS_SHOWN]
        if len(problems) > len(lines):
            lines.append(f"... and {len(problems) - len(lines)} more")
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        logging.warning("%s: %s, excluded or ignored:\n  %s", source, count, "\n  ".join(lines))
    for note in notes:
        logging.warning("%s: %s", source, note)
