"""Download of weights files into a cache folder.

A file gets its final name once it is complete and has the expected SHA-256, so that
several processes may download concurrently. If no SHA-256 is published, that of the
first download is recorded beside the file and expected of later ones.
"""

import contextlib
import http.client
import os
import pathlib
import re
import sys
import tarfile
import tempfile
import zlib
from typing import Any

import pooch
from tqdm import tqdm

from efficientdet_tf.cache_directory import cache_directory
from efficientdet_tf.checkpoints.registry import Entry
from efficientdet_tf.errors import UserError
from efficientdet_tf.files import WriteError, put_folder_in_place, write_atomically

_SECONDS_WITHOUT_DATA = 60
_CHUNK = 1 << 16


class DownloadError(UserError):
    """A download that failed or has another hash than expected."""


def fetch(entry: Entry) -> pathlib.Path:
    """Return the folder with an entry's files, downloaded and unpacked if necessary.

    Raises:
      DownloadError: see `fetch_file`; also if the file is no archive.
    """
    folder = cache_directory() / entry.name
    assert entry.url is not None, entry.name
    if not folder.is_dir():
        _unpack(fetch_file(entry.url, entry.sha256), folder)
    return folder


def fetch_file(url: str, pinned: str | None = None) -> pathlib.Path:
    """Return a file in the cache folder, downloaded if necessary.

    With the environment variable EFFICIENTDET_OFFLINE=1 nothing is downloaded.

    Args:
      url: URL whose last part is the file's name in the cache folder.
      pinned: SHA-256 of the file in hexadecimal, or another hash as `md5:...`; None
        for the SHA-256 recorded at the first download. Default None.

    Raises:
      DownloadError: if the download fails, with the URL and the path for a manual
        download; or if the file has another hash.
    """
    path = cache_directory() / url.rpartition("/")[2]
    record = path.with_name(path.name + ".sha256")
    expected = pinned or _recorded(record)
    origin = "pinned in this program" if pinned else f"recorded in {record}"
    if not path.is_file():
        _download(url, path, expected, origin)
    elif expected is not None:
        algorithm, _, digest = expected.rpartition(":")
        found = pooch.file_hash(str(path), algorithm or "sha256")
        if found != digest:
            raise DownloadError(
                f"{path}: its {_hash_name(expected)} is {found} instead of {digest}, {origin}; "
                "delete it and run the command again"
            )
    if expected is None:
        _record(path, record)
    return path


def _download(url: str, path: pathlib.Path, known_hash: str | None, origin: str) -> None:
    """Download to `path`, written once the file is complete and its hash is verified."""
    if os.environ.get("EFFICIENTDET_OFFLINE", "0") not in ("", "0"):
        raise DownloadError(f"{url}: offline by EFFICIENTDET_OFFLINE; put the file at {path}")
    # Pooch logs every download and hash otherwise.
    pooch.get_logger().setLevel("WARNING")
    bar = _ProgressBar(path.name)
    downloader = pooch.HTTPDownloader(
        progressbar=bar,
        chunk_size=_CHUNK,
        timeout=_SECONDS_WITHOUT_DATA,
        # The stored bytes: a compressed transfer would have another hash.
        headers={"Accept-Encoding": "identity"},
    )
    try:
        with contextlib.closing(bar):
            pooch.retrieve(url, known_hash, path.name, path.parent, downloader=downloader)
        # Temporary files are private to their owner, but a cache may be shared.
        path.chmod(0o666 & ~_umask())
    except OSError as error:
        raise DownloadError(
            f"{url}: {_reason(error)}; try again, or put the file at {path}"
        ) from error
    except ValueError as error:
        # Only with a known hash.
        assert known_hash is not None
        digest = known_hash.rpartition(":")[2]
        raise DownloadError(
            f"{url}: its {_hash_name(known_hash)} is not {digest}, {origin}; try again, "
            f"or check what has changed at this address and put the right file at {path}"
        ) from error


def _hash_name(known_hash: str) -> str:
    return "MD5" if known_hash.startswith("md5:") else "SHA-256"


def _umask() -> int:
    """Return the umask of this process."""
    # The umask cannot be read without setting it.
    before = os.umask(0o077)
    os.umask(before)
    return before


class _ProgressBar:
    """Progress bar for pooch, shown from the first bytes on."""

    def __init__(self, name: str) -> None:
        # In bytes, set by pooch; 0 if the server does not send the size.
        self.total = 0
        self._name = name
        self._bar: tqdm | None = None

    def update(self, size: int) -> None:
        """Add received bytes; pooch rounds up the last chunk."""
        if self._bar is None:
            self._bar = tqdm(
                desc=self._name,
                total=self.total or None,
                unit="B",
                unit_scale=True,
                # Keeps a log file from growing by ten lines a second.
                mininterval=0.5 if sys.stderr.isatty() else 30,
            )
        self._bar.update(min(size, self.total - self._bar.n) if self.total else size)

    def reset(self) -> None:
        """Ignore the final reset, which pooch follows by an `update` of all bytes."""

    def close(self) -> None:
        """Close the bar in its current state."""
        if self._bar is not None:
            self._bar.close()


def _reason(error: OSError) -> str:
    """Return the short reason of a failed request."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code} {response.reason}"
    cause: BaseException = error
    while inner := cause.__cause__ or cause.__context__:
        cause = inner
    if isinstance(cause, http.client.IncompleteRead):
        # urllib3 passes numbers where the standard library passes the bytes.
        done: Any = cause.partial
        return f"truncated after {done} of {done + cause.expected} bytes"
    return " ".join(str(cause).split()) or type(cause).__name__


def _recorded(record: pathlib.Path) -> str | None:
    """Read the SHA-256 from a file in the format of `sha256sum`; None if missing."""
    try:
        found = re.match(r"[0-9a-f]{64}\b", record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found and found.group()


def _record(path: pathlib.Path, record: pathlib.Path) -> None:
    """Write the SHA-256 of a file in the format of `sha256sum`."""
    try:
        write_atomically(record, f"{pooch.file_hash(str(path))}  {path.name}\n")
    except (WriteError, OSError) as error:
        raise DownloadError(str(error)) from error


def _unpack(archive: pathlib.Path, folder: pathlib.Path) -> None:
    """Unpack a .tar.gz file into a folder, atomically."""
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as workspace:
            partial = pathlib.Path(workspace, folder.name)
            partial.mkdir()
            with tarfile.open(archive) as tar:
                # Refuses absolute paths, links and anything else outside the folder.
                tar.extractall(partial, filter="data")
            put_folder_in_place(partial, folder)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DownloadError(
            f"{archive}: cannot be unpacked: {reason}; delete it and run the command again"
        ) from error
