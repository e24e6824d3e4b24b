"""Image files of a written data set: their names, and hard links or copies of the source's."""

import io
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from efficientdet_tf.data.annotations import IMAGE_SUFFIXES
from efficientdet_tf.data.image_sources import ImageSource, file_or_bytes, read_encoded
from efficientdet_tf.data.orientation import exif_orientation
from efficientdet_tf.data.records import Record
from efficientdet_tf.files import WriteError, replacing

# Pillow's names of the formats of images -> suffix of a file.
_SUFFIXES = {"JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "GIF": ".gif", "BMP": ".bmp"}
_WEBP = ".webp"


def image_names(records: Sequence[Record], taken: Iterable[str] = ()) -> list[str]:
    """Choose a file name for each image: its own, or its id if it is not in a file.

    Names differ without their suffix, and without case, as annotation files are named after
    them. An image whose name is taken gets its id added.

    Args:
      records: the images.
      taken: names without suffix that others have. Default none.
    """
    used = {name.lower() for name in taken}
    names = []
    for record in records:
        stem, suffix = _stem_and_suffix(record)
        unique, number = stem, 1
        while unique.lower() in used:
            unique = f"{stem}-{record.image_id}" + (f"-{number}" if number > 1 else "")
            number += 1
        used.add(unique.lower())
        names.append(unique + suffix)
    return names


def _stem_and_suffix(record: Record) -> tuple[str, str]:
    if isinstance(record.image, str):
        path = Path(record.image)
        if path.suffix.lower() in IMAGE_SUFFIXES:
            return path.stem.strip() or str(record.image_id), path.suffix
        return path.name.strip(), _suffix_of_content(record.image)
    return f"{record.image_id:012}", _suffix_of_content(record.image)


def _suffix_of_content(image: ImageSource) -> str:
    with Image.open(file_or_bytes(image)) as opened:
        return _SUFFIXES.get(str(opened.format), _WEBP)


def in_threads(function: Callable[[int], Any], count: int, title: str) -> list:
    """Call a function for 0 to count - 1 in threads, with a progress bar on a terminal.

    Returns:
      What it returns, in order.

    Raises:
      WriteError: the first that the function raises; calls that have not begun are dropped.
    """
    pool = ThreadPoolExecutor(4 * (os.cpu_count() or 1))
    try:
        results = pool.map(function, range(count))
        # Only on a terminal.
        return list(tqdm(results, total=count, desc=title, unit="image", disable=None))
    finally:
        pool.shutdown(cancel_futures=True)


def place_image(record: Record, target: Path, copy: bool, without_size: bool) -> None:
    """Write an image file, unless it is there already.

    Args:
      record: the image.
      target: the path to write; its folder exists.
      copy: whether to copy a file. Otherwise it is hard-linked, which takes neither time nor
        space, and copied only where links are impossible, e.g. to another disk.
      without_size: whether the written annotations have no image size, from which readers
        tell whether they refer to the stored or the upright image. An image whose annotations
        refer to the stored one is then written without its EXIF orientation.

    Raises:
      WriteError: if it cannot be written.
    """
    if without_size and not record.apply_exif and _is_turned(record.image):
        _write_bytes(_without_exif(record.image), target)
    elif isinstance(record.image, str):
        link_or_copy(record.image, target, copy)
    else:
        _write_bytes(read_encoded(record.image), target)


def link_or_copy(source: str, target: Path, copy: bool) -> None:
    """Hard-link or copy a file, unless it is there already; see `place_image`."""
    if _is_there(source, target, copy):
        return
    with replacing(target, flush=False) as partial:
        if not copy:
            try:
                os.link(os.path.realpath(source), partial)
                return
            except FileNotFoundError:
                raise
            except OSError:
                # Another disk, or a file system without links.
                pass
        shutil.copy2(source, partial)


def _is_there(source: str, target: Path, copy: bool) -> bool:
    """Tell whether an earlier call wrote the file; each is written atomically, so complete."""
    try:
        new, old = os.stat(source), os.stat(target)
    except OSError:
        return False
    if (new.st_dev, new.st_ino) == (old.st_dev, old.st_ino):
        return not copy
    # Copies have the modification time of their source.
    return (new.st_size, new.st_mtime_ns) == (old.st_size, old.st_mtime_ns)


def _write_bytes(content: bytes, target: Path) -> None:
    if not (target.is_file() and target.stat().st_size == len(content)):
        with replacing(target, flush=False) as partial:
            partial.write_bytes(content)


def _is_turned(image: ImageSource) -> bool:
    with Image.open(file_or_bytes(image)) as opened:
        return exif_orientation(opened) != 1


def _without_exif(image: ImageSource) -> bytes:
    """Encode an image of a JPEG file again, with the same quality and without EXIF."""
    try:
        with Image.open(file_or_bytes(image)) as opened:
            file = io.BytesIO()
            quality = "keep" if opened.format == "JPEG" else 95
            opened.save(file, "JPEG", quality=quality, exif=b"")
            return file.getvalue()
    except (OSError, ValueError) as error:
        raise WriteError(f"{image!r}: cannot be written without EXIF: {error}") from error
