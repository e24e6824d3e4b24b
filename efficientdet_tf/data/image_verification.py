"""Verification of image files: headers, sizes and complete decoding, in threads.

Orientation: boxes refer to the image that the annotator saw. Most tools apply the
EXIF orientation of a JPEG, some do not. If the annotated width and height fit only
the stored image, it is not turned. Otherwise it is: the annotated size fits the
upright image, or both, or (YOLO) is missing.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import tensorflow as tf
from PIL import Image

from efficientdet_tf.data.annotations import IMAGE_FORMATS, AnnotatedImage
from efficientdet_tf.data.decoding import decode_image
from efficientdet_tf.data.image_sources import (
    FileRange,
    ImageSource,
    file_or_bytes,
    is_remote,
    read_encoded,
)
from efficientdet_tf.data.orientation import exif_orientation
from efficientdet_tf.data.records import Record
from efficientdet_tf.data.verified_images import (
    ImageHeader,
    VerifiedImage,
    VerifiedImages,
    image_key,
)

# Pillow's names of the formats that `decode_image` reads; MPO is JPEG with further images.
_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP")
# EXIF orientations that swap width and height.
_SIDEWAYS = (5, 6, 7, 8)
# Images that a thread takes at once: handing over one takes as long as reading a header.
_PART = 16
# Images of a set that `data.verify=auto` decodes before the first step: some seconds on two cores.
MOST_DECODED_FIRST = 2000


@dataclasses.dataclass(frozen=True)
class UsableImage:
    """An image that can be read.

    Attributes:
      size: (height, width) in pixels, see `records.Record`.
      apply_exif: whether decoding applies the EXIF orientation.
    """

    size: tuple[int, int]
    apply_exif: bool


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


def is_decoded_first(verify: str, num_images: int) -> bool:
    """Tell whether `data.verify` asks to decode a set of so many images before it is used."""
    return verify == "full" or (verify == "auto" and num_images <= MOST_DECODED_FIRST)


class ImageVerification:
    """Verification of images, block by block; a context manager.

    Args:
      decodes: whether to decode every image once, or to read only its header; in either case
        only new or changed files, see `verified_images`.
      has_sizes: whether annotated sizes are those of the images, and to be compared.
    """

    def __init__(self, decodes: bool, has_sizes: bool) -> None:
        self._decodes = decodes
        self._has_sizes = has_sizes
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._verified = VerifiedImages()
        # Traced now: first calls from several threads at once would warn of retracing.
        _decoded_size.get_concrete_function()

    def __enter__(self) -> "ImageVerification":
        self._verified.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._verified.__exit__(*exception)

    def verify(
        self, images: Sequence[AnnotatedImage], progress: Callable[[int], object]
    ) -> list[UsableImage | BadImage]:
        """Verify a block of images.

        Args:
          images: the images.
          progress: called with the number of images done since its last call.

        Returns:
          For each image its size and orientation, or the reason why it is unusable.
        """
        keys = list(self._mapped(lambda image: image_key(image.image), images))
        known = self._verified.find(keys)
        pairs = list(zip(images, known))
        results: list[UsableImage | BadImage | None] = [self._if_known(*pair) for pair in pairs]
        unknown = [i for i, result in enumerate(results) if result is None]
        progress(len(images) - len(unknown))
        read = self.in_threads if self._decodes else self._mapped
        found = read(lambda i: self._read(*pairs[i]), unknown, progress)
        for i, result in zip(unknown, found):
            results[i] = result
        return [result for result in results if result is not None]

    def in_threads(
        self,
        function: Callable,
        values: Sequence,
        progress: Callable[[int], object] = lambda count: None,
    ) -> Iterator:
        """Map values in threads, in their order."""
        parts = [values[begin : begin + _PART] for begin in range(0, len(values), _PART)]

        def mapped(part: Iterable) -> list:
            return [function(value) for value in part]

        for part in self._pool.map(mapped, parts):
            progress(len(part))
            yield from part

    def _mapped(
        self,
        function: Callable,
        values: Sequence,
        progress: Callable[[int], object] = lambda count: None,
    ) -> Iterator:
        """Map values in their order, in threads if the first ones mostly waited for a disk.

        Threads that do not wait slow each other down: Python runs one at a time.
        """
        began, worked = time.perf_counter(), time.thread_time()
        for value in values[:_PART]:
            yield function(value)
            progress(1)
        worked = time.thread_time() - worked
        is_waiting = time.perf_counter() - began > 2 * worked
        rest = values[_PART:]
        if is_waiting:
            yield from self.in_threads(function, rest, progress)
            return
        for value in rest:
            yield function(value)
            progress(1)

    def _if_known(
        self, image: AnnotatedImage, known: VerifiedImage
    ) -> UsableImage | BadImage | None:
        """Return the result for an image if no file needs to be read for it, else None."""
        if known.header is None:
            return None
        try:
            usable = self._usable(image, known.header)
        except BadImage as error:
            return error
        return None if self._decodes and usable.apply_exif not in known.decoded else usable

    def _read(self, image: AnnotatedImage, known: VerifiedImage) -> UsableImage | BadImage:
        """Read what is not known of an image."""
        try:
            header = known.header or _read_header(image.image)
            usable = self._usable(image, header)
            decoded = known.decoded
            if self._decodes:
                _decode(image.image, usable.apply_exif, usable.size)
                decoded = decoded | {usable.apply_exif}
        except BadImage as error:
            return error
        self._verified.store(dataclasses.replace(known, header=header, decoded=decoded))
        return usable

    def _usable(self, image: AnnotatedImage, header: ImageHeader) -> UsableImage:
        fits_stored_only = image.size == header.stored and header.stored != header.upright
        # Most images are upright, and decoding need not read their orientation again.
        apply_exif = header.is_turned and not fits_stored_only
        size = header.upright if apply_exif else header.stored
        # Many files write a missing size as zero.
        if self._has_sizes and image.size and all(image.size) and image.size != size:
            reason = f"image is {size_text(size)}, but annotated as {size_text(image.size)}"
            raise BadImage("image_size", reason, size)
        return UsableImage(size, apply_exif)


def decode_unverified(
    records: Sequence[Record], is_stopped: Callable[[], bool]
) -> Iterator[tuple[Record, str]]:
    """Decode the images that never were, one after the other, and cache which can be decoded.

    Args:
      records: the records, whose headers were verified.
      is_stopped: called before each image; True ends the iteration.

    Yields:
      Each record whose image cannot be decoded, and the reason.
    """
    with VerifiedImages() as verified:
        for begin in range(0, len(records), _PART):
            part = records[begin : begin + _PART]
            known = verified.find([image_key(record.image) for record in part])
            for record, before in zip(part, known):
                if is_stopped():
                    return
                if record.apply_exif in before.decoded:
                    continue
                try:
                    header = before.header or _read_header(record.image)
                    _decode(record.image, record.apply_exif, (record.height, record.width))
                except BadImage as error:
                    yield record, str(error)
                    continue
                decoded = before.decoded | {record.apply_exif}
                verified.store(dataclasses.replace(before, header=header, decoded=decoded))


def _read_header(image: ImageSource) -> ImageHeader:
    try:
        with Image.open(file_or_bytes(image)) as opened:
            if opened.format not in _FORMATS:
                reason = f"is a {opened.format} file; use {IMAGE_FORMATS}"
                raise BadImage("image_format", reason)
            stored = (opened.height, opened.width)
            orientation = exif_orientation(opened)
    except Image.DecompressionBombError as error:
        reason = f"image has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels; scale it down"
        raise BadImage("image_bomb", reason) from error
    except BadImage:
        raise
    # Pillow has errors of many kinds for damaged files.
    except Exception as error:
        if _is_missing(image, error):
            raise BadImage("image_missing", "image file is missing") from error
        kind = "image_empty" if _is_empty(image) else "image_unreadable"
        raise BadImage(kind, f"image file cannot be read; it must be {IMAGE_FORMATS}") from error
    upright = stored[::-1] if orientation in _SIDEWAYS else stored
    return ImageHeader(stored, upright, is_turned=orientation != 1)


def _is_missing(image: ImageSource, error: Exception) -> bool:
    path = image.file if isinstance(image, FileRange) else image
    if isinstance(path, bytes):
        return False
    # Not by the error alone: a name may be too long for any file.
    return isinstance(error, FileNotFoundError) or not (is_remote(path) or os.path.exists(path))


def _is_empty(image: ImageSource) -> bool:
    return isinstance(image, str) and not os.path.getsize(image) or image == b""


@tf.function(
    input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.bool)], autograph=False
)
def _decoded_size(encoded: tf.Tensor, apply_exif: tf.Tensor) -> tf.Tensor:
    return tf.shape(decode_image(encoded, apply_exif))[:2]


def _decode(image: ImageSource, apply_exif: bool, size: tuple[int, int]) -> None:
    try:
        with tf.device("/CPU:0"):
            encoded = tf.io.read_file(image) if isinstance(image, str) else read_encoded(image)
            decoded_size = tuple(_decoded_size(encoded, apply_exif).numpy())
    except (OSError, tf.errors.OpError) as error:
        reason = "image file cannot be decoded; it may be damaged"
        raise BadImage("image_truncated", reason, size) from error
    if decoded_size != size:
        found, expected = size_text(decoded_size), size_text(size)
        reason = f"image is {found}, but its header says {expected}"
        raise BadImage("image_truncated", reason)


def size_text(size: tuple[int, int]) -> str:
    """Format (height, width) for messages."""
    return f"{size[1]} x {size[0]} pixels"
