"""Checks of images and objects, common to all formats.

Unusable images are excluded and unusable objects ignored (`object_checks`), with
one line each, so that a long training neither stops at a bad file nor learns from
a wrong box.

Orientation: boxes refer to the image that the annotator saw. Most tools apply the
EXIF orientation of a JPEG, some do not. If the annotated width and height fit only
the stored image, it is not turned. Otherwise it is: the annotated size fits the
upright image, or both, or (YOLO) is missing.
"""

import dataclasses
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import tensorflow as tf
from absl import logging
from PIL import Image
from tqdm import tqdm

from efficientdet_tf.data.annotations import IMAGE_FORMATS, AnnotatedImage, Annotations
from efficientdet_tf.data.decoding import decode_image
from efficientdet_tf.data.faults import Fault
from efficientdet_tf.data.object_checks import CheckedObjects, check_objects
from efficientdet_tf.data.orientation import exif_orientation
from efficientdet_tf.data.records import DataError, DetectionData, Record
from efficientdet_tf.data.verified_images import ImageHeader, VerifiedImages

T = TypeVar("T")

# Pillow's names of the formats that `decode_image` reads; MPO is JPEG with further images.
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP")
# EXIF orientations that swap width and height.
_SIDEWAYS = (5, 6, 7, 8)
_PROBLEMS_SHOWN = 10


class BadImage(Exception):
    """Reason why an image cannot be used, without its name.

    Args:
      kind: key of `faults.KINDS`.
      reason: the reason.
      size: (height, width) in pixels if it is known all the same. Default None.
    """

    def __init__(self, kind: str, reason: str, size: tuple[int, int] | None = None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.size = size


def validate(
    annotations: Annotations,
    verify: str = "full",
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
      verify: "full" decodes every image once, "header" reads only its header; in
        both cases only new or changed files, see `verified_images`. Default "full".
      strict: whether to raise at the first problem instead. Default False.
      use_difficult: whether to use objects marked as difficult in training and
        evaluation, which are otherwise ignored. Default False.

    Returns:
      The data set with its problems.

    Raises:
      DataError: if no image is usable, or at the first problem if `strict`.
    """
    records: list[Record] = []
    problems: list[str] = list(annotations.problems)
    clipped: list[Fault] = []
    _raise_if(strict, problems)
    for record, found, clipped_here in _check_all(annotations, verify, use_difficult):
        problems += found
        clipped += clipped_here
        _raise_if(strict, found)
        if record is not None:
            records.append(record)
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
    )


def _check_all(
    annotations: Annotations, verify: str, use_difficult: bool
) -> Iterator[tuple[Record | None, list[Fault], list[Fault]]]:
    """Check every image in order, in threads."""
    with VerifiedImages() as verified:
        yield from in_threads(
            lambda image: _check(image, annotations, verify, use_difficult, verified),
            annotations.images,
            f"Checking {annotations.source}",
        )


def in_threads(
    function: Callable[[AnnotatedImage], T], images: Sequence[AnnotatedImage], description: str
) -> Iterator[T]:
    """Yield a function's results for images in order, with a progress bar on a terminal.

    Reading and decoding release Python's lock, so that threads use all processors.
    """
    # Traced now: first calls from several threads at once would warn of retracing.
    _decoded_size.get_concrete_function()
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield from tqdm(
            pool.map(function, images),
            total=len(images),
            desc=description,
            unit="image",
            # Only on a terminal.
            disable=None,
        )
    finally:
        pool.shutdown(cancel_futures=True)


def _check(
    image: AnnotatedImage,
    annotations: Annotations,
    verify: str,
    use_difficult: bool,
    verified: VerifiedImages,
) -> tuple[Record | None, list[Fault], list[Fault]]:
    """Return an image's record if usable, its faults, and those of clipped objects."""
    if image.unplaced:
        return None, unplaced_faults(image), []
    try:
        size, apply_exif = verify_image(image, annotations.fractions, verify, verified)
    except BadImage as error:
        return None, [image_fault(image, error)], []
    objects = check_objects(image, annotations, size, use_difficult)
    if objects.unplaced:
        return None, objects.unplaced, []
    return make_record(image, objects, size, apply_exif), objects.problems, objects.clipped


def unplaced_faults(image: AnnotatedImage) -> list[Fault]:
    """List the faults of the objects that the reader could not place."""
    return [
        Fault.parse("box_unreadable", f"{problem}; image excluded", image.name)
        for problem in image.unplaced
    ]


def image_fault(image: AnnotatedImage, error: BadImage) -> Fault:
    """Return the fault of an image that cannot be used."""
    return Fault(error.kind, f"{image.name}: {error}", file=image.name, image=image.name)


def verify_image(
    image: AnnotatedImage, fractions: bool, verify: str, verified: VerifiedImages
) -> tuple[tuple[int, int], bool]:
    """Verify an image file.

    Args:
      image: the image as parsed by the reader.
      fractions: whether its boxes are fractions of the image's size.
      verify: see `validate`.
      verified: cache of the files that are known to be good.

    Returns:
      (height, width) in pixels that the boxes refer to, and whether the EXIF
      orientation is applied.

    Raises:
      BadImage: if it cannot be used.
    """
    known = verified.find(image.image)
    header = known.header or _read_header(image.image)
    fits_stored_only = image.size == header.stored and header.stored != header.upright
    # Most images are upright, and decoding need not read their orientation again.
    apply_exif = header.is_turned and not fits_stored_only
    size = header.upright if apply_exif else header.stored
    # Many files write a missing size as zero.
    if not fractions and image.size and all(image.size) and image.size != size:
        reason = f"image is {_text(size)}, but annotated as {_text(image.size)}"
        raise BadImage("image_size", reason, size)
    if verify == "full" and apply_exif not in known.decoded:
        _decode(image.image, apply_exif, size)
        decoded = known.decoded | {apply_exif}
        verified.store(dataclasses.replace(known, header=header, decoded=decoded))
    elif known.header is None:
        verified.store(dataclasses.replace(known, header=header))
    return size, apply_exif


def make_record(
    image: AnnotatedImage, objects: CheckedObjects, size: tuple[int, int], apply_exif: bool
) -> Record:
    """Make the record of a verified image with its checked objects."""
    return Record(
        image_id=image.image_id,
        image=image.image,
        height=size[0],
        width=size[1],
        boxes=objects.boxes,
        classes=objects.classes,
        is_crowd=objects.is_crowd,
        area=objects.area,
        name=image.name,
        apply_exif=apply_exif,
        is_ignored=objects.is_ignored,
        is_difficult=objects.is_difficult,
    )


def _read_header(image: str | bytes) -> ImageHeader:
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            if opened.format not in _FORMATS:
                reason = f"is a {opened.format} file; use {IMAGE_FORMATS}"
                raise BadImage("image_format", reason)
            stored = (opened.height, opened.width)
            orientation = exif_orientation(opened)
    except FileNotFoundError as error:
        raise BadImage("image_missing", "image file is missing") from error
    except Image.DecompressionBombError as error:
        reason = f"image has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels; scale it down"
        raise BadImage("image_bomb", reason) from error
    except (OSError, SyntaxError, ValueError) as error:
        kind = "image_empty" if _is_empty(image) else "image_unreadable"
        raise BadImage(kind, f"image file cannot be read; it must be {IMAGE_FORMATS}") from error
    upright = stored[::-1] if orientation in _SIDEWAYS else stored
    return ImageHeader(stored, upright, is_turned=orientation != 1)


def _is_empty(image: str | bytes) -> bool:
    return not (image if isinstance(image, bytes) else os.path.getsize(image))


@tf.function(
    input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.bool)], autograph=False
)
def _decoded_size(encoded: tf.Tensor, apply_exif: tf.Tensor) -> tf.Tensor:
    return tf.shape(decode_image(encoded, apply_exif))[:2]


def _decode(image: str | bytes, apply_exif: bool, size: tuple[int, int]) -> None:
    try:
        with tf.device("/CPU:0"):
            encoded = image if isinstance(image, bytes) else tf.io.read_file(image)
            decoded_size = tuple(_decoded_size(encoded, apply_exif).numpy())
    except tf.errors.OpError as error:
        reason = "image file cannot be decoded; it may be damaged"
        raise BadImage("image_truncated", reason, size) from error
    if decoded_size != size:
        reason = f"image is {_text(decoded_size)}, but its header says {_text(size)}"
        raise BadImage("image_truncated", reason)


def _raise_if(strict: bool, problems: Sequence[str]) -> None:
    if strict and problems:
        raise DataError(problems[0])


def _notes(records: list[Record], clipped: list[Fault], use_difficult: bool) -> list[str]:
    """Return remarks on the objects that are no errors."""
    notes = []
    if clipped:
        name = f"{clipped[0].file}: {clipped[0].place}"
        first = f"1 box reaches beyond its image and was clipped: {name}"
        many = f"{len(clipped)} boxes reach beyond their images and were clipped; "
        notes.append(first if len(clipped) == 1 else f"{many}the first is {name}")
    difficult = sum(int(record.is_difficult.sum()) for record in records)
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


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]} pixels"
