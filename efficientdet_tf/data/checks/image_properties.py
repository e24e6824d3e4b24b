"""Properties of image files that loading does not look at, and fingerprints of their content."""

import os
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from efficientdet_tf.data.annotations import AnnotatedImage
from efficientdet_tf.data.faults import Fault
from efficientdet_tf.data.image_sources import ImageSource, file_or_bytes
from efficientdet_tf.data.orientation import exif_orientation

_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "MPO": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "WEBP": (".webp",),
}
# Pillow warns from this number of pixels, and refuses twice as many.
_HUGE = Image.MAX_IMAGE_PIXELS or 2**26
_MODES = {
    "1": "has 1 bit per pixel",
    "CMYK": "is in CMYK, which is converted to RGB without its colour profile",
    "I": "has more than 8 bits per channel, of which the highest 8 are used",
    "F": "has more than 8 bits per channel, of which the highest 8 are used",
}
_MODES |= {f"I;16{order}": _MODES["I"] for order in ("", "L", "B", "N")}
# Sides of the grey thumbnail, and of the square of its lowest frequencies.
_SIDE, _FREQUENCIES = 32, 8
# Standard deviation in grey levels below which an image has no content to compare.
_BLANK = 2.0


class Fingerprint(NamedTuple):
    """Fingerprint of an image's content, which scaling and re-encoding hardly change.

    Attributes:
      code: perceptual hash of 63 bits: which of the lowest frequencies of the cosine
        transform are above their median.
      grey: uint8 [32, 32], the image in grey.
    """

    code: int
    grey: np.ndarray


class ImageProperties(NamedTuple):
    """Faults of an image file, and its fingerprint; None for a blank image."""

    faults: list[Fault]
    fingerprint: Fingerprint | None


def image_properties(image: AnnotatedImage, apply_exif: bool) -> ImageProperties:
    """Look at an image that can be decoded.

    Args:
      image: the image.
      apply_exif: whether the EXIF orientation is applied to it, see `records.Record`.
    """
    try:
        with Image.open(file_or_bytes(image.image)) as opened:
            facts = _facts(image, opened, apply_exif)
            fingerprint = _fingerprint(opened)
    # Pillow has errors of many kinds for damaged files.
    except Exception as error:
        facts = {"image_partial": f"can be decoded by TensorFlow, but not by Pillow: {error}"}
        fingerprint = None
    faults = [
        Fault(kind, f"{image.name}: {fact}", file=image.name, image=image.name)
        for kind, fact in facts.items()
        if fact
    ]
    return ImageProperties(faults, fingerprint)


def read_fingerprint(image: ImageSource) -> Fingerprint | None:
    """Return the fingerprint of an image file; None for a blank or unreadable image."""
    try:
        with Image.open(file_or_bytes(image)) as opened:
            return _fingerprint(opened)
    # Pillow has errors of many kinds for damaged files.
    except Exception:
        return None


def _facts(image: AnnotatedImage, opened: Image.Image, apply_exif: bool) -> dict[str, str]:
    """Return what is unusual of an image by kind of fault; "" for nothing."""
    return {
        "image_suffix": _suffix(image.image, opened),
        "image_huge": _hugeness(opened),
        "image_orientation": _orientation(image, opened, apply_exif),
        "image_mode": _mode(opened),
    }


def _suffix(image: ImageSource, opened: Image.Image) -> str:
    if not isinstance(image, str):
        return ""
    suffix = os.path.splitext(image)[1].lower()
    expected = _SUFFIXES.get(opened.format or "", (suffix,))
    return "" if suffix in expected else f"is a {opened.format} file; its suffix is {suffix!r}"


def _hugeness(opened: Image.Image) -> str:
    pixels = opened.width * opened.height
    return f"image has {pixels / 1e6:.0f} million pixels" if pixels > _HUGE else ""


def _orientation(image: AnnotatedImage, opened: Image.Image, apply_exif: bool) -> str:
    orientation = exif_orientation(opened)
    if orientation == 1:
        return ""
    if not apply_exif:
        use = "not applied, as the annotated size is that of the stored image"
    elif orientation >= 5 and image.size and all(image.size):
        use = "applied, as the annotated size is that of the upright image"
    else:
        use = "applied; the annotated size does not tell whether the boxes refer to the upright one"
    return f"EXIF orientation {orientation}: {use}"


def _mode(opened: Image.Image) -> str:
    # Further images of an MPO are views of the same.
    if opened.format != "MPO" and (frames := getattr(opened, "n_frames", 1)) > 1:
        return f"has {frames} frames, of which the first is used"
    has_alpha = "A" in opened.getbands() or "transparency" in opened.info
    if has_alpha and np.asarray(opened.convert("RGBA"))[:, :, 3].min() < 255:
        return "has transparent pixels, which are used with their hidden colour"
    return _MODES.get(opened.mode, "")


def _fingerprint(opened: Image.Image) -> Fingerprint | None:
    # JPEG files are decoded at a fraction of their size.
    opened.draft("L", (4 * _SIDE, 4 * _SIDE))
    # Upright, as the other copy may be turned without the tag.
    turned = exif_orientation(opened) != 1
    upright = ImageOps.exif_transpose(opened) if turned else opened
    grey = np.asarray(upright.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX))
    if grey.std() < _BLANK:
        return None
    lowest = _COSINES @ grey.astype(np.float64) @ _COSINES.T
    # Without the mean, the first.
    values = lowest.ravel()[1:]
    return Fingerprint(_number(values > np.median(values)), grey)


def _number(bits: np.ndarray) -> int:
    return int("".join(map(str, bits.astype(int))), 2)


def _cosines() -> np.ndarray:
    """Return the lowest rows of the matrix of the cosine transform (DCT-II), not normalised."""
    positions = np.arange(_SIDE) + 0.5
    return np.cos(np.pi / _SIDE * np.arange(_FREQUENCIES)[:, None] * positions)


_COSINES = _cosines()
