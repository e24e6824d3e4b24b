"""Files of weights from the internet, kept in a cache folder."""

import hashlib
import http
import http.client
import os
import pathlib
import shutil
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib

from tqdm import tqdm

from efficientdet_tf.checkpoints.registry import Entry
from efficientdet_tf.errors import UserError

_SECONDS_WITHOUT_DATA = 60
_CHUNK = 1 << 20


class DownloadError(UserError):
    """A file that could not be fetched whole."""


def cache_directory() -> pathlib.Path:
    """Where downloads are kept: `$EFFICIENTDET_CACHE`, else ~/.cache/efficientdet."""
    chosen = os.environ.get("EFFICIENTDET_CACHE")
    return pathlib.Path(chosen) if chosen else pathlib.Path.home() / ".cache" / "efficientdet"


def fetch(entry: Entry) -> pathlib.Path:
    """The folder with an entry's files, downloaded and unpacked where it is not yet.

    With the environment variable EFFICIENTDET_OFFLINE=1 nothing is downloaded.

    Raises:
      DownloadError: naming the URL, and where the file may be put by hand.
    """
    folder = cache_directory() / entry.name
    if folder.is_dir():
        return folder
    archive = cache_directory() / entry.url.rpartition("/")[2]
    if not archive.is_file():
        _download(entry.url, archive)
    _check_sha256(archive, entry.sha256)
    _unpack(archive, folder)
    return folder


def _download(url: str, path: pathlib.Path) -> None:
    """Writes `path` when it is whole; until then, and after a failure, a partial file."""
    if os.environ.get("EFFICIENTDET_OFFLINE", "0") not in ("", "0"):
        raise DownloadError(f"{url}: offline by EFFICIENTDET_OFFLINE; put the file at {path}")
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        size, expected = _receive(url, partial)
    except urllib.error.HTTPError as error:
        raise DownloadError(f"{url}: HTTP {error.code} {error.reason}; {_by_hand(path)}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"{url}: {reason}; {_by_hand(path)}") from error
    if expected is not None and size < expected:
        raise DownloadError(
            f"{url}: cut off after {size} of {expected} bytes; the same command goes on from there"
        )
    if expected is not None and size > expected:
        partial.unlink()
        raise DownloadError(f"{url}: {size} bytes instead of {expected}; run the command again")
    os.replace(partial, path)


def _by_hand(path: pathlib.Path) -> str:
    return f"try again, or put the file at {path}"


def _receive(url: str, partial: pathlib.Path) -> tuple[int, int | None]:
    """Appends what is missing to a partial file.

    Returns:
      Its size in bytes now, and the size that the server says it should have.
    """
    start = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=_SECONDS_WITHOUT_DATA)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        # Nothing is left to send: "Content-Range: bytes */size".
        size = error.headers.get("Content-Range", "").rpartition("/")[2]
        return start, int(size) if size.isdigit() else start
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0
        length = response.headers.get("Content-Length")
        expected = start + int(length) if length else None
        with partial.open("ab" if start else "wb") as file:
            _copy(response, file, start, expected)
        return partial.stat().st_size, expected


def _copy(response, file, start: int, expected: int | None) -> None:
    with tqdm(
        desc=os.path.basename(file.name).removesuffix(".partial"),
        initial=start,
        total=expected,
        unit="B",
        unit_scale=True,
        # A log file should not grow by ten lines a second.
        mininterval=0.5 if sys.stderr.isatty() else 30,
    ) as bar:
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            bar.update(len(chunk))


def _check_sha256(path: pathlib.Path, expected: str | None) -> None:
    if expected is None:
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    found = digest.hexdigest()
    if found != expected:
        path.unlink()
        raise DownloadError(
            f"{path}: its SHA-256 is {found} instead of {expected}; it was deleted, "
            "run the command again"
        )


def _unpack(archive: pathlib.Path, folder: pathlib.Path) -> None:
    """Unpacks a .tar.gz file into a folder that appears only when it is whole."""
    partial = tempfile.mkdtemp(prefix=folder.name + ".", suffix=".partial", dir=folder.parent)
    try:
        with tarfile.open(archive) as tar:
            # Refuses absolute paths, links and whatever else leads out of the folder.
            tar.extractall(partial, filter="data")
        os.replace(partial, folder)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DownloadError(
            f"{archive}: cannot be unpacked: {reason}; delete it and run the command again"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
