"""Equal images within a set and in both splits, and the balance of classes."""

import shutil

import numpy as np
import pytest
from PIL import Image

from efficientdet_tf import data
from efficientdet_tf.config import Config
from efficientdet_tf.data.checks import duplicates
from efficientdet_tf.data.checks.image_properties import Fingerprint
from efficientdet_tf.data.checks.result import check_sets


def test_copies_are_found_in_a_set_and_across_splits(folder, faults_of):
    folder.categories.pop()
    first, other = folder.add("a.png"), folder.add("b.png")
    same = folder.add("same.png")
    shutil.copy(first, same)
    train = folder.save("train.json")
    val = type(folder)(folder.path)
    val.categories.pop()
    small = Image.open(other).resize((32, 24))
    val.add("small.jpg", [5, 5, 20, 15], size=(32, 24), image=small, quality=60)
    val.add("new.png")
    exif = Image.Exif()
    exif[0x0112] = 3
    # Upright it is the first image.
    val.add("turned.jpg", image=Image.open(first).rotate(180), exif=exif, quality=95)
    found = [pair for pair in faults_of(train, val.save("val.json")) if "EXIF" not in pair[1]]
    assert found == [
        ("image_duplicate", "same.png: the same file as a.png of this set"),
        ("leakage", "small.jpg: looks the same as b.png of the other split"),
        ("leakage", "turned.jpg: looks the same as a.png of the other split"),
    ]


def test_blank_images_are_no_copies(folder, faults_of):
    folder.categories.pop()
    for number in range(2):
        folder.add(f"{number}.png", image=Image.new("RGB", (64, 48), (0, 0, number)))
    assert faults_of(folder.save()) == []


def test_frames_of_a_fixed_camera_are_not_all_compared_with_each_other(monkeypatch):
    """Two cameras of 1,000 frames with noise: about a million pairs."""
    random = np.random.default_rng(0)
    grey = random.integers(20, 236, (2, 32, 32))
    noisy = [grey[i % 2] + random.integers(-1, 2, (32, 32)) for i in range(2000)]
    # The codes of the frames differ in up to four bits.
    bits = random.integers(0, 63, (2000, 2))
    codes = [i % 2 << 40 | 1 << int(a) ^ 1 << int(b) for i, (a, b) in enumerate(bits)]
    compared, differences = [], duplicates._differences

    def counting(grey, one, others):
        compared.append(len(others))
        return differences(grey, one, others)

    monkeypatch.setattr(duplicates, "_differences", counting)
    frames = [Fingerprint(code, each.astype(np.uint8)) for code, each in zip(codes, noisy)]
    assert duplicates.find_duplicates(frames) == [0, 1] * 1000
    # All pairs are two million, in each of the six bands of the codes.
    assert sum(compared) < 100_000


def test_chains_of_equal_images_are_one_group():
    """Frames of a slowly moving camera, of which only neighbours are equal, in mixed order."""
    grey = np.repeat(np.arange(0, 120, 2, dtype=np.uint8), 1024 * 10).reshape(600, 32, 32)
    grey[:, 0, 0] = np.arange(600) % 10
    frames = [Fingerprint((1 << i // 10) - 1, each) for i, each in enumerate(grey)]
    frames = [frames[i] for i in np.random.default_rng(1).permutation(600)]
    assert duplicates.find_duplicates(frames) == [0] * 600
    far = [Fingerprint(0, np.full((32, 32), 7 * step, np.uint8)) for step in range(10)]
    assert duplicates.find_duplicates(far) == list(range(10))


def test_empty_and_rare_classes(folder, faults_of):
    folder.categories.append({"id": 3, "name": "cow"})
    folder.add("a.png", *[[x, 5, 10, 10] for x in range(0, 52, 2)])
    folder.add("b.png", category=3)
    assert faults_of(folder.save()) == [
        ("class_empty", "set.json: class 'dog': has no object"),
        (
            "class_rare",
            "set.json: class 'cow': has 1 object, where classes with objects have 14 on average",
        ),
    ]


@pytest.mark.parametrize(
    ("paths", "counts"),
    [
        # README of the data: cells that are boxed twice, and two images of almost the same field.
        (
            ["bccd/annotations/instances_train.json", "bccd/annotations/instances_val.json"],
            {"leakage": 1, "box_duplicate": 6, "box_small": 5},
        ),
        (
            [
                "kangaroo/annotations/instances_train.json",
                "kangaroo/annotations/instances_val.json",
            ],
            {"image_truncated": 1, "box_duplicate": 1, "image_duplicate": 1},
        ),
        (
            ["coco128/annotations/instances_train2017_subset.json"],
            {"box_small": 239, "class_empty": 11, "class_rare": 8, "image_unannotated": 2},
        ),
    ],
)
def test_real_sets(shared_data, paths, counts):
    splits = dict(zip(("train", "val"), paths))
    annotations = {
        split: data.read_annotations(str(shared_data / path)) for split, path in splits.items()
    }
    result = check_sets(annotations, Config())
    assert result.counts() == counts
    if "leakage" in counts:
        [fault] = [fault for _, fault in result.faults if fault.kind == "leakage"]
        names = {each.rpartition("/")[2] for each in (fault.image, fault.other)}
        assert names == {"BloodImage_00037.jpg", "BloodImage_00038.jpg"}


def test_splits_of_different_classes_cannot_be_trained_with(folder, faults_of):
    folder.add("a.png")
    train = folder.save("train.json")
    val = type(folder)(folder.path)
    val.categories[1]["name"] = "wolf"
    val.add("b.png", category=2)
    found = faults_of(train, val.save("val.json"))
    assert [line for kind, line in found if kind == "classes_differ"] == [
        "val.json: class 'wolf' (id 2) is not a class of train.json; its classes: 'cat' (id 1), "
        "'dog' (id 2)"
    ]
    # Fewer classes, and other ids.
    val.categories = [{"id": 2, "name": "cat"}]
    assert {kind for kind, _ in faults_of(train, val.save("val.json"))} == {"class_empty"}
