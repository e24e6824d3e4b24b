"""Reading of image files as upright pixels, without TensorFlow.

The pixels are those of `decoding.decode_image`, which decodes in graphs.
"""

import io
import os
import pathlib

import numpy as np
import PIL.Image
import simplejpeg

from efficientdet_tf.data.annotations import IMAGE_FORMATS
from efficientdet_tf.data.orientation import exif_orientation
from efficientdet_tf.errors import UserError

# Path, bytes of a file, or uint8 [h, w, 3] RGB.
Image = str | os.PathLike | bytes | np.ndarray

# Pillow's names of the formats.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")


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
    if not isinstance(image, str | os.PathLike | bytes):
        raise ImageError(
            f"{type(image).__name__} is no image; use paths, bytes, or uint8 arrays "
            "[height, width, 3]"
        )
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
        return decode(encoded)
    except PIL.Image.DecompressionBombError as error:
        limit = 2 * (PIL.Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(f"{name}: more than {limit:,} pixels; scale it down") from error
    # Pillow has errors of many kinds for damaged files.
    except Exception as error:
        raise ImageError(f"{name}: not a readable {IMAGE_FORMATS} image") from error


def decode(encoded: bytes) -> np.ndarray:
    """Decode the bytes of an image file to its upright pixels, as `decoding.decode_image` does.

    Returns:
      uint8 [h, w, 3], RGB; the first frame of an animation.

    Raises:
      Exception: of any kind, if they cannot be decoded.
    """
    with PIL.Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
        # MPO is JPEG with further images; CMYK has several ways to RGB.
        is_jpeg = image.format in ("JPEG", "MPO") and image.mode != "CMYK"
        pixels = _decode_jpeg(encoded) if is_jpeg else None
        if pixels is None:
            pixels = _pixels(image)
        return _turn(pixels, exif_orientation(image))


def _decode_jpeg(encoded: bytes) -> np.ndarray | None:
    """Decode a JPEG in a quarter of Pillow's time; None if it is not as it should be."""
    try:
        return simplejpeg.decode_jpeg(encoded, "RGB", fastdct=False, fastupsample=False)
    # Most of what is wrong Pillow passes over.
    except ValueError:
        return None


def _pixels(image: PIL.Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):
        # Of 16 bits: the high byte.
        image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels upright; orientations as in EXIF 2.3, 4.6.4."""
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
