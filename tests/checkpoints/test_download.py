"""Downloads from a server in this process: whole, resumed, cut off, wrong, absent."""

import hashlib
import http.server
import io
import re
import tarfile
import threading

import numpy as np
import pytest

from efficientdet_tf.checkpoints import registry
from efficientdet_tf.checkpoints.download import DownloadError, cache_directory, fetch
from efficientdet_tf.checkpoints.pretrained import LOADERS
from efficientdet_tf.checkpoints.registry import Entry, UnknownWeights, find
from efficientdet_tf.config import MODELS


def archive_of(files):
    """The bytes of a .tar.gz of {name: bytes}."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


# Does not compress, so that the archive can be cut.
NOISE = np.random.default_rng(0).bytes(50_000)
ARCHIVE = archive_of({"weights/model.index": b"index", "weights/model.data": NOISE})


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` at every path but /absent, and notes what was asked for."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = ARCHIVE
        self.knows_ranges = True
        # Bytes after which the next connections are cut.
        self.cuts = []
        self.ranges = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/files/weights.tar.gz"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.ranges.append(wanted)
        content = self.server.content
        if self.path == "/absent":
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if not self.server.knows_ranges:
            start = 0
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        body = content[start:]
        self.wfile.write(body[: self.server.cuts.pop(0)] if self.server.cuts else body)


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


WHOLE = {
    "weights.tar.gz",
    "some-weights/weights/model.index",
    "some-weights/weights/model.data",
}


@pytest.mark.parametrize("sha256", [None, hashlib.sha256(ARCHIVE).hexdigest()])
def test_a_file_is_fetched_once(server, cache, sha256, capsys):
    folder = fetch(entry(server, sha256))
    assert folder == cache / "some-weights"
    assert files_in(cache) == WHOLE
    assert (folder / "weights" / "model.data").read_bytes() == NOISE
    assert re.search(r"weights\.tar\.gz: +100%", capsys.readouterr().err)
    assert fetch(entry(server, sha256)) == folder
    assert server.ranges == [None]


def test_a_cut_transfer_is_resumed(server, cache):
    server.cuts = [20_000, 10_000]
    for size in (20_000, 30_000):
        with pytest.raises(DownloadError) as error:
            fetch(entry(server))
        assert str(error.value) == (
            f"{server.url}: cut off after {size} of {len(ARCHIVE)} bytes; "
            "the same command goes on from there"
        )
        assert files_in(cache) == {"weights.tar.gz.partial"}
    fetch(entry(server))
    assert server.ranges == [None, "bytes=20000-", "bytes=30000-"]
    assert files_in(cache) == WHOLE
    assert (cache / "weights.tar.gz").read_bytes() == ARCHIVE


def test_a_server_without_ranges_sends_all_again(server, cache):
    server.knows_ranges = False
    cache.mkdir(parents=True)
    (cache / "weights.tar.gz.partial").write_bytes(b"x" * 100)
    fetch(entry(server))
    assert (cache / "weights.tar.gz").read_bytes() == ARCHIVE


def test_a_partial_file_that_is_whole(server, cache):
    cache.mkdir(parents=True)
    (cache / "weights.tar.gz.partial").write_bytes(ARCHIVE)
    fetch(entry(server))
    assert server.ranges == [f"bytes={len(ARCHIVE)}-"]
    assert files_in(cache) == WHOLE


def test_a_partial_file_that_is_too_long(server, cache):
    cache.mkdir(parents=True)
    (cache / "weights.tar.gz.partial").write_bytes(ARCHIVE + b"more")
    with pytest.raises(DownloadError) as error:
        fetch(entry(server))
    assert str(error.value) == (
        f"{server.url}: {len(ARCHIVE) + 4} bytes instead of {len(ARCHIVE)}; run the command again"
    )
    fetch(entry(server))
    assert files_in(cache) == WHOLE


def test_a_wrong_hash(server, cache):
    with pytest.raises(DownloadError) as error:
        fetch(entry(server, "0" * 64))
    assert str(error.value) == (
        f"{cache}/weights.tar.gz: its SHA-256 is {hashlib.sha256(ARCHIVE).hexdigest()} instead of "
        f"{'0' * 64}; it was deleted, run the command again"
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
    # Nobody listens on the port of a server that is closed.
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
    assert server.ranges == []


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
    assert files_in(cache) == {"weights.tar.gz"}
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
