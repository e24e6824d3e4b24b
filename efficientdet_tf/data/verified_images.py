"""Results of image verification, kept so that unchanged files are not read again.

A file is unchanged when its path, size and modification time (in nanoseconds) are
those of before; images in memory are told by a hash of their bytes. Only images that
passed are kept: a bad one is read again at every start, in case it was a bad moment.

The results are in a SQLite file in the cache folder, which several processes may use
at once. It may be deleted at any time; a damaged one is replaced, and without a
writable folder every image is read as if there were none.
"""

import contextlib
import dataclasses
import hashlib
import os
import sqlite3
import threading
from typing import Any

import tensorflow as tf

from efficientdet_tf.cache_directory import cache_directory

# In the file's name; to be raised when verification finds what it did not find before.
_VERSION = 1
_SECONDS_TO_WAIT = 5
# New results are written after as many, in one transaction.
_ROWS_AT_ONCE = 1000

_CREATE = """CREATE TABLE IF NOT EXISTS images (
    name BLOB PRIMARY KEY, size INTEGER, modified INTEGER, decoder TEXT,
    stored_height INTEGER, stored_width INTEGER, upright_height INTEGER, upright_width INTEGER,
    is_turned INTEGER, decoded INTEGER) WITHOUT ROWID"""
_FIND = """SELECT stored_height, stored_width, upright_height, upright_width, is_turned, decoded
    FROM images WHERE name = ? AND size = ? AND modified = ? AND decoder = ?"""
_STORE = "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

# How an image was decoded whole -> bit of the column `decoded`.
_DECODED_BITS = {False: 1, True: 2}


@dataclasses.dataclass(frozen=True)
class ImageHeader:
    """Sizes of an image, of its file's header.

    Attributes:
      stored: (height, width) in pixels as stored in the file.
      upright: (height, width) in pixels, turned by the EXIF orientation.
      is_turned: whether the orientation is another than upright.
    """

    stored: tuple[int, int]
    upright: tuple[int, int]
    is_turned: bool


@dataclasses.dataclass(frozen=True)
class VerifiedImage:
    """What is known of an image.

    Attributes:
      key: name, size in bytes, and modification time in nanoseconds; None for a
        file that cannot be found.
      header: None where it was not read yet.
      decoded: the values of `apply_exif` that it was decoded with, whole.
    """

    key: tuple[bytes, int, int] | None
    header: ImageHeader | None = None
    decoded: frozenset[bool] = frozenset()


class VerifiedImages:
    """The images that passed verification at an earlier start. Safe from threads.

    A context manager: new results are written at its end at the latest.
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

    def find(self, image: str | bytes) -> VerifiedImage:
        """What is known of an image as it is now.

        Args:
          image: path of the image file, or its encoded bytes.
        """
        key = _key(image)
        row = None
        with self._lock, self._ignoring_errors():
            if key and self._connection is not None:
                row = self._connection.execute(_FIND, (*key, tf.__version__)).fetchone()
        if row is None:
            return VerifiedImage(key)
        height, width, upright_height, upright_width, is_turned, bits = row
        header = ImageHeader((height, width), (upright_height, upright_width), bool(is_turned))
        decoded = frozenset(way for way, bit in _DECODED_BITS.items() if bits & bit)
        return VerifiedImage(key, header, decoded)

    def store(self, image: VerifiedImage) -> None:
        """Keep what was found out about an image; its header is known."""
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
                    # The lock lets in one at a time.
                    check_same_thread=False,
                )
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
        """A context without errors of the database: it saves time, no more."""
        try:
            yield
        except sqlite3.OperationalError:
            # Locked for too long, or on a full or read-only disk.
            pass
        except sqlite3.DatabaseError:
            # Damaged, or no database: a new one takes its place, now or at the next start.
            self._connection = None
            with contextlib.suppress(OSError):
                self._path.unlink()


def _key(image: str | bytes) -> tuple[bytes, int, int] | None:
    if isinstance(image, bytes):
        return b"blake2b:" + hashlib.blake2b(image, digest_size=20).digest(), len(image), 0
    try:
        status = os.stat(image)
    except (OSError, ValueError):
        return None
    return os.fsencode(os.path.abspath(image)), status.st_size, status.st_mtime_ns
