"""Files that are whole at every moment: after a crash, a full disk, or a power cut.

Whatever replaces a file that somebody may need is written through this module.
"""

import contextlib
import os
import pathlib
from collections.abc import Iterator

from efficientdet_tf.errors import UserError


class WriteError(UserError):
    """A file that cannot be written; what it held before is kept."""


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a file in one step: readers see what it held before, or all of the new content.

    Args:
      path: of the file; its folder exists.
      content: text is encoded as UTF-8.

    Raises:
      WriteError: when it cannot be written.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    with replacing(path) as partial:
        partial.write_bytes(data)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yield a path to write to, whose file replaces `path` once the context is left.

    The partial file has the suffixes of `path` and lies beside it. Its bytes are on the
    disk before it gets its name, because a power cut may otherwise leave a file of length
    zero. When anything is raised in the context, `path` is left as it was.

    Args:
      path: of the file; its folder exists.

    Raises:
      WriteError: for any `OSError` within the context: do nothing but write there.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f"partial.{path.name}")
    try:
        yield partial
        flush_to_disk(partial)
        os.replace(partial, path)
        flush_to_disk(path.parent)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {_reason(error)}") from error
    finally:
        # Of a disk that is full, it may be all that is left.
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def flush_to_disk(path: str | os.PathLike) -> None:
    """Wait until a file, or the names of the files in a folder, are on the disk.

    Raises:
      OSError: when a file cannot be read; folders that know no such thing are passed over.
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
