"""COCO reader: what is excluded and named, and files that cannot be used."""

import pathlib

import pytest
from PIL import Image

from coco_content import content
from efficientdet_tf import data
from efficientdet_tf.data import DataError


def problems_of(values, write_coco) -> list[str]:
    path = write_coco(values)
    loaded = data.load(path)
    with pytest.raises(DataError) as error:
        data.load(path, strict=True)
    assert str(error.value) == loaded.problems[0]
    return [problem.replace(path, "FILE") for problem in loaded.problems]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, "image_id: 99 is not among the images"),
        ({"image_id": "7"}, "image_id: image id '7' is a string; ids must be whole numbers"),
        ({"image_id": [7]}, "image_id: image id [7] is not a whole number of 64 bits"),
        ({"image_id": None}, "image_id: image id None is not a whole number of 64 bits"),
    ],
)
def test_an_annotation_that_cannot_be_read_is_excluded_and_named(write_coco, change, message):
    values = content()
    values["annotations"][0].update(change)
    assert problems_of(values, write_coco) == [f"FILE: annotation 1: {message}"]
    loaded = data.load(write_coco(values))
    assert [len(record.boxes) for record in loaded.records] == [1, 1]


@pytest.mark.parametrize("box", [[1, 2, 3], None, [1, 2, 3, "4"], "1 2 3 4"])
def test_an_image_with_an_annotation_without_a_box_is_excluded(write_coco, box):
    values = content()
    values["annotations"][1]["bbox"] = box
    message = f"bbox: must be four numbers, is {box!r}; image excluded"
    assert problems_of(values, write_coco) == [f"FILE: annotation 2: {message}"]
    assert [record.image_id for record in data.load(write_coco(values)).records] == [3]


NUL = "image 1 of the list: file_name: 'a\\x00.jpg' holds control characters"

SURROGATE = "image 1 of the list: file_name: '\\ud800.jpg' is not valid UTF-8; rename the file"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 6}, "category_id: 6 is not a known category"),
        ({"bbox": [10, 5, 0, 30]}, "bbox: has no width or no height"),
        ({"bbox": [10, 5, 20, -1]}, "bbox: has no width or no height"),
        ({"category_id": [5]}, "category_id: '[5]' is not a known category"),
        ({"category_id": {"id": 5}}, "category_id: \"{'id': 5}\" is not a known category"),
    ],
)
def test_an_unusable_annotation_is_ignored_and_named(write_coco, change, message):
    values = content()
    values["annotations"][0].update(change)
    message = f"{message}; ignored in training and evaluation"
    assert problems_of(values, write_coco) == [f"FILE: annotation 1: {message}"]
    loaded = data.load(write_coco(values))
    assert [record.is_ignored.tolist() for record in loaded.records] == [[True, False], [False]]


@pytest.mark.parametrize(
    ("bbox", "message"),
    [
        ([64, 5, 20, 30], "lies outside the image of 64 x 48 pixels"),
        ([-30, 5, 20, 30], "lies outside the image of 64 x 48 pixels"),
        ([float("nan"), 5, 20, 30], "is not finite"),
        ([1e400, 5, 20, 30], "is not finite"),
        ([10**400, 5, 20, 30], "is not finite"),
        ([1e300, 5, 20, 30], "is not finite"),
        ([0, 0, 0, 0], "is all zeros"),
    ],
)
def test_an_image_with_an_object_of_unknown_position_is_excluded_and_named(
    write_coco, bbox, message
):
    values = content()
    values["annotations"][0]["bbox"] = bbox
    message = f"annotation 1: bbox: {message}; image excluded"
    assert problems_of(values, write_coco) == [f"FILE: {message}"]
    assert [record.image_id for record in data.load(write_coco(values)).records] == [3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "7"}, "image 1 of the list: image id '7' is a string; ids must be whole numbers"),
        ({"id": True}, "image 1 of the list: image id True is not a whole number of 64 bits"),
        ({"id": [7]}, "image 1 of the list: image id [7] is not a whole number of 64 bits"),
        ({"id": 7.5}, "image 1 of the list: image id 7.5 is not a whole number of 64 bits"),
        ({"id": 2**63}, f"image 1 of the list: image id {2**63} is not a whole number of 64 bits"),
        ({"id": 3}, "image 2 of the list: image id 3 occurs twice"),
        ({"file_name": None}, "image 1 of the list: file_name: is missing"),
        ({"file_name": " "}, "image 1 of the list: file_name: is empty"),
        ({"file_name": "a\0.jpg"}, NUL),
        ({"file_name": "\ud800.jpg"}, SURROGATE),
    ],
)
def test_a_bad_image_entry_is_excluded_and_named(write_coco, change, message):
    values = content()
    values["images"][0].update(change)
    values["annotations"] = values["annotations"][2:]
    assert problems_of(values, write_coco) == [f"FILE: {message}"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            '{"images": [],\n oops',
            "line 2: not valid JSON: Expecting property name enclosed in double quotes",
        ),
        ("[" * 100_000, "not valid JSON: nested too deeply"),
        ("[]", "images: no such list; is it a COCO annotation file?"),
        ({"images": []}, "annotations: no such list; is it a COCO annotation file?"),
        (content() | {"categories": []}, "categories: is empty"),
        (content() | {"images": []}, "images: is empty"),
        (
            content() | {"images": [{"id": "12", "file_name": "a.jpg"}]},
            "images: none can be used; the first problem: image 1 of the list: image id '12' is a "
            "string; ids must be whole numbers",
        ),
        (
            content() | {"categories": [{"id": "1", "name": "a"}]},
            "categories: category id '1' is a string; ids must be whole numbers",
        ),
        (
            content() | {"categories": [{"id": 10**30, "name": "a"}]},
            f"categories: category id {10**30} is not a whole number of 64 bits",
        ),
        (
            content() | {"categories": [{"id": 1, "name": ["a"]}]},
            "categories: name of 1: must be a text",
        ),
        (
            content() | {"categories": [{"id": 1}]},
            "categories: each needs an id, a number, and a name",
        ),
        (
            content() | {"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]},
            "categories: an id occurs twice",
        ),
    ],
)
def test_a_file_that_is_no_coco_file_is_an_error(write_coco, values, message):
    path = write_coco(values)
    with pytest.raises(DataError) as error:
        data.load(path)
    assert str(error.value) == f"{path}: {message}"


def test_an_image_name_that_is_too_long_is_one_of_a_missing_file(write_coco):
    values = content()
    values["images"][0]["file_name"] = "a" * 300 + ".jpg"
    loaded = data.load(write_coco(values))
    assert len(loaded.records) == 1
    [problem] = loaded.problems
    assert problem.endswith("a.jpg: image file is missing")


def test_a_file_of_another_encoding_is_an_error(write_coco):
    path = pathlib.Path(write_coco(content()))
    path.write_bytes(path.read_bytes().replace(b'"file_name": "', b'"file_name": "\xe4', 1))
    with pytest.raises(DataError) as error:
        data.load(str(path))
    assert str(error.value) == f"{path}: not a text file in UTF-8"


def test_a_missing_file_is_an_error(tmp_path):
    path = str(tmp_path / "no.json")
    with pytest.raises(DataError) as error:
        data.load(path)
    assert str(error.value) == f"{path}: cannot be read: No such file or directory"


def test_a_number_of_thousands_of_digits_is_one_line(write_coco):
    path = write_coco('{"images": [' + "1" * 5000 + "]}")
    with pytest.raises(DataError) as error:
        data.load(path)
    assert str(error.value).startswith(f"{path}: not valid JSON: Exceeds the limit (4300 digits)")
    assert "\n" not in str(error.value)


def test_a_missing_or_damaged_image_is_excluded_and_named(write_coco, tmp_path):
    path = write_coco(content())
    broken, whole = tmp_path / "images" / "a.jpg", tmp_path / "images" / "b.png"
    encoded = broken.read_bytes()
    broken.write_bytes(encoded[:-100])
    message = f"{broken}: image file cannot be decoded; it may be damaged"
    assert list(data.load(path).problems) == [message]
    # Reading headers only does not see it.
    assert data.load(path, verify="header").problems == ()
    for verify in ("full", "header"):
        broken.write_text("no image at all")
        message = f"{broken}: image file cannot be read; it must be JPEG, PNG, GIF, BMP or WebP"
        assert list(data.load(path, verify=verify).problems) == [message]
    broken.unlink()
    assert list(data.load(path).problems) == [f"{broken}: image file is missing"]
    Image.open(whole).save(broken, "TIFF")
    message = f"{broken}: is a TIFF file; use JPEG, PNG, GIF, BMP or WebP"
    assert list(data.load(path).problems) == [message]


def test_an_image_of_another_size_is_excluded_and_named(write_coco, tmp_path):
    values = content()
    values["images"][0]["width"] = 640
    [problem] = problems_of(values, write_coco)
    image = tmp_path / "images" / "a.jpg"
    assert problem == f"{image}: image is 64 x 48 pixels, but annotated as 640 x 48 pixels"


def test_nothing_usable_is_an_error(write_coco, tmp_path):
    values = content()
    values["images"] = values["images"][:1]
    values["annotations"] = values["annotations"][:1]
    path = write_coco(values)
    image = tmp_path / "images" / "a.jpg"
    image.write_text("no image at all")
    with pytest.raises(DataError) as error:
        data.load(path)
    assert str(error.value) == (
        f"{path}: has no usable image; the first problem: {image}: image file cannot be read; "
        "it must be JPEG, PNG, GIF, BMP or WebP"
    )


def test_problems_are_one_warning_that_names_ten(write_coco, warnings_of):
    values = content()
    bad = values["annotations"][0] | {"bbox": [5, 5, 0, 0]}
    values["annotations"] += [bad | {"id": number} for number in range(100, 112)]
    path = write_coco(values)
    data.load(path)
    fault = "bbox: has no width or no height; ignored in training and evaluation"
    lines = [f"{path}: annotation {number}: {fault}" for number in range(100, 110)]
    expected = "\n  ".join([f"{path}: 12 problems, excluded or ignored:", *lines, "... and 2 more"])
    assert warnings_of()[0] == expected
