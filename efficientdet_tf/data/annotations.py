"""Annotations as parsed by the reader of a data format, before any check."""

import dataclasses
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from efficientdet_tf.data.image_sources import ImageSource
from efficientdet_tf.data.records import DataError, LabelMap

# The image formats that `decoding.decode_image` reads, and their file name endings.
IMAGE_FORMATS = "JPEG, PNG, GIF, BMP or WebP"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".jpe", ".jfif", ".mpo")
# Endings of unsupported image formats, which are reported; other files in an image folder are not.
OTHER_IMAGE_SUFFIXES = (
    *(".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".jpeg2000"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".tga", ".pcx", ".ico", ".dib", ".svg", ".psd"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raw", ".exr", ".hdr", ".dcm"),
)
# Ids are stored in 64 bits, in TFRecord files and exported models.
LARGEST_ID = 2**63 - 1
# Far above any image's side, and far below what overflows in float32.
_LARGEST_COORDINATE = 1e30
# Fractions of an image's size never reach it; coordinates in pixels nearly always do.
_SURELY_PIXELS = 2.0


@dataclasses.dataclass(frozen=True)
class AnnotatedImage:
    """One image and its objects, as annotated in a file.

    Attributes:
      image_id: see `records.Record`.
      image: path of the image file, its encoded bytes, or where these are in a file.
      name: name of the image in messages; its path if it has one.
      annotation_file: the file that lists the objects, for messages.
      size: annotated (height, width) in pixels, None if missing.
      boxes: float [n, 4], ymin, xmin, ymax, xmax, in pixels or as fractions
        of the image's size.
      labels: [n], the categories in the format's terms: category ids or names.
      numbers: [n], the objects' numbers or ids in the file, for messages.
      is_crowd: [n], empty for none.
      area: [n] in pixels, empty if the format has none.
      is_difficult: [n], Pascal VOC's flag, empty if the format has none.
      unplaced: one line for each annotated object of unknown position, as its box
        cannot be read. Such an image is excluded, because the object would be
        trained as background.
    """

    image_id: int
    image: ImageSource
    name: str
    annotation_file: str
    size: tuple[int, int] | None
    boxes: np.ndarray
    labels: Sequence[Hashable]
    numbers: Sequence[int | str]
    is_crowd: Sequence[bool] = ()
    area: Sequence[float] = ()
    is_difficult: Sequence[bool] = ()
    unplaced: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Annotations:
    """All annotations of a data set, as parsed from its files.

    Attributes:
      images: the images in the order of the data set.
      label_map: the categories.
      class_indices: mapping from a label of the format to its class index.
      source: name of the data set in messages.
      object_word: the format's word for an object, e.g. "annotation".
      box_field: the format's field of an object's box.
      box_form: the order of its numbers: "xywh", "cxcywh", or "" for
        named corners. Default "".
      label_field: the format's field of an object's category.
      ignored_labels: labels of regions to ignore, which are no categories.
      fractions: whether boxes are fractions of the image's size.
      problems: one line for each entry that the reader excluded; a `faults.Fault` if
        its kind is more than that.
      notes: one line for each kind of entry that was not used as written; see `problems`.
      box_only: kind of annotation, e.g. "polygon" -> number of objects that have it, and
        of which only the box is used.
    """

    images: Sequence[AnnotatedImage]
    label_map: LabelMap
    class_indices: Mapping[Hashable, int]
    source: str
    object_word: str
    box_field: str
    label_field: str
    fractions: bool = False
    box_form: str = ""
    ignored_labels: Collection[Hashable] = ()
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()
    box_only: Mapping[str, int] = dataclasses.field(default_factory=dict)


def boxes_array(boxes: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """Convert to float64 [n, 4], n may be 0; replace coordinates beyond any image by infinity."""
    array = np.array(boxes, np.float64).reshape(-1, 4)
    return np.where(np.abs(array) > _LARGEST_COORDINATE, np.copysign(np.inf, array), array)


def as_id(value: object) -> int | None:
    """Convert an integral number of 64 bits to int; return None for all else, strings included."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value) if abs(value) <= LARGEST_ID else None


def pixels_among_fractions(numbers: Iterable[float]) -> str:
    """Describe coordinates that are no fractions of an image's size; "" if all are."""
    for number in numbers:
        if _SURELY_PIXELS <= abs(number) < np.inf:
            return (
                f"{number:g} looks like pixels; it must be a fraction of the image's size, 0 to 1"
            )
    return ""


def file_name_problem(name: str) -> str:
    """Describe why an image's file name is invalid on any disk; "" if it is valid."""
    if not name.strip():
        return "is empty"
    if min(name) < " ":
        return f"{name!r} holds control characters"
    try:
        name.encode()
    except UnicodeEncodeError:
        return f"{name!r} is not valid UTF-8; rename the file"
    return ""


def read_text(file: Path) -> str:
    """Read a text file in UTF-8, without the byte-order mark that some editors write.

    Raises:
      DataError: if the file cannot be read, or has another encoding.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not a text file in UTF-8") from error
