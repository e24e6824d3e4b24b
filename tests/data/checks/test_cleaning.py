"""The cleaned copy of a faulty data set."""

import hashlib
import shutil

import numpy as np
import pytest
from PIL import Image

from efficientdet_tf import data
from efficientdet_tf.config import Config
from efficientdet_tf.data.checks.cleaning import write_cleaned
from efficientdet_tf.data.checks.result import check_sets
from efficientdet_tf.data.records import DataError
from efficientdet_tf.output_files import OutputError

SMALL = Config().override(
    {"model.image_size": 64, "model.max_level": 5, "anchors.scale": 0.5, "anchors.num_scales": 3}
)


def check(**paths):
    annotations = {split: data.read_annotations(path) for split, path in paths.items()}
    return check_sets(annotations, SMALL)


def contents(folder):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_can_be_corrected_is_and_the_rest_is_left_out(folder, tmp_path):
    folder.categories.pop()
    first = folder.add("a.png", [10, 10, 30, 30], [10, 10, 30, 29], [50, 10, 20, 20])
    folder.add("b.png", [30, 30, -10, -5], [5, 5, 20, 20], [40, 30, 10, 0])
    folder.add("outside.png", [90, 90, 5, 5])
    shutil.copy(first, folder.add("copy.png"))
    folder.add("empty.png").write_bytes(b"")
    folder.add("unknown.png", [5, 5, 20, 20], [30, 5, 20, 20])
    folder.annotations[-1]["category_id"] = 7
    path, before = folder.save(), contents(folder.path)
    [cleaned] = write_cleaned(check(train=path), tmp_path / "clean")
    assert (cleaned.num_images_left_out, cleaned.num_objects_left_out) == (3, 5)
    assert contents(folder.path) == before
    loaded = data.load(str(tmp_path / "clean" / "train.json"), strict=True)
    assert [record.name.rpartition("/")[2] for record in loaded.records] == [
        *("a.png", "b.png", "unknown.png")
    ]
    a, b, unknown = loaded.records
    np.testing.assert_array_equal(a.boxes, [[10, 10, 40, 40], [10, 50, 30, 64]])
    np.testing.assert_array_equal(b.boxes[:2], [[25, 20, 30, 30], [5, 5, 25, 25]])
    # The line is a region to ignore.
    assert b.is_counted.tolist() == [True, True, False]
    assert len(unknown.boxes) == 1
    remaining = check(train=str(tmp_path / "clean" / "train.json"))
    assert [fault.kind for _, fault in remaining.faults if fault.severity == "error"] == []
    # The same again.
    assert write_cleaned(check(train=path), tmp_path / "clean")[0].data.records


def test_the_copy_of_an_unusable_image_is_kept(folder, tmp_path):
    """Within a set, and of an image of the other one."""
    pixels = Image.effect_noise((64, 48), 80)
    # Its box is outside.
    folder.add("a.png", [90, 90, 5, 5], image=pixels)
    folder.add("b.png", image=pixels)
    folder.add("c.png")
    train = folder.save("train.json")
    val = type(folder)(folder.path)
    val.add("d.png", [90, 90, 5, 5], image=Image.open(folder.path / "c.png"))
    val.add("e.png")
    cleaned = write_cleaned(check(train=train, val=val.save("val.json")), tmp_path / "clean")
    names = [[record.name.rpartition("/")[2] for record in each.data.records] for each in cleaned]
    assert names == [["b.png", "c.png"], ["e.png"]]


def test_another_order_of_the_numbers_is_corrected(folder, tmp_path):
    corners = [[5, 5, 20, 30], [30, 10, 62, 40], [20, 2, 60, 46], [40, 30, 64, 48]]
    folder.add("a.png", *corners)
    write_cleaned(check(train=folder.save()), tmp_path / "clean")
    [record] = data.load(str(tmp_path / "clean" / "train.json")).records
    np.testing.assert_array_equal(record.boxes, np.array(corners)[:, [1, 0, 3, 2]])


def test_images_of_both_splits_are_left_out_of_the_training_set(folder, tmp_path):
    shared = folder.add("a.png")
    folder.add("b.png")
    train = folder.save("train.json")
    val = type(folder)(folder.path)
    val.add("c.png", image=Image.open(shared))
    val.add("d.png")
    result = check(train=train, val=val.save("val.json"))
    cleaned = write_cleaned(result, tmp_path / "clean")
    names = [[record.name.rpartition("/")[2] for record in each.data.records] for each in cleaned]
    assert names == [["b.png"], ["c.png", "d.png"]]
    paths = {split: str(tmp_path / "clean" / f"{split}.json") for split in ("train", "val")}
    kinds = {fault.kind for _, fault in check(**paths).faults}
    assert kinds == {"class_empty"}


def test_frames_of_a_fixed_camera_are_kept_where_their_objects_differ(folder, tmp_path):
    """In one set, and of frames of the other one that look the same."""
    pixels = folder.add("background.png", [2, 2, 20, 20])
    copies = {"moved.png": [30, 20, 20, 20], "still.png": [2, 2, 20, 20.5]}
    copies |= {"twice.png": [30, 20, 20, 20], "other.png": [30, 20, 20, 20]}
    for name, box in copies.items():
        category = 2 if name == "other.png" else 1
        # Other bytes of almost the same pixels.
        image = Image.open(pixels).convert("RGB")
        image.putpixel((len(name), ord(name[0]) % 48), (0, 0, 0))
        folder.add(name, box, category=category, image=image)
    # The same bytes, annotated in another way.
    shutil.copy(pixels, folder.add("bytes.png", [40, 20, 20, 20], [5, 30, 10, 10]))
    train = folder.save("train.json")
    [cleaned] = write_cleaned(check(train=train), tmp_path / "clean")
    names = [record.name.rpartition("/")[2] for record in cleaned.data.records]
    assert names == ["background.png", "moved.png", "other.png"]
    assert (cleaned.num_images_left_out, cleaned.num_objects_left_out) == (3, 4)
    val = type(folder)(folder.path)
    val.add("small.png", [15, 10, 10, 10], size=(32, 24), image=Image.open(pixels).resize((32, 24)))
    result = check(train=train, val=val.save("val.json"))
    assert result.counts()["leakage"] == 1
    cleaned = write_cleaned(result, tmp_path / "both")
    names = [[record.name.rpartition("/")[2] for record in each.data.records] for each in cleaned]
    assert names == [["background.png", "other.png"], ["small.png"]]


def test_objects_of_entries_of_the_same_file_are_merged(folder, tmp_path):
    folder.add("a.png", [2, 2, 20, 20])
    folder.add("b.png")
    folder.add("a.png", [30, 20, 20, 20])
    folder.add("a.png", [2, 2, 20, 20])
    folder.add("a.png", [2, 2, 10, 10], size=(65, 48))
    [cleaned] = write_cleaned(check(train=folder.save()), tmp_path / "clean")
    assert (cleaned.num_images_left_out, cleaned.num_objects_left_out) == (0, 2)
    loaded = data.load(str(tmp_path / "clean" / "train.json"), strict=True)
    first, _ = loaded.records
    np.testing.assert_array_equal(first.boxes, [[2, 2, 22, 22], [20, 30, 40, 50]])


def test_a_set_without_an_image_left_and_files_of_the_user_are_refused(folder, tmp_path):
    folder.add("a.png", [90, 90, 5, 5])
    path = folder.save()
    with pytest.raises(DataError) as error:
        write_cleaned(check(train=path), tmp_path / "clean")
    assert str(error.value) == f"{path}: no image is left to write to --fix"
    assert not (tmp_path / "clean").exists()
    folder.add("b.png")
    with pytest.raises(OutputError) as refused:
        write_cleaned(check(train=folder.save()), folder.path)
    assert str(refused.value).startswith(f"--fix: {folder.path} exists and was not written by this")
    with pytest.raises(OutputError) as impossible:
        write_cleaned(check(train=path), folder.path / "b.png" / "clean")
    assert str(impossible.value) == f"--fix: {folder.path / 'b.png' / 'clean'}: Not a directory"
