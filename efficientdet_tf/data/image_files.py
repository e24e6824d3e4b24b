"""Reading of single image files and records as upright pixels, outside the input pipeline."""

import os
import pathlib

import numpy as np
import tensorflow as tf

from efficientdet_tf.data.annotations import IMAGE_FORMATS
from efficientdet_tf.data.decoding import decode_image
from efficientdet_tf.data.image_sources import read_encoded
from efficientdet_tf.data.records import DataError, Record
from efficientdet_tf.errors import UserError

# Path, bytes of a file, or uint8 [h, w, 3] RGB.
Image = str | os.PathLike | bytes | np.ndarray


class ImageError(UserError):
    """An image that cannot be read."""


def read_image(image: Image) -> np.ndarray:
    """Read the upright pixels of an image.

    Args:
      image: path or bytes of a JPEG, PNG, GIF, BMP or WebP file, or pixels, uint8 [h, w, 3]
        RGB. The EXIF orientation of a JPEG file is applied.

    Returns:
      uint8 [h, w, 3], RGB.

    Raises:
      ImageError: if the file is missing or no image, or an array has another shape or type.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ImageError(
                f"image array: {image.dtype} {list(image.shape)} is not uint8 [height, width, 3]"
            )
        return image
    name = "image bytes" if isinstance(image, bytes) else os.fspath(image)
    try:
        encoded = image if isinstance(image, bytes) else pathlib.Path(image).read_bytes()
    except OSError as error:
        raise ImageError(f"{name}: {error.strerror}") from error
    except ValueError as error:
        raise ImageError(f"{name!r}: not a file name: {error}") from error
    if not encoded:
        raise ImageError(f"{name}: empty")
    try:
        return _decode(encoded, True).numpy()
    except tf.errors.OpError as error:
        raise ImageError(f"{name}: not a readable {IMAGE_FORMATS} image") from error


def read_record(record: Record) -> np.ndarray:
    """Read the pixels of a record, upright if its `apply_exif` is set.

    Returns:
      uint8 [h, w, 3], RGB.

    Raises:
      DataError: if the image cannot be read; it names the image and the reason.
    """
    reason, pixels = _try_record(record)
    if pixels is None:
        path = record.image if isinstance(record.image, str) else record.name
        file = f"{path}: " if path != record.name else ""
        raise DataError(f"{record.name or record.image_id}: image: {file}{reason}")
    return pixels


def why_unreadable(record: Record) -> str:
    """Read and decode the image of a record again to find the reason of a failure.

    Returns:
      The reason, without the image's name; "" if the image can be read now.
    """
    return _try_record(record)[0]


def prepare_threads() -> None:
    """Trace the decoding function: tracing in several threads at once warns of retracing."""
    _decode.get_concrete_function()


def _try_record(record: Record) -> tuple[str, np.ndarray | None]:
    """Read a record: ("", its pixels), or (the reason of the failure, None)."""
    try:
        encoded = read_encoded(record.image)
    except OSError as error:
        return error.strerror or str(error), None
    if not encoded:
        return "the file is empty", None
    try:
        with tf.device("/CPU:0"):
            return "", _decode(encoded, record.apply_exif).numpy()
    except tf.errors.OpError:
        return "cannot be decoded; it may be damaged", None


@tf.function(
    input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.bool)], autograph=False
)
def _decode(encoded: tf.Tensor, apply_exif: tf.Tensor) -> tf.Tensor:
    return decode_image(encoded, apply_exif)
