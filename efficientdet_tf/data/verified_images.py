"""Cache of image verification results, so that unchanged files are not read again.

A file is unchanged if its path, size and modification time (in nanoseconds) are
unchanged; images within a file are identified by it and their place, images in
memory by a hash of their bytes. Only images that
passed are cached: a failed one is read again at every start, as the failure may be
transient.

The cache is a SQLite file in the cache folder, safe for several processes. It may be
deleted at any time; a damaged one is replaced, and without a writable folder every
image is read.
"""

import contextlib
import dataclasses
import hashlib
import os
import sqlite3
import threading
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from efficientdet_tf.cache_directory import cache_directory
from efficientdet_tf.data.image_sources import FileRange, ImageSource, is_remote

# Part of the file's name; increment it when verification becomes stricter.
_VERSION = 1
_SECONDS_TO_WAIT = 5
# Number of new results that are written in one transaction.
_ROWS_AT_ONCE = 1000
# Number of names in one query: SQLite allows 999 parameters at least.
_NAMES_AT_ONCE = 500

# Name, size in bytes, and modification time in nanoseconds of an image.
_Key = tuple[bytes, int, int]

_CREATE = """CREATE TABLE IF NOT EXISTS images (
    name BLOB PRIMARY KEY, size INTEGER, modified INTEGER, decoder TEXT,
    stored_height INTEGER, stored_width INTEGER, upright_height INTEGER, upright_width INTEGER,
    is_turned INTEGER, decoded INTEGER) WITHOUT ROWID"""
_FIND = """SELECT name, size, modified, stored_height, stored_width, upright_height,
    upright_width, is_turned, decoded FROM images WHERE decoder = ? AND name IN ({})"""
_STORE = "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

# `apply_exif` of a complete decoding -> bit of the column `decoded`.
_DECODED_BITS = {False: 1, True: 2}


@dataclasses.dataclass(frozen=True)
class ImageHeader:
    """Sizes of an image, from its file's header.

    Attributes:
      stored: (height, width) in pixels as stored in the file.
      upright: (height, width) in pixels, with the EXIF orientation applied.
      is_turned: whether the EXIF orientation is other than upright.
    """

    stored: tuple[int, int]
    upright: tuple[int, int]
    is_turned: bool


@dataclasses.dataclass(frozen=True)
class VerifiedImage:
    """Verification results of an image.

    Attributes:
      key: name, size in bytes, and modification time in nanoseconds; None if the
        file is missing.
      header: sizes from the header; None if not read yet. Default None.
      decoded: the values of `apply_exif` with which the image was completely
        decoded. Default none.
    """

    key: _Key | None
    header: ImageHeader | None = None
    decoded: frozenset[bool] = frozenset()


class VerifiedImages:
    """Thread-safe cache of the images that passed verification.

    A context manager: new results are written on exit at the latest.
    """

    def __init__(self) -> None:
        self._path = cache_directory() / f"verified_images-{_VERSION}.sqlite3"
        self._lock = threading.Lock()
        self._new_rows: list[tuple] = []
        self._connection = self._open()

    def __enter__(self) -> "VerifiedImages":
        return self

    def __exit__(self, *exception: Any) -> None:
        with self._lock:
            self._write()
            if self._connection is not None:
                self._connection.close()

    def find(self, keys: Sequence[_Key | None]) -> list[VerifiedImage]:
        """Look up the results of images, given by `image_key`, in their current state."""
        found: dict[_Key, VerifiedImage] = {}
        present = [key for key in keys if key is not None]
        for begin in range(0, len(present), _NAMES_AT_ONCE):
            for row in self._rows([name for name, *_ in present[begin : begin + _NAMES_AT_ONCE]]):
                verified = _verified(*row)
                if verified.key is not None:
                    found[verified.key] = verified
        return [found.get(key, VerifiedImage(key)) if key else VerifiedImage(key) for key in keys]

    def _rows(self, names: list[bytes]) -> list[tuple]:
        with self._lock, self._ignoring_errors():
            if self._connection is not None:
                query = _FIND.format(", ".join("?" * len(names)))
                return self._connection.execute(query, (tf.__version__, *names)).fetchall()
        return []

    def store(self, image: VerifiedImage) -> None:
        """Store the results of an image whose header has been read."""
        header = image.header
        if image.key is None or header is None:
            return
        sizes = (*header.stored, *header.upright, header.is_turned)
        bits = sum(_DECODED_BITS[way] for way in image.decoded)
        with self._lock:
            self._new_rows.append((*image.key, tf.__version__, *sizes, bits))
            if len(self._new_rows) >= _ROWS_AT_ONCE:
                self._write()

    def _open(self) -> sqlite3.Connection | None:
        for _ in range(2):
            with self._ignoring_errors(), contextlib.suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                connection = sqlite3.connect(
                    self._path,
                    timeout=_SECONDS_TO_WAIT,
                    # The lock serialises all access.
                    check_same_thread=False,
                )
                # What a crash of the machine loses is read again.
                connection.execute("PRAGMA synchronous = OFF")
                connection.execute(_CREATE)
                return connection
        return None

    def _write(self) -> None:
        rows, self._new_rows = self._new_rows, []
        with self._ignoring_errors():
            if rows and self._connection is not None:
                with self._connection:
                    self._connection.executemany(_STORE, rows)

    @contextlib.contextmanager
    def _ignoring_errors(self):
        """Suppress database errors: the cache only saves time."""
        try:
            yield
        except sqlite3.OperationalError:
            # Locked for too long, or on a full or read-only disk.
            pass
        except sqlite3.DatabaseError:
            # Damaged, or no database: replaced by a new one, now or at the next start.
            self._connection = None
            with contextlib.suppress(OSError):
                self._path.unlink()


def _verified(
    name: bytes,
    size: int,
    modified: int,
    height: int,
    width: int,
    upright_height: int,
    upright_width: int,
    is_turned: int,
    bits: int,
) -> VerifiedImage:
    """Return what a row of the database says."""
    header = ImageHeader((height, width), (upright_height, upright_width), bool(is_turned))
    decoded = frozenset(way for way, bit in _DECODED_BITS.items() if bits & bit)
    return VerifiedImage((name, size, modified), header, decoded)


def image_key(image: ImageSource) -> _Key | None:
    """Return what identifies an image in its current state; None if its file is missing.

    Args:
      image: path of the image file, its encoded bytes, or where these are in a file.
    """
    if isinstance(image, FileRange):
        file = image.file if is_remote(image.file) else os.path.abspath(image.file)
        return os.fsencode(f"{file}#{image.offset}"), image.length, image.modified
    if isinstance(image, bytes):
        return b"blake2b:" + hashlib.blake2b(image, digest_size=20).digest(), len(image), 0
    try:
        status = os.stat(image)
    except (OSError, ValueError):
        return None
    return os.fsencode(os.path.abspath(image)), status.st_size, status.st_mtime_ns
