"""EXIF orientation of a JPEG, read with Pillow."""

import contextlib

from PIL import Image

ORIENTATION_TAG = 0x0112


def exif_orientation(image: Image.Image) -> int:
    """Read the EXIF orientation of an opened image.

    `Image.getexif` also uses the orientation of XMP data, which
    `decoding.decode_image` and most other readers ignore.

    Args:
      image: the result of `Image.open`; its pixels need not be loaded.

    Returns:
      1 to 8; 1 (upright) for other formats than JPEG, and if the EXIF data have
      no valid orientation.
    """
    # MPO is JPEG with further images after the first.
    if image.format not in ("JPEG", "MPO"):
        return 1
    exif = Image.Exif()
    # Damaged metadata do not make the image unusable: Pillow raises many kinds of errors.
    with contextlib.suppress(Exception):
        exif.load(image.info.get("exif", b""))
    orientation = exif.get(ORIENTATION_TAG, 1)
    return orientation if orientation in range(1, 9) else 1
