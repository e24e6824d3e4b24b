"""Lists of a COCO file, block by block.

A file of a million annotations is larger as Python objects than as text, so its entries stay
text until a block of them is asked for; fields that are not read, such as the polygons, are
never made into objects. What the fast parser does not accept is parsed again by Python's, which
takes NaN and numbers of any size, and whose messages name the line.
"""

import dataclasses
import json
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from efficientdet_tf.data.annotations import read_text
from efficientdet_tf.data.records import DataError

_LISTS = ("images", "annotations", "categories")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLOCK = 4096

_Entry = TypeVar("_Entry")


class _Lists(msgspec.Struct):
    """The lists of a file, each entry as its text."""

    images: list[msgspec.Raw]
    annotations: list[msgspec.Raw]
    categories: list[msgspec.Raw]


@dataclasses.dataclass(frozen=True)
class Block:
    """Consecutive entries of a list.

    Attributes:
      path: the file, for messages.
      first: number of the first entry in the list, counted from 1.
      entries: the entries, as text or parsed.
    """

    path: str
    first: int
    entries: Sequence[Any]

    def typed(self, kind: type[_Entry]) -> list[_Entry] | None:
        """Return the entries as objects of a type; None if one does not have its fields."""
        try:
            if self._is_text():
                return msgspec.json.decode(self._text(), type=list[kind])  # type: ignore[valid-type]
            return msgspec.convert(self.entries, list[kind])  # type: ignore[valid-type]
        except (msgspec.MsgspecError, OverflowError, UnicodeDecodeError):
            return None

    def parsed(self) -> list:
        """Return the entries as Python's own parser reads them.

        Raises:
          DataError: if one is not valid JSON.
        """
        if not self._is_text():
            return list(self.entries)
        try:
            return json.loads(self._text())
        except (ValueError, RecursionError):
            # The whole file again, for a message that names the line.
            parse(self.path)
            raise

    def _is_text(self) -> bool:
        return bool(self.entries) and isinstance(self.entries[0], msgspec.Raw)

    def _text(self) -> bytes:
        return b"[" + b",".join(self.entries) + b"]"


@dataclasses.dataclass(frozen=True)
class CocoFile:
    """A COCO annotation file.

    Attributes:
      path: the file.
      images, annotations, categories: its lists, of entries as text or parsed.
      text: the mapped file that the entries are parts of; None if they are parsed.
    """

    path: str
    images: list
    annotations: list
    categories: list
    text: mmap.mmap | None = None

    @classmethod
    def open(cls, path: str) -> "CocoFile":
        """Open a file, and find the entries of its lists.

        Raises:
          DataError: if it cannot be read, is not valid JSON, or a list is missing.
        """
        try:
            with open(path, "rb") as file:
                text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            begin = len(_BYTE_ORDER_MARK) if text[:3] == _BYTE_ORDER_MARK else 0
            lists = msgspec.json.decode(memoryview(text)[begin:], type=_Lists)
        # An empty file cannot be mapped.
        except (OSError, ValueError, RecursionError, msgspec.MsgspecError):
            content = parse(path)
            return cls(path, content["images"], content["annotations"], content["categories"])
        return cls(path, lists.images, lists.annotations, lists.categories, text)

    def blocks(self, name: str) -> Iterator[Block]:
        """Take the blocks of a list, e.g. "annotations", which is empty afterwards."""
        entries, first = getattr(self, name), 1
        # From its end, so that the memory of each block is free once it has been read.
        entries.reverse()
        while entries:
            yield Block(self.path, first, entries[: -_BLOCK - 1 : -1])
            del entries[-_BLOCK:]
            first += _BLOCK
            if self.text is not None and hasattr(mmap, "MADV_DONTNEED"):
                # The pages that were read can be read again.
                self.text.madvise(mmap.MADV_DONTNEED)


def parse(path: str) -> dict[str, list]:
    """Parse a file as a whole."""
    text = read_text(Path(path))
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno}: not valid JSON: {error.msg}") from error
    except RecursionError as error:
        raise DataError(f"{path}: not valid JSON: nested too deeply") from error
    except ValueError as error:
        # E.g. a number of thousands of digits.
        raise DataError(f"{path}: not valid JSON: {error}") from error
    for key in _LISTS:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path}: {key}: no such list; is it a COCO annotation file?")
    return content
