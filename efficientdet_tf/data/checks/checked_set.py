"""Check of one data set: every file and every object."""

import dataclasses
import os
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image

from efficientdet_tf.boxes import from_fractions, pairwise_overlaps
from efficientdet_tf.data.annotations import AnnotatedImage, Annotations
from efficientdet_tf.data.checks.box_order import guess_box_order
from efficientdet_tf.data.checks.image_properties import Fingerprint, image_properties
from efficientdet_tf.data.faults import Fault
from efficientdet_tf.data.image_verification import BadImage, ImageVerification, UsableImage
from efficientdet_tf.data.object_checks import check_objects
from efficientdet_tf.data.records import LabelMap, Record
from efficientdet_tf.data.validation import (
    BLOCK,
    image_fault,
    make_records,
    progress_bar,
    unplaced_faults,
)

# IoU from which two boxes of a class are taken for the same object.
SAME_OBJECT_IOU = 0.9


class CheckedImage(NamedTuple):
    """Result of the check of one image.

    Attributes:
      image: the image as annotated.
      faults: its faults.
      size: (height, width) in pixels that its boxes refer to; None if unknown.
      record: its record; None if training would exclude it.
      apply_exif: whether its EXIF orientation is applied.
      fingerprint: its fingerprint; None if it has none.
    """

    image: AnnotatedImage
    faults: list[Fault]
    size: tuple[int, int] | None
    record: Record | None
    apply_exif: bool
    fingerprint: Fingerprint | None


@dataclasses.dataclass(frozen=True)
class CheckedSet:
    """Result of the check of a data set.

    Attributes:
      split: "train" or "val".
      annotations: the data set as parsed.
      images: its images, those without a usable entry left out.
      faults: its faults.
      box_form: order that its boxes seem to be in, if it is not the format's; else "".
    """

    split: str
    annotations: Annotations
    images: list[CheckedImage]
    faults: list[Fault]
    box_form: str = ""

    @property
    def source(self) -> str:
        """Name of the data set in messages."""
        return self.annotations.source

    @property
    def label_map(self) -> LabelMap:
        """Categories of the data set."""
        return self.annotations.label_map

    @property
    def records(self) -> list[Record]:
        """The records of the images that training would use."""
        return [each.record for each in self.images if each.record is not None]

    @property
    def by_name(self) -> Mapping[str, CheckedImage]:
        """The images by their name, `Fault.image`."""
        return {each.image.name: each for each in self.images}

    @property
    def num_objects(self) -> int:
        """Number of annotated objects, faulty ones included."""
        return sum(len(each.image.labels) + len(each.image.unplaced) for each in self.images)


def check_set(annotations: Annotations, split: str, use_difficult: bool = False) -> CheckedSet:
    """Check every image and every object of a data set.

    Args:
      annotations: the data set as parsed by its reader.
      split: "train" or "val".
      use_difficult: see `data.load`. Default False.
    """
    faults = [Fault.parse("entry_unusable", line) for line in annotations.problems]
    faults += [note for note in annotations.notes if isinstance(note, Fault)]
    checked = _check_images(annotations, use_difficult)
    for each in checked:
        faults += each.faults
    with_size = [each for each in checked if each.size]
    box_form, in_other_order = guess_box_order(
        annotations,
        [_boxes_in_pixels(each, annotations.fractions) for each in with_size],
        [each.size for each in with_size if each.size],
    )
    faults += in_other_order
    return CheckedSet(split, annotations, checked, faults, box_form)


def _check_images(annotations: Annotations, use_difficult: bool) -> list[CheckedImage]:
    """Check the images block by block, in threads."""
    images = annotations.images
    checked: list[CheckedImage] = []
    with (
        ImageVerification(decodes=True, has_sizes=not annotations.fractions) as verification,
        progress_bar(annotations) as bar,
        warnings.catch_warnings(),
    ):
        # Huge images are faults. Set here, as the threads share the filters.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        for begin in range(0, len(images), BLOCK):
            block = images[begin : begin + BLOCK]
            found = verification.verify(block, lambda count: None)
            checked += verification.in_threads(
                lambda pair: _check_image(pair[0], pair[1], annotations, use_difficult),
                list(zip(block, found)),
                bar.update,
            )
    return checked


def _check_image(
    image: AnnotatedImage,
    found: UsableImage | BadImage,
    annotations: Annotations,
    use_difficult: bool,
) -> CheckedImage:
    """Check an image whose file is verified."""
    faults, apply_exif, is_decoded = unplaced_faults(image), True, True
    size: tuple[int, int] | None
    if isinstance(found, UsableImage):
        size, apply_exif = found.size, found.apply_exif
    else:
        faults.append(image_fault(image, found))
        is_decoded = found.kind == "image_size"
        annotated = image.size if image.size and all(image.size) else None
        # The boxes refer to the annotated size.
        size = annotated or found.size
    record = None
    if size:
        sizes, is_turned = np.array([size], np.int64), np.array([apply_exif])
        objects = check_objects([image], annotations, sizes, use_difficult)
        if not (faults or objects.unplaced):
            record = make_records([image], sizes, is_turned, objects, np.array([True]))[0]
        for by_image in (objects.unplaced, objects.problems, objects.clipped):
            faults += by_image.get(0, [])
    if not (len(image.labels) or image.unplaced):
        faults.append(_unannotated(image))
    if record is not None:
        faults += _repeated_objects(image, record, annotations)
    fingerprint = None
    if is_decoded:
        properties = image_properties(image, apply_exif)
        faults += properties.faults
        fingerprint = properties.fingerprint
    return CheckedImage(image, faults, size, record, apply_exif, fingerprint)


def _unannotated(image: AnnotatedImage) -> Fault:
    fact = "has no object"
    # Of formats with a file for each image.
    if os.path.splitext(image.annotation_file)[1] == ".txt":
        fact += "" if os.path.isfile(image.annotation_file) else f", as {image.annotation_file}"
        fact += "" if os.path.isfile(image.annotation_file) else " does not exist"
    line = f"{image.name}: {fact}"
    return Fault("image_unannotated", line, file=image.annotation_file, image=image.name)


def repeated_objects(record: Record) -> dict[int, int]:
    """Find objects of the class and, nearly, the box of an earlier one: {later: earlier}."""
    counted = np.flatnonzero(record.is_counted)
    boxes, classes = record.boxes[counted], record.classes[counted]
    same = pairwise_overlaps(boxes, boxes)[0] >= SAME_OBJECT_IOU
    same = np.tril(same & (classes[:, None] == classes), k=-1)
    return {
        int(counted[later]): int(counted[same[later].argmax()])
        for later in np.flatnonzero(same.any(axis=1))
    }


def _repeated_objects(
    image: AnnotatedImage, record: Record, annotations: Annotations
) -> list[Fault]:
    faults = []
    for later, earlier in repeated_objects(record).items():
        place = f"{annotations.object_word} {image.numbers[later]}"
        line = (
            f"{image.annotation_file}: {place}: {annotations.box_field}: is that of "
            f"{annotations.object_word} {image.numbers[earlier]}, of the same class"
        )
        where = {"file": image.annotation_file, "place": place, "field": annotations.box_field}
        box = record.boxes[later]
        faults.append(Fault("box_duplicate", line, image=image.name, box=box, **where))
    return faults


def _boxes_in_pixels(checked: CheckedImage, fractions: bool) -> np.ndarray:
    """Return the boxes as annotated, in pixels: float [n, 4]."""
    boxes = checked.image.boxes
    return from_fractions(boxes, checked.size) if fractions and checked.size else boxes
