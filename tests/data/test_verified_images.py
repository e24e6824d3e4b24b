"""Cache of verification results: unchanged images are not read again."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from efficientdet_tf import data
from efficientdet_tf.data.annotations import AnnotatedImage, Annotations
from efficientdet_tf.data.records import DataError, LabelMap
from efficientdet_tf.data.tfrecord import write_tfrecord
from efficientdet_tf.data.validation import validate

REPOSITORY = Path(__file__).resolve().parents[2]
DATABASE = "verified_images-1.sqlite3"
DAMAGED = "image file cannot be decoded; it may be damaged"
UNREADABLE = "image file cannot be read; it must be JPEG, PNG, GIF, BMP or WebP"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("EFFICIENTDET_CACHE", str(folder))
    return folder


@pytest.fixture
def coco_file(tmp_path, write_image):
    """Three images, the last one with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    sizes = {"a.jpg": (64, 48), "b.png": (64, 48), "c.jpg": (48, 64)}
    for name in sizes:
        write_image(tmp_path / name, **({"exif": exif} if name == "c.jpg" else {}))
    content = {
        "categories": [{"id": 7, "name": "cat"}],
        "images": [
            {"id": i, "file_name": name, "width": width, "height": height}
            for i, (name, (width, height)) in enumerate(sizes.items())
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 7, "bbox": [4, 5, 20, 30]} for i in range(3)
        ],
    }
    path = tmp_path / "data.json"
    path.write_text(json.dumps(content))
    return path


def spoil(path, time=0):
    """Damage an image file, keep its size, and shift its modification time by `time` ns."""
    status = path.stat()
    path.write_bytes(b"x" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + time))


def names(coco_file, **options):
    return [Path(record.image).name for record in data.load(str(coco_file), **options).records]


ALL = ["a.jpg", "b.png", "c.jpg"]


def test_unchanged_images_are_not_read_again(cache, coco_file):
    before = data.load(str(coco_file))
    for name in ALL:
        spoil(coco_file.with_name(name))
    after = data.load(str(coco_file))
    assert after.problems == before.problems == ()
    for one, other in zip(before.records, after.records, strict=True):
        assert (one.image, one.height, one.width) == (other.image, other.height, other.width)
        assert one.apply_exif == other.apply_exif
        np.testing.assert_array_equal(one.boxes, other.boxes)
    assert [record.apply_exif for record in after.records] == [False, False, True]


@pytest.mark.parametrize("time", [1, -1, 10**9])
def test_a_touched_image_is_verified_again(cache, coco_file, time):
    assert names(coco_file) == ALL
    spoil(coco_file.with_name("a.jpg"), time)
    loaded = data.load(str(coco_file))
    assert list(loaded.problems) == [f"{coco_file.with_name('a.jpg')}: {UNREADABLE}"]
    assert len(loaded.records) == 2


def test_an_image_of_another_size_is_verified_again(cache, coco_file):
    assert names(coco_file) == ALL
    path = coco_file.with_name("b.png")
    status = path.stat()
    path.write_bytes(b"x" * (status.st_size + 1))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert names(coco_file) == ["a.jpg", "c.jpg"]


def test_a_bad_image_is_read_at_every_start(cache, coco_file):
    path = coco_file.with_name("a.jpg")
    whole, status = path.read_bytes(), path.stat()
    # The header is valid; the pixels are not.
    path.write_bytes(whole[:400] + bytes(len(whole) - 400))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    loaded = data.load(str(coco_file))
    assert list(loaded.problems) == [f"{path}: {DAMAGED}"]
    path.write_bytes(whole)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert names(coco_file) == ALL


def test_a_header_alone_is_no_full_verification(cache, coco_file):
    path = coco_file.with_name("a.jpg")
    whole = path.read_bytes()
    path.write_bytes(whole[:400] + bytes(len(whole) - 400))
    for _ in range(2):
        assert names(coco_file, verify="header") == ALL
        assert names(coco_file, verify="full") == ["b.png", "c.jpg"]
    # A decoded image needs no verification of its header.
    spoil(coco_file.with_name("b.png"))
    assert names(coco_file, verify="header") == ALL


def test_another_way_up_is_decoded_again(cache, coco_file):
    """An image annotated at its stored size is not turned."""
    assert names(coco_file) == ALL
    content = json.loads(coco_file.read_text())
    content["images"][2].update(width=64, height=48)
    coco_file.write_text(json.dumps(content))
    spoil(coco_file.with_name("c.jpg"))
    loaded = data.load(str(coco_file))
    assert list(loaded.problems) == [f"{coco_file.with_name('c.jpg')}: {DAMAGED}"]


def test_a_damaged_database_is_replaced(cache, coco_file):
    cache.mkdir()
    for content in (b"no database" * 100, b""):
        (cache / DATABASE).write_bytes(content)
        assert names(coco_file) == ALL
        with sqlite3.connect(cache / DATABASE) as connection:
            assert connection.execute("SELECT count(*) FROM images").fetchone() == (3,)


def test_a_database_that_is_damaged_further_on_is_ignored(cache, coco_file):
    assert names(coco_file) == ALL
    content = (cache / DATABASE).read_bytes()
    (cache / DATABASE).write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    for _ in range(2):
        assert names(coco_file) == ALL
    spoil(coco_file.with_name("a.jpg"))
    assert names(coco_file) == ALL


def test_without_a_folder_to_write_to_every_image_is_read(cache, coco_file):
    cache.write_text("in the way")
    for _ in range(2):
        assert names(coco_file) == ALL
    spoil(coco_file.with_name("a.jpg"))
    assert names(coco_file) == ["b.png", "c.jpg"]


def test_a_locked_database_is_waited_for_no_longer_than_it_may_save(cache, coco_file, monkeypatch):
    monkeypatch.setattr("efficientdet_tf.data.verified_images._SECONDS_TO_WAIT", 0.1)
    assert names(coco_file) == ALL
    with sqlite3.connect(cache / DATABASE) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        assert names(coco_file) == ALL
    spoil(coco_file.with_name("a.jpg"))
    assert names(coco_file) == ALL


def test_another_tensorflow_decodes_again(cache, coco_file):
    assert names(coco_file) == ALL
    with sqlite3.connect(cache / DATABASE) as connection:
        connection.execute("UPDATE images SET decoder = '1.15'")
    spoil(coco_file.with_name("a.jpg"))
    assert names(coco_file) == ["b.png", "c.jpg"]


def test_images_in_tfrecord_files_are_identified_by_file_and_place(cache, coco_file, tmp_path):
    [file] = write_tfrecord(data.load(str(coco_file)), str(tmp_path / "train.tfrecord"))
    (cache / DATABASE).unlink()
    for _ in range(2):
        assert data.load(file).problems == ()
    with sqlite3.connect(cache / DATABASE) as connection:
        rows = connection.execute("SELECT name, size, modified FROM images").fetchall()
        # The cached result is used as it is.
        connection.execute("UPDATE images SET stored_width = 1, upright_width = 1")
    loaded = data.load(file)
    assert [record.width for record in loaded.records] == [1, 1, 1]
    assert {name for name, _, _ in rows} == {
        f"{file}#{record.image.offset}".encode() for record in loaded.records
    }
    assert min(size for _, size, _ in rows) > 300
    assert {time for _, _, time in rows} == {Path(file).stat().st_mtime_ns}


def test_images_in_memory_are_identified_by_their_bytes(cache, coco_file, tmp_path):
    image = AnnotatedImage(
        image_id=1,
        image=coco_file.with_name("a.jpg").read_bytes(),
        name="a",
        annotation_file="made",
        size=None,
        boxes=np.zeros((0, 4)),
        labels=[],
        numbers=[],
    )
    made = Annotations([image], LabelMap((1,), ("cat",)), {1: 0}, "made", "object", "box", "class")
    assert validate(made).problems == ()
    with sqlite3.connect(cache / DATABASE) as connection:
        [(name, size, modified)] = connection.execute("SELECT name, size, modified FROM images")
        connection.execute("UPDATE images SET stored_width = 1, upright_width = 1")
    assert name.startswith(b"blake2b:") and size == len(image.image) and modified == 0
    assert validate(made).records[0].width == 1


def test_strict_loading_keeps_what_was_verified_before_the_first_problem(cache, coco_file):
    coco_file.with_name("c.jpg").write_bytes(b"no image")
    with pytest.raises(DataError):
        data.load(str(coco_file), strict=True)
    spoil(coco_file.with_name("a.jpg"))
    spoil(coco_file.with_name("b.png"))
    assert names(coco_file) == ["a.jpg", "b.png"]


@pytest.mark.thorough
def test_two_processes_at_once_with_many_threads(cache, coco_file):
    content = json.loads(coco_file.read_text())
    for i in range(3, 40):
        (coco_file.parent / f"{i}.jpg").symlink_to("a.jpg")
        content["images"].append({"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48})
    coco_file.write_text(json.dumps(content))
    program = (
        "import os, sys\nfrom efficientdet_tf import data\nos.cpu_count = lambda: 16\n"
        "sys.stdin.read()\nfor _ in range(3): assert len(data.load(sys.argv[1]).records) == 40\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(coco_file)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        for _ in range(2)
    ]
    for process in processes:
        process.stdin.close()
    for process in processes:
        # No warning of TensorFlow either, about threads that call a function together.
        assert (process.stderr.read(), process.wait()) == (b"", 0)
    with sqlite3.connect(cache / DATABASE) as connection:
        assert connection.execute("SELECT count(*) FROM images").fetchone() == (40,)
