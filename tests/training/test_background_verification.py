"""Decoding of all images beside the training."""

import sqlite3

import pytest

import tiny
from efficientdet_tf import data
from efficientdet_tf.data import image_verification
from efficientdet_tf.training.background_verification import BackgroundVerification

DAMAGED = "image file cannot be decoded; it may be damaged"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFICIENTDET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "verified_images-1.sqlite3"


@pytest.fixture
def coco_file(tmp_path):
    """Four images, of which the second is damaged after its header."""
    path = tiny.write_coco_file(tmp_path / "coco", 4)
    image = tmp_path / "coco" / "00002.jpg"
    content = image.read_bytes()
    image.write_bytes(content[:400] + bytes(len(content) - 400))
    return path


def decoded(cache) -> list[bool]:
    with sqlite3.connect(cache) as connection:
        rows = connection.execute("SELECT decoded FROM images ORDER BY name").fetchall()
    return [bool(bits) for (bits,) in rows]


def test_images_are_decoded_after_loading_and_damaged_ones_named(cache, coco_file, capsys):
    loaded = data.load(coco_file, verify="background")
    # Only headers were read: the order of the training does not depend on the rest.
    assert len(loaded) == 4 and decoded(cache) == [False] * 4
    bad = loaded.records[1].name
    for _ in range(2):
        with BackgroundVerification(loaded, loaded) as verification:
            verification.wait()
        assert decoded(cache) == [True, False, True, True]
        assert capsys.readouterr().err.splitlines() == 2 * [
            f"{bad}: {DAMAGED}; training skips it",
            f"{coco_file}: 4 images verified: 1 cannot be decoded",
        ]
    # What was found shortens later loading, and a resumed training has the same images.
    assert len(data.load(coco_file, verify="background")) == 4
    full = data.load(coco_file, verify="full")
    assert list(full.problems) == [f"{bad}: {DAMAGED}"]


def test_by_default_only_large_sets_are_decoded_beside_the_training(cache, coco_file, monkeypatch):
    monkeypatch.setattr(image_verification, "MOST_DECODED_FIRST", 3)
    assert len(data.load(coco_file)) == 4 and decoded(cache) == [False] * 4
    monkeypatch.setattr(image_verification, "MOST_DECODED_FIRST", 4)
    assert len(data.load(coco_file)) == 3 and decoded(cache) == [True, False, True, True]


def test_it_ends_with_the_training(cache, coco_file, capsys):
    loaded = data.load(coco_file, verify="background")
    verification = BackgroundVerification(loaded)
    verification._is_stopped.set()
    with verification:
        pass
    assert decoded(cache) == [False] * 4
    assert capsys.readouterr().err == ""
