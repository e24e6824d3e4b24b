"""Reading of image files as upright pixels, without TensorFlow.

The pixels are those of `decoding.decode_image`, which decodes in graphs.
"""

import io
import os
import pathlib

import numpy as np
import PIL.Image

from efficientdet_tf.data.annotations import IMAGE_FORMATS
from efficientdet_tf.data.orientation import exif_orientation
from efficientdet_tf.errors import UserError

# Path, bytes of a file, or uint8 [h, w, 3] RGB.
Image = str | os.PathLike | bytes | np.ndarray

# Pillow's names of the formats.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP")

# EXIF orientation -> what turns the image upright.
_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}


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
        return decode(encoded)
    except PIL.Image.DecompressionBombError as error:
        limit = 2 * (PIL.Image.MAX_IMAGE_PIXELS or 0)
        raise ImageError(f"{name}: more than {limit:,} pixels; scale it down") from error
    # Pillow raises errors of many kinds for damaged files.
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
        orientation = exif_orientation(image)
        rgb = _as_rgb(image)
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    return np.asarray(rgb)


def _as_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    if image.mode.startswith("I"):
        # Of 16 bits: the high byte.
        image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")
