"""Where the encoded bytes of an image are: in a file of their own, in memory, or within a file.

A file may be on the local disk or at any address that TensorFlow reads, such as gs://.
"""

import dataclasses
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np


class FileRange(NamedTuple):
    """Encoded image within a TFRecord file.

    Attributes:
      file: path of the file.
      offset, length: position of the image's first byte and number of bytes.
      record_offset: position of the first byte of its record.
      record_number: number of its record in the file, from 1.
      modified: modification time of the file in nanoseconds when the image was found there.
    """

    file: str
    offset: int
    length: int
    record_offset: int
    record_number: int
    modified: int = 0


# Path of an image file, encoded bytes, or part of a file.
ImageSource = str | bytes | FileRange


def is_remote(path: str) -> bool:
    """Tell whether a path is an address of one of TensorFlow's file systems, e.g. gs://."""
    return "://" in path


def read_encoded(image: ImageSource) -> bytes:
    """Read the encoded bytes of an image.

    Raises:
      OSError: if they cannot be read, or their file is shorter than when it was indexed.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, str):
        return _read(image, 0, -1)
    content = _read(image.file, image.offset, image.length)
    if len(content) != image.length:
        raise OSError("the file is shorter than when it was indexed")
    return content


def file_or_bytes(image: ImageSource) -> str | io.BytesIO:
    """Return what Pillow opens: the path of an image that is a file of its own, else its bytes.

    Of a path, only as much is read as is needed.

    Raises:
      OSError: if the bytes cannot be read, or their file is shorter than when it was indexed.
    """
    return image if isinstance(image, str) else io.BytesIO(read_encoded(image))


def _read(path: str, offset: int, length: int) -> bytes:
    """Read `length` bytes of a file, all with -1."""
    if is_remote(path):
        return _read_remote(path, offset, length)
    with open(path, "rb") as file:
        if offset:
            file.seek(offset)
        return file.read(length)


def _read_remote(path: str, offset: int, length: int) -> bytes:
    # Detection in local files does without TensorFlow.
    import tensorflow as tf

    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            if offset:
                file.seek(offset)
            return file.read(length)
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(error.message) from error
    except tf.errors.OpError as error:
        raise OSError(error.message) from error


# {field of `FileRange`: array of `FileRanges` with its values}
_COLUMNS = {
    "offset": "offsets",
    "length": "lengths",
    "record_offset": "record_offsets",
    "record_number": "record_numbers",
}


@dataclasses.dataclass(frozen=True, eq=False)
class FileRanges(Sequence[FileRange]):
    """Images within files as columns, made on demand: a few bytes each instead of two hundred.

    Attributes:
      files: [k], path and modification time of each file.
      file_indices: int32 [n], index of each image's file.
      offsets, lengths, record_offsets, record_numbers: int64 [n], see `FileRange`.
    """

    files: Sequence[tuple[str, int]]
    file_indices: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    record_offsets: np.ndarray
    record_numbers: np.ndarray

    @classmethod
    def build(cls, ranges: Iterable[FileRange]) -> "FileRanges":
        """Make the columns of some images."""
        numbers: dict[tuple[str, int], int] = {}
        rows = [
            (
                numbers.setdefault((r.file, r.modified), len(numbers)),
                *(getattr(r, field) for field in _COLUMNS),
            )
            for r in ranges
        ]
        file_indices, *columns = np.array(rows, np.int64).reshape(-1, 1 + len(_COLUMNS)).T
        arrays = dict(zip(_COLUMNS.values(), columns, strict=True))
        return cls(list(numbers), file_indices.astype(np.int32), **arrays)

    @classmethod
    def concatenate(cls, parts: Sequence["FileRanges"]) -> "FileRanges":
        """Join columns in their order."""
        numbers: dict[tuple[str, int], int] = {}
        indices = []
        for part in parts:
            renumbered = [numbers.setdefault(file, len(numbers)) for file in part.files]
            indices.append(np.array(renumbered, np.int32)[part.file_indices])
        return cls(
            list(numbers),
            np.concatenate(indices),
            **{
                column: np.concatenate([getattr(part, column) for part in parts])
                for column in _COLUMNS.values()
            },
        )

    def __len__(self) -> int:
        return len(self.offsets)

    @overload
    def __getitem__(self, index: int) -> FileRange: ...

    @overload
    def __getitem__(self, index: slice) -> list[FileRange]: ...

    def __getitem__(self, index: int | slice) -> FileRange | list[FileRange]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        file, modified = self.files[self.file_indices[index]]
        values = {name: int(getattr(self, column)[index]) for name, column in _COLUMNS.items()}
        return FileRange(file=file, modified=modified, **values)

    def __iter__(self) -> Iterator[FileRange]:
        return (self[i] for i in range(len(self)))


def image_column(images: Sequence[ImageSource]) -> Sequence[ImageSource]:
    """Return images as columns where all are within files."""
    ranges = [image for image in images if isinstance(image, FileRange)]
    return FileRanges.build(ranges) if ranges and len(ranges) == len(images) else images


def join_columns(columns: Sequence[Sequence[ImageSource]]) -> Sequence[ImageSource]:
    """Join what `image_column` returned."""
    filled = [column for column in columns if len(column)]
    ranges = [column for column in filled if isinstance(column, FileRanges)]
    if ranges and len(ranges) == len(filled):
        return FileRanges.concatenate(ranges)
    return [image for column in filled for image in column]
