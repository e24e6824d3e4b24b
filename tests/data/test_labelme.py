"""LabelMe reader: shapes, images inside and outside, splits, and messages about invalid files."""

import base64
import json
import math
import os

import numpy as np
import pytest

from efficientdet_tf import data
from efficientdet_tf.data import DataError


def shape(label="cat", kind="rectangle", points=((10, 5), (30, 35)), **more) -> dict:
    return {"label": label, "shape_type": kind, "points": points, **more}


def write(file, *shapes, image="", **more):
    file.parent.mkdir(parents=True, exist_ok=True)
    size = {"imageHeight": 48, "imageWidth": 64}
    content = {"shapes": shapes, "imagePath": image or f"{file.stem}.jpg", **size, **more}
    file.write_text(json.dumps(content))
    return file


def test_reads_shapes_with_an_area(tmp_path, write_image, warnings_of):
    shapes = [
        shape(points=[[30, 35], [10, 5]]),
        shape("dog", "polygon", [[0, 0], [10, 0], [0, 20]], difficult=True),
        shape("dog", "circle", [[30, 20], [33, 24]]),
        shape("dog", "mask", [[1, 2], [5, 8]], mask="..."),
        shape("cat", "rotation", [[10, 10], [20, 20], [15, 25], [5, 15]], direction=0.79),
        shape("tail", "linestrip", [[1, 2], [5, 8]]),
        shape("eye", "point", [[1, 2]]),
    ]
    write(tmp_path / "a.json", *shapes)
    for name in ("a", "other"):
        write_image(tmp_path / f"{name}.jpg")
    write(tmp_path / "deep" / "b.json", shape())
    loaded = data.load(str(tmp_path))
    assert data.format_name(str(tmp_path)) == "labelme"
    assert loaded.label_map.ids == (1, 2) and loaded.label_map.names == ("cat", "dog")
    [record] = loaded.records
    expected = [[5, 10, 35, 30], [0, 0, 20, 10], [15, 25, 25, 35], [2, 1, 8, 5], [10, 5, 25, 20]]
    np.testing.assert_allclose(record.boxes, expected, rtol=1e-6)
    np.testing.assert_allclose(record.area, [600, 100, math.pi * 25, 24, 100], rtol=1e-6)
    assert record.is_difficult.tolist() == [False, True, False, False, False]
    assert loaded.box_only == {"polygon": 1, "circle": 1, "mask": 1, "rotation": 1}
    assert loaded.problems == ()
    assert warnings_of()[:4] == [
        f"{tmp_path}: 1 of shape_type 'point' have no area; not used as objects",
        f"{tmp_path}: 1 of shape_type 'linestrip' have no area; not used as objects",
        f"{tmp_path}: .json files in folders inside it: 1, e.g. {tmp_path}/deep/b.json; not used",
        f"{tmp_path}: images without a JSON file are not used: 1, e.g. other.jpg",
    ]


def test_file_names_that_are_not_utf_8_are_reported(tmp_path, write_image):
    """Of a ZIP file of Windows."""
    for name in ("a", "b"):
        write_image(write(tmp_path / f"{name}.json", shape()).with_suffix(".jpg"))
    for suffix in (".json", ".jpg"):
        folder = os.fsencode(tmp_path)
        os.rename(folder + f"/b{suffix}".encode(), folder + b"/caf\xe9" + suffix.encode())
    assert data.format_name(str(tmp_path)) == "labelme"
    loaded = data.load(str(tmp_path))
    assert [record.name for record in loaded.records] == [f"{tmp_path}/a.jpg"]
    assert loaded.problems == (
        f"{tmp_path}: file name 'caf\\udce9' is not valid UTF-8; rename the file",
    )


def test_names_may_differ_in_case(tmp_path, write_image):
    write_image(write(tmp_path / "0.json", shape()).with_suffix(".JPG"))
    write_image(write(tmp_path / "1.JSON", shape()).with_suffix(".jpg"))
    assert [record.name for record in data.load(str(tmp_path)).records] == [
        *(f"{tmp_path}/0.JPG", f"{tmp_path}/1.jpg")
    ]


def test_an_image_may_be_elsewhere_or_inside(tmp_path, write_image):
    image = write_image(tmp_path / "photos" / "x.jpg")
    inside = base64.b64encode(image.read_bytes()).decode()
    write(tmp_path / "set" / "a.json", shape(), image="..\\photos\\x.jpg")
    write(tmp_path / "set" / "b.json", shape(), imageData=inside)
    write(tmp_path / "set" / "c.json", shape(), imageData="no base64!")
    loaded = data.load(str(tmp_path / "set"))
    assert loaded.records[1].image == image.read_bytes()
    assert [record.image_id for record in loaded.records] == [1, 2]
    file = tmp_path / "set" / "c.json"
    reason = "image file cannot be read; it must be JPEG, PNG, GIF, BMP or WebP"
    assert list(loaded.problems) == [f"{file}: imageData: {reason}"]


def test_folders_are_splits_with_common_labels(tmp_path, write_image):
    for name, label in (("train/a", "cat"), ("val/b", "ant")):
        write(tmp_path / f"{name}.json", shape(label))
        write_image(tmp_path / f"{name}.jpg")
    train, val = data.load(str(tmp_path)), data.load(str(tmp_path), split="val")
    assert train.label_map.names == val.label_map.names == ("ant", "cat")
    assert len(train) == len(val) == 1 and data.lacks_validation(str(tmp_path)) == ""
    lack = "a LabelMe folder without a folder val"
    assert data.lacks_validation(str(tmp_path / "train")) == lack
    (tmp_path / "labels.txt").write_text("cat\nant\n")
    assert data.load(str(tmp_path)).label_map.names == ("cat", "ant")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (shape(points=[[1, 2, 3], [1, 2]]), "points: must be pairs of numbers, is [[1, 2, 3], "),
        (shape(points=None), "points: must be pairs of numbers, is None; image excluded"),
        (shape(kind="circle", points=[[1, 2]] * 3), "points: a circle has two, its centre and one"),
        (shape(kind="cloud"), "shape_type: 'cloud' is unknown; image excluded"),
        ("no", "is not an object; image excluded"),
    ],
)
def test_an_image_with_a_bad_shape_is_excluded(tmp_path, write_image, bad, reason):
    for name in "ab":
        write_image(tmp_path / f"{name}.jpg")
    file = write(tmp_path / "a.json", shape(), bad)
    write(tmp_path / "b.json", shape())
    loaded = data.load(str(tmp_path))
    [problem] = loaded.problems
    assert problem.startswith(f"{file}: shape 2: {reason}")
    assert [record.image_id for record in loaded.records] == [2]


def test_a_bad_file_is_a_problem(tmp_path, write_image):
    write_image(tmp_path / "a.jpg")
    write(tmp_path / "a.json", shape())
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").write_text("[]")
    assert list(data.load(str(tmp_path)).problems) == [
        f"{tmp_path / 'b.json'}: not valid JSON",
        f"{tmp_path / 'c.json'}: shapes: no such list; is it a file of LabelMe?",
    ]
    write(tmp_path / "a.json")
    with pytest.raises(DataError) as error:
        data.load(str(tmp_path))
    assert str(error.value) == f"{tmp_path}: there is no object with a name"


@pytest.mark.parametrize("with_file", [False, True])
def test_regions_to_ignore_are_ignored(tmp_path, write_image, with_file):
    if with_file:
        (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ncat\n")
    write_image(tmp_path / "a.jpg")
    write(tmp_path / "a.json", shape(), shape("__ignore__"))
    loaded = data.load(str(tmp_path))
    assert loaded.label_map.names == ("cat",)
    assert loaded.records[0].is_ignored.tolist() == [False, True]
    # As it is meant.
    assert loaded.problems == ()
