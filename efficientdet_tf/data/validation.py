"""Which images and objects of a data set can be used, for all formats alike.

What cannot be used is left out and named in one line each, so that a long
training neither stops at a single bad file nor learns from a wrong box.

Which way up an image is: boxes are drawn on what the annotator saw. Most tools
show a JPEG turned by its EXIF orientation, some do not. Where the annotation
gives the image's width and height, and they fit only the stored, unturned
image, it is not turned. In every other case it is: the annotation's size fits
the upright image, or fits both, or (YOLO) there is none.
"""

import dataclasses
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf
from absl import logging
from PIL import Image
from tqdm import tqdm

from efficientdet_tf.data.annotations import AnnotatedImage, Annotations
from efficientdet_tf.data.decoding import decode_image
from efficientdet_tf.data.records import DataError, DetectionData, Record
from efficientdet_tf.data.verified_images import ImageHeader, VerifiedImages

# What Pillow calls the formats that `decode_image` reads; MPO is JPEG with more behind it.
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP")
_ORIENTATION_TAG = 0x0112
# Orientations that exchange width and height.
_SIDEWAYS = (5, 6, 7, 8)
_PROBLEMS_SHOWN = 10


class _BadImage(Exception):
    """Why an image cannot be used, without its name."""


def validate(annotations: Annotations, verify: str = "full", strict: bool = False) -> DetectionData:
    """Checks every image and object, and keeps the usable ones.

    Left out are images that are missing, cannot be decoded or are not of the
    annotated size; and objects with an unknown category, or with a box that is
    not finite, has no area, or lies outside the image. A box partly outside is
    clipped. All that is left out is logged in one warning.

    Args:
      annotations: the data set as its reader gives it.
      verify: "full" decodes every image once, "header" reads only its header; in
        both cases only of files that are new or changed, see `verified_images`.
      strict: raise at the first problem instead.

    Returns:
      The data set, its problems included.

    Raises:
      DataError: when nothing is usable, or at the first problem if `strict`.
    """
    records, problems = [], list(annotations.problems)
    _raise_if(strict, problems)
    for record, found in _check_all(annotations, verify):
        problems += found
        _raise_if(strict, found)
        if record is not None:
            records.append(record)
    if not records:
        first = f"; the first problem: {problems[0]}" if problems else ""
        raise DataError(f"{annotations.source}: has no usable image{first}")
    _warn(annotations.source, problems)
    return DetectionData(
        records=records,
        label_map=annotations.label_map,
        problems=tuple(problems),
        source=annotations.source,
    )


def _check_all(annotations: Annotations, verify: str) -> Iterator[tuple[Record | None, list[str]]]:
    """`_check` of every image in order, in threads: reading and decoding release the lock."""
    # Traced now: threads that make the first call together would be warned of retracing.
    _decoded_size.get_concrete_function()
    with VerifiedImages() as verified:
        pool = ThreadPoolExecutor(os.cpu_count())
        try:
            checked = pool.map(
                lambda image: _check(image, annotations, verify, verified), annotations.images
            )
            yield from tqdm(
                checked,
                total=len(annotations.images),
                desc=f"Checking {annotations.source}",
                unit="image",
                # Only where somebody watches.
                disable=None,
            )
        finally:
            pool.shutdown(cancel_futures=True)


def _check(
    image: AnnotatedImage, annotations: Annotations, verify: str, verified: VerifiedImages
) -> tuple[Record | None, list[str]]:
    """The record of an image if it is usable, and what is wrong."""
    if image.unplaced:
        return None, [f"{problem}; its image is left out" for problem in image.unplaced]
    try:
        known = verified.find(image.image)
        header = known.header or _read_header(image.image)
        fits_stored_only = image.size == header.stored and header.stored != header.upright
        # Most images lie upright, and decoding need not look for their orientation again.
        apply_exif = header.is_turned and not fits_stored_only
        size = header.upright if apply_exif else header.stored
        # A size of zero stands for none in many files.
        if not annotations.fractions and image.size and all(image.size) and image.size != size:
            raise _BadImage(f"image is {_text(size)}, but annotated as {_text(image.size)}")
        if verify == "full" and apply_exif not in known.decoded:
            _decode(image.image, apply_exif, size)
            decoded = known.decoded | {apply_exif}
            verified.store(dataclasses.replace(known, header=header, decoded=decoded))
        elif known.header is None:
            verified.store(dataclasses.replace(known, header=header))
    except _BadImage as error:
        return None, [f"{image.name}: {error}"]
    boxes, usable, problems = _check_objects(image, annotations, size)
    classes = [annotations.class_indices.get(label, -1) for label in image.labels]
    record = Record(
        image_id=image.image_id,
        image=image.image,
        height=size[0],
        width=size[1],
        boxes=boxes[usable],
        classes=np.array(classes, np.int32)[usable],
        is_crowd=_per_object(image.is_crowd, len(boxes), bool)[usable],
        area=_areas(image, boxes)[usable],
        name=image.name,
        apply_exif=apply_exif,
    )
    return record, problems


def _check_objects(
    image: AnnotatedImage, annotations: Annotations, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Clipped boxes float32 [n, 4] in pixels, which are usable bool [n], and what is wrong."""
    limit = np.array([*size, *size], np.float32)
    boxes = image.boxes.astype(np.float32) * (limit if annotations.fractions else 1)
    clipped = np.clip(boxes, 0, limit)
    known = [label in annotations.class_indices for label in image.labels]
    checks = (
        (np.isfinite(boxes).all(axis=1), annotations.box_field, "is not finite"),
        (_have_area(boxes), annotations.box_field, "has no width or no height"),
        (_have_area(clipped), annotations.box_field, f"lies outside the image of {_text(size)}"),
        (np.array(known, bool), annotations.label_field, "{label!r} is not a known category"),
    )
    usable = np.all([passed for passed, _, _ in checks], axis=0)
    problems = []
    for i in np.flatnonzero(~usable):
        field, reason = next((field, reason) for passed, field, reason in checks if not passed[i])
        problems.append(
            f"{image.annotation_file}: {annotations.object_word} {image.numbers[i]}: {field}: "
            + reason.format(label=image.labels[i])
        )
    return clipped, usable, problems


def _have_area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] > boxes[:, :2]).all(axis=1)


def _areas(image: AnnotatedImage, boxes: np.ndarray) -> np.ndarray:
    """The annotated areas, and that of the box where there is none: float32 [n]."""
    of_box = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    annotated = _per_object(image.area, len(boxes), np.float32)
    return np.where(annotated > 0, annotated, of_box).astype(np.float32)


def _per_object(values, count: int, dtype) -> np.ndarray:
    return np.array(values if len(values) else [0] * count, dtype)


def _read_header(image: str | bytes) -> ImageHeader:
    try:
        with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            if opened.format not in _FORMATS:
                raise _BadImage(f"is a {opened.format} file; use JPEG, PNG, GIF or BMP")
            stored = (opened.height, opened.width)
            is_jpeg = opened.format in ("JPEG", "MPO")
            orientation = opened.getexif().get(_ORIENTATION_TAG, 1) if is_jpeg else 1
    except FileNotFoundError as error:
        raise _BadImage("image file is missing") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _BadImage("image file cannot be read; it must be JPEG, PNG, GIF or BMP") from error
    upright = stored[::-1] if orientation in _SIDEWAYS else stored
    return ImageHeader(stored, upright, is_turned=orientation != 1)


@tf.function(input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.bool)])
def _decoded_size(encoded: tf.Tensor, apply_exif: tf.Tensor) -> tf.Tensor:
    return tf.shape(decode_image(encoded, apply_exif))[:2]


def _decode(image: str | bytes, apply_exif: bool, size: tuple[int, int]) -> None:
    try:
        with tf.device("/CPU:0"):
            encoded = image if isinstance(image, bytes) else tf.io.read_file(image)
            decoded_size = tuple(_decoded_size(encoded, apply_exif).numpy())
    except tf.errors.OpError as error:
        raise _BadImage("image file cannot be decoded; it may be damaged") from error
    if decoded_size != size:
        raise _BadImage(f"image is {_text(decoded_size)}, but its header says {_text(size)}")


def _raise_if(strict: bool, problems: list[str]) -> None:
    if strict and problems:
        raise DataError(problems[0])


def _warn(source: str, problems: list[str]) -> None:
    if not problems:
        return
    lines = problems[:_PROBLEMS_SHOWN]
    if len(problems) > len(lines):
        lines.append(f"... and {len(problems) - len(lines)} more")
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    logging.warning("%s: %s, left out:\n  %s", source, count, "\n  ".join(lines))


def _text(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]} pixels"
