"""Downloads from a local server: complete, truncated, wrong, missing, concurrent."""

import hashlib
import http.server
import io
import os
import pathlib
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import threading

import numpy as np
import pytest

from efficientdet_tf.cache_directory import cache_directory
from efficientdet_tf.checkpoints import registry
from efficientdet_tf.checkpoints.download import DownloadError, fetch
from efficientdet_tf.checkpoints.pretrained import LOADERS
from efficientdet_tf.checkpoints.registry import Entry, UnknownWeights, find
from efficientdet_tf.config import MODELS

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def archive_of(files):
    """Return the bytes of a .tar.gz of {name: bytes}."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


# Incompressible, so that the archive can be truncated.
NOISE = np.random.default_rng(0).bytes(50_000)
ARCHIVE = archive_of({"weights/model.index": b"index", "weights/model.data": NOISE})


class Server(http.server.ThreadingHTTPServer):
    """Server of `content` at every path except /absent; records the requests."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = ARCHIVE
        # Bytes after which the next connections are cut.
        self.cuts = []
        self.requests = 0
        # Where as many connections wait for each other in the middle of the file.
        self.barrier = threading.Barrier(1)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/files/weights.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.requests += 1
        content = self.server.content
        if self.path == "/absent":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.server.cuts:
            self.wfile.write(content[: self.server.cuts.pop(0)])
            return
        self.wfile.write(content[: len(content) // 2])
        self.server.barrier.wait(60)
        self.wfile.write(content[len(content) // 2 :])


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "deep" / "cache"
    monkeypatch.setenv("EFFICIENTDET_CACHE", str(folder))
    monkeypatch.delenv("EFFICIENTDET_OFFLINE", raising=False)
    return folder


def entry(server, sha256=None, url=None):
    return Entry("some-weights", "published", "", url=url or server.url, sha256=sha256)


def files_in(cache):
    return {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()}


RECORD = "weights.tar.gz.sha256"
SHA256 = hashlib.sha256(ARCHIVE).hexdigest()
WHOLE = {
    "weights.tar.gz",
    RECORD,
    "some-weights/weights/model.index",
    "some-weights/weights/model.data",
}


def forget_unpacked(cache):
    """Delete the unpacked folder, and keep the archive and its hash."""
    shutil.rmtree(cache / "some-weights")


@pytest.mark.parametrize("sha256", [None, SHA256], ids=["unknown", "pinned"])
def test_a_file_is_fetched_once(server, cache, sha256, capsys):
    folder = fetch(entry(server, sha256))
    assert folder == cache / "some-weights"
    # A pinned hash needs no record.
    assert files_in(cache) == WHOLE - ({RECORD} if sha256 else set())
    assert (folder / "weights" / "model.data").read_bytes() == NOISE
    err = capsys.readouterr().err
    assert re.search(r"weights\.tar\.gz: +100%", err)
    # Only the progress bar, and no output of the library.
    assert all("weights.tar.gz: " in line for line in re.split(r"[\r\n]", err) if line.strip())
    assert fetch(entry(server, sha256)) == folder
    assert server.requests == 1


def test_what_is_fetched_can_be_read_by_others_as_far_as_the_user_allows(server, cache):
    before = os.umask(0o022)
    try:
        fetch(entry(server))
    finally:
        os.umask(before)
    assert stat.S_IMODE((cache / "weights.tar.gz").stat().st_mode) == 0o644
    assert stat.S_IMODE((cache / "some-weights").stat().st_mode) == 0o755


def test_a_cut_transfer_leaves_nothing_and_starts_again(server, cache):
    server.cuts = [20_000]
    with pytest.raises(DownloadError) as error:
        fetch(entry(server))
    assert str(error.value) == (
        f"{server.url}: truncated after 20000 of {len(ARCHIVE)} bytes; "
        f"try again, or put the file at {cache}/weights.tar.gz"
    )
    assert files_in(cache) == set()
    fetch(entry(server))
    assert server.requests == 2
    assert files_in(cache) == WHOLE


FETCH = """
import sys
from efficientdet_tf.checkpoints.download import fetch
from efficientdet_tf.checkpoints.registry import Entry
print(fetch(Entry("some-weights", "published", "", url=sys.argv[1])))
"""


def test_two_processes_at_once_both_end_with_whole_files(server, cache):
    server.barrier = threading.Barrier(2)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", FETCH, server.url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
        )
        for _ in range(2)
    ]
    for process in processes:
        out, err = process.communicate()
        assert (process.returncode, out) == (0, f"{cache}/some-weights\n"), err
    # Both were half-way at the same time.
    assert server.requests == 2
    assert files_in(cache) == WHOLE
    assert (cache / "weights.tar.gz").read_bytes() == ARCHIVE
    assert (cache / "some-weights" / "weights" / "model.data").read_bytes() == NOISE


def test_the_hash_of_the_first_download_is_recorded_and_checked_ever_after(server, cache):
    fetch(entry(server))
    assert (cache / RECORD).read_text() == f"{SHA256}  weights.tar.gz\n"
    forget_unpacked(cache)
    (cache / "weights.tar.gz").unlink()
    server.content = archive_of({"weights/model.index": b"of somebody else"})
    with pytest.raises(DownloadError) as error:
        fetch(entry(server))
    assert str(error.value) == (
        f"{server.url}: its SHA-256 is not {SHA256}, recorded in {cache}/{RECORD}; try again, or "
        "check what has changed at this address and put the right file at "
        f"{cache}/weights.tar.gz"
    )
    assert files_in(cache) == {RECORD}
    # It is trusted by deleting the record.
    (cache / RECORD).unlink()
    fetch(entry(server))
    assert (cache / RECORD).read_text().split()[0] == hashlib.sha256(server.content).hexdigest()


def test_an_archive_that_was_changed_in_the_cache_is_named(server, cache):
    fetch(entry(server))
    forget_unpacked(cache)
    (cache / "weights.tar.gz").write_bytes(b"changed")
    with pytest.raises(DownloadError) as error:
        fetch(entry(server))
    assert str(error.value) == (
        f"{cache}/weights.tar.gz: its SHA-256 is {hashlib.sha256(b'changed').hexdigest()} instead "
        f"of {SHA256}, recorded in {cache}/{RECORD}; delete it and run the command again"
    )


@pytest.mark.parametrize("record", [b"", b"\x00\xff", b"no hash"])
def test_a_damaged_record_is_written_again(server, cache, record):
    cache.mkdir(parents=True)
    (cache / RECORD).write_bytes(record)
    fetch(entry(server))
    assert (cache / RECORD).read_text().split()[0] == SHA256


def test_a_pinned_hash(server, cache):
    with pytest.raises(DownloadError) as error:
        fetch(entry(server, "0" * 64))
    assert str(error.value) == (
        f"{server.url}: its SHA-256 is not {'0' * 64}, pinned in this program; try again, or check "
        f"what has changed at this address and put the right file at {cache}/weights.tar.gz"
    )
    assert files_in(cache) == set()


def test_an_absent_file(server, cache):
    url = server.url.replace("/files/weights.tar.gz", "/absent")
    with pytest.raises(DownloadError) as error:
        fetch(entry(server, url=url))
    assert str(error.value) == (
        f"{url}: HTTP 404 Not Found; try again, or put the file at {cache}/absent"
    )
    assert files_in(cache) == set()


def test_no_server(server, cache):
    # The port of a closed server is unused.
    server.shutdown()
    server.server_close()
    with pytest.raises(DownloadError) as error:
        fetch(entry(server))
    assert re.fullmatch(
        rf"{server.url}: .*[Cc]onnection refused; try again, or put the file at "
        rf"{cache}/weights\.tar\.gz",
        str(error.value),
    )


def test_offline(server, cache, monkeypatch):
    monkeypatch.setenv("EFFICIENTDET_OFFLINE", "1")
    with pytest.raises(DownloadError) as error:
        fetch(entry(server))
    assert str(error.value) == (
        f"{server.url}: offline by EFFICIENTDET_OFFLINE; put the file at {cache}/weights.tar.gz"
    )
    cache.mkdir(parents=True)
    (cache / "weights.tar.gz").write_bytes(ARCHIVE)
    assert fetch(entry(server)) == cache / "some-weights"
    assert files_in(cache) == WHOLE
    assert server.requests == 0


@pytest.mark.parametrize(
    "content", [b"hello", ARCHIVE[:20_000], archive_of({"../outside": b"", "in": b""})]
)
def test_a_file_that_is_no_safe_archive(server, cache, content):
    server.content = content
    with pytest.raises(DownloadError) as error:
        fetch(entry(server))
    archive = re.escape(f"{cache}/weights.tar.gz")
    message = rf"{archive}: cannot be unpacked: .+; delete it and run the command again"
    assert re.fullmatch(message, str(error.value))
    assert files_in(cache) == {"weights.tar.gz", RECORD}
    assert not (cache / "outside").exists() and not (cache / "some-weights").exists()


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("EFFICIENTDET_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("EFFICIENTDET_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "efficientdet"


def test_every_entry():
    archives = {name: entry for name, entry in registry.ENTRIES.items() if entry.url}
    assert set(archives) == set(MODELS) - {"efficientdet-lite3x"}
    for name, listed in archives.items():
        assert listed.name == listed.model == name
        file = listed.url.rpartition("/")[2]
        assert listed.url.startswith("https://") and file in (f"{name}.tar.gz", f"{name}.tgz")
        assert listed.sha256 is None or re.fullmatch("[0-9a-f]{64}", listed.sha256)
    for listed in registry.ENTRIES.values():
        assert listed.kind in LOADERS and listed.licence


def test_what_a_source_means(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "efficientdet-d1").mkdir()
    (tmp_path / "model.ckpt-5.index").touch()
    assert find("efficientdet-d1") is registry.ENTRIES["efficientdet-d1"]
    assert find("./efficientdet-d1").is_dir()
    assert find("model.ckpt-5").name == "model.ckpt-5"
    with pytest.raises(UnknownWeights) as error:
        find("efficientdet-d9")
    assert str(error.value) == (
        "efficientdet-d9: no such file, folder or name; did you mean 'efficientdet-d7'?"
    )
    with pytest.raises(UnknownWeights, match="^runs/none: no such file, folder or name"):
        find("runs/none")
