"""Thumbnails of faulty images and objects."""

import warnings

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageOps

from efficientdet_tf.data.checks.checked_set import CheckedImage
from efficientdet_tf.data.faults import Fault
from efficientdet_tf.data.image_sources import file_or_bytes
from efficientdet_tf.data.orientation import exif_orientation

_SIDE = 280
# A box is shown with this many times its longer side around it, and at least so many pixels.
_AROUND, _LEAST_PIXELS = 6, 96
# Sides of the image shown beyond it at most, for boxes outside.
_BEYOND = 1.0
_COLOR, _OUTSIDE = (213, 94, 0), (160, 160, 160)


def thumbnail(checked: CheckedImage, fault: Fault) -> PIL.Image.Image | None:
    """Draw a small image with the fault's box, if there is one.

    A small box is shown with its surroundings only, and one outside of the image beside it.

    Args:
      checked: the image, with its fault.
      fault: the fault.

    Returns:
      An RGB image of at most 280 pixels a side; None if the image cannot be read.
    """
    image = _read(checked)
    if image is None:
        return None
    if fault.box is None or not np.isfinite(fault.box).all():
        image.thumbnail((_SIDE, _SIDE))
        return image
    # Boxes refer to the annotated size, which need not be that of the image.
    height, width = checked.size or image.size[::-1]
    scale = np.array([image.height / height, image.width / width] * 2)
    ymin, xmin, ymax, xmax = np.array(fault.box) * scale
    corners = np.sort([ymin, ymax]), np.sort([xmin, xmax])
    return _cropped(image, np.array([corners[0][0], corners[1][0], corners[0][1], corners[1][1]]))


def _read(checked: CheckedImage) -> PIL.Image.Image | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(file_or_bytes(checked.image.image)) as opened:
                if checked.apply_exif and exif_orientation(opened) != 1:
                    return PIL.ImageOps.exif_transpose(opened).convert("RGB")
                return opened.convert("RGB")
    # Pillow has errors of many kinds for damaged files.
    except Exception:
        return None


def _cropped(image: PIL.Image.Image, box: np.ndarray) -> PIL.Image.Image:
    """Draw a box, and crop its surroundings or extend the image to show it."""
    size = np.array([image.height, image.width])
    side = (box[2:] - box[:2]).max()
    window = max(_LEAST_PIXELS, (1 + 2 * _AROUND) * side)
    low, high = np.zeros(2), size.astype(float)
    # A quarter of the image or less.
    if window < size.max() / 2 and (box[:2] >= 0).all() and (box[2:] <= size).all():
        middle = (box[:2] + box[2:]) / 2
        low, high = np.maximum(middle - window / 2, 0), np.minimum(middle + window / 2, size)
    low = np.maximum(np.minimum(low, box[:2] - 4), -_BEYOND * size)
    high = np.minimum(np.maximum(high, box[2:] + 4), (1 + _BEYOND) * size)
    return _drawn(image, box, np.floor(low).astype(int), np.ceil(high).astype(int))


def _drawn(
    image: PIL.Image.Image, box: np.ndarray, low: np.ndarray, high: np.ndarray
) -> PIL.Image.Image:
    """Draw a box on the part of an image from (y, x) `low` to `high`, grey beyond the image."""
    scale = _SIDE / (high - low).max()
    height, width = np.maximum(1, np.rint((high - low) * scale)).astype(int).tolist()
    canvas = PIL.Image.new("RGB", (width, height), _OUTSIDE)
    # The part of the image is scaled before: in its own pixels, the canvas may be nine images.
    limits = np.clip([low, high], 0, [image.height, image.width])
    if (limits[1] > limits[0]).all():
        corners = np.rint((limits - low) * scale).astype(int)
        sides = np.maximum(1, corners[1] - corners[0]).tolist()
        part = image.resize(sides[::-1], box=limits[:, ::-1].ravel().tolist())
        canvas.paste(part, tuple(corners[0, ::-1].tolist()))
    ymin, xmin, ymax, xmax = np.clip((box - [*low, *low]) * scale, -9, _SIDE + 9).tolist()
    draw = PIL.ImageDraw.Draw(canvas)
    # White around the colour, for dark and colourful images.
    for space, color, width in ((3, (255, 255, 255), 4), (2, _COLOR, 2)):
        outline = (xmin - space, ymin - space, xmax + space, ymax + space)
        draw.rectangle(outline, outline=color, width=width)
    return canvas
