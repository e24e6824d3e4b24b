"""Atomic writing of files: complete even after a crash, a full disk, or a power cut.

Every file that replaces an earlier one is written through this module.
"""

import contextlib
import os
import pathlib
import re
import secrets
from collections.abc import Iterator

from efficientdet_tf.errors import UserError

# Bytes of a name behind the prefix of partial files: file systems have 255.
_LONGEST_NAME = 255 - len("partial.01234567.")
# Names of partial files, which are renamed once they are complete.
_PARTIAL = re.compile(r"partial\.[0-9a-f]{8}\.")


class WriteError(UserError):
    """A file that cannot be written; its previous content is kept."""


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a file atomically: readers see the old or the new content as a whole.

    Args:
      path: path of the file; its folder exists.
      content: text is encoded as UTF-8.

    Raises:
      WriteError: when it cannot be written.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with replacing(path) as partial:
        partial.write_bytes(data)


@contextlib.contextmanager
def replacing(path: str | os.PathLike, flush: bool = True) -> Iterator[pathlib.Path]:
    """Yield a path to write to, whose file replaces `path` on exit.

    The partial file has the suffixes of `path` and the same folder. It is flushed to the
    disk before it is renamed, because a power cut may otherwise leave an empty file. When
    the context raises, `path` is unchanged.

    Args:
      path: path of the file; its folder exists.
      flush: whether to flush the file to the disk. False is faster for many small files,
        after which the caller calls `flush_all`; until then they may be empty after a power
        cut. Default True.

    Raises:
      WriteError: for any `OSError` within the context, which should only write.
    """
    path = pathlib.Path(path)
    # A unique name, not used by another process or the user, and no longer than one may be.
    name = os.fsencode(path.name)[-_LONGEST_NAME:].decode(errors="ignore")
    partial = path.with_name(f"partial.{secrets.token_hex(4)}.{name}")
    try:
        yield partial
        if flush:
            flush_to_disk(partial)
        os.replace(partial, path)
        if flush:
            flush_to_disk(path.parent)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {_reason(error)}") from error
    finally:
        # On a full disk, the partial file may take the remaining space.
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def put_folder_in_place(partial: pathlib.Path, folder: pathlib.Path) -> None:
    """Give a complete folder its name, unless another process was faster with the same content.

    Raises:
      OSError: when it cannot be moved.
    """
    try:
        os.replace(partial, folder)
    except OSError:
        if not folder.is_dir():
            raise


def remove_partial_files(folder: str | os.PathLike) -> None:
    """Remove what a killed process left of files that it was writing to a folder, in depth."""
    for path in pathlib.Path(folder).rglob("partial.*"):
        if _PARTIAL.match(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def flush_all() -> None:
    """Flush all files of the machine to the disk, where the system has a call for it."""
    if hasattr(os, "sync"):
        os.sync()


def flush_to_disk(path: str | os.PathLike) -> None:
    """Flush a file, or the entries of a folder, to the disk.

    Raises:
      OSError: when a file cannot be read; unsupported folders are skipped.
    """
    is_folder = os.path.isdir(path)
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        # Some network file systems, and Windows.
        if not is_folder:
            raise


def _reason(error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return " ".join(reason.split())[:200]
