"""The orientation tag of a JPEG's EXIF data, as Pillow reads it."""

import contextlib

from PIL import Image

ORIENTATION_TAG = 0x0112


def exif_orientation(image: Image.Image) -> int:
    """Read the EXIF orientation of an opened image.

    `Image.getexif` also takes the orientation of XMP data, which
    `decoding.decode_image` and most other readers do not heed.

    Args:
      image: as `Image.open` returns it; its pixels need not be loaded.

    Returns:
      1 to 8; 1 (upright) for other formats than JPEG, and where the EXIF data
      say nothing usable.
    """
    # MPO is JPEG with more images behind the first.
    if image.format not in ("JPEG", "MPO"):
        return 1
    exif = Image.Exif()
    # Damage in the metadata is none in the image: Pillow raises this and that.
    with contextlib.suppress(Exception):
        exif.load(image.info.get("exif", b""))
    orientation = exif.get(ORIENTATION_TAG, 1)
    return orientation if orientation in range(1, 9) else 1
