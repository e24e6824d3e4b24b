"""COCO reader: valid files, and messages about invalid ones."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from efficientdet_tf import data
from efficientdet_tf.data import DataError


def content() -> dict:
    return {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 64, "height": 48},
            {"id": 3, "file_name": "b.png", "width": 64, "height": 48},
        ],
        "categories": [{"id": 90, "name": "late"}, {"id": 5, "name": "early"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [10, 5, 20, 30], "area": 123.5},
            {"id": 2, "image_id": 7, "category_id": 5, "bbox": [0, 0, 64, 48], "iscrowd": 1},
            {"id": 3, "image_id": 3, "category_id": 5, "bbox": [60, 40, 10, 10]},
        ],
    }


@pytest.fixture
def write(tmp_path, write_image):
    """Write the annotations, and the two images into the folder "images"."""

    def write_all(values, folder="images"):
        write_image(tmp_path / folder / "a.jpg")
        write_image(tmp_path / folder / "b.png")
        path = tmp_path / "annotations" / "instances_val.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(values if isinstance(values, str) else json.dumps(values))
        return str(path)

    return write_all


def problems_of(values, write) -> list[str]:
    path = write(values)
    loaded = data.load(path)
    with pytest.raises(DataError) as error:
        data.load(path, strict=True)
    assert str(error.value) == loaded.problems[0]
    return [problem.replace(path, "FILE") for problem in loaded.problems]


def test_reads_boxes_crowd_area_and_sparse_ids(write):
    loaded = data.load(write(content()))
    assert loaded.label_map.ids == (5, 90)
    assert loaded.label_map.names == ("early", "late")
    first, second = loaded.records
    assert (first.image_id, first.height, first.width) == (7, 48, 64)
    np.testing.assert_array_equal(first.boxes, [[5, 10, 35, 30], [0, 0, 48, 64]])
    np.testing.assert_array_equal(first.classes, [1, 0])
    np.testing.assert_array_equal(first.is_crowd, [False, True])
    # Without an annotated area it is that of the box.
    np.testing.assert_array_equal(first.area, [123.5, 64 * 48])
    # A box that is partly outside is clipped.
    np.testing.assert_array_equal(second.boxes, [[40, 60, 48, 64]])
    assert loaded.problems == ()


@pytest.mark.parametrize(
    "folder", ["annotations", "images", "JPEGImages", "val", "images/val", "annotations/images", ""]
)
def test_finds_the_images(write, folder):
    assert len(data.load(write(content(), folder))) == 2


def test_images_elsewhere_are_named(write, tmp_path):
    path = write(content(), "elsewhere")
    with pytest.raises(DataError) as error:
        data.load(path, split="val")
    message = str(error.value)
    assert message.startswith(f"{path}: its images, e.g. a.jpg, are not in any of ")
    assert message.endswith(
        "; name their folder: --set data.val_images=FOLDER, or --images=FOLDER for eval.py"
    )
    with pytest.raises(DataError, match="--set data.train_images=FOLDER"):
        data.load(path)
    assert len(data.load(path, images=str(tmp_path / "elsewhere"))) == 2
    missing = str(tmp_path / "missing")
    with pytest.raises(DataError) as error:
        data.load(path, images=missing)
    assert str(error.value) == f"{missing}: no such folder, given as the images of {path}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 99}, "image_id: 99 is not among the images"),
        ({"image_id": "7"}, "image_id: image id '7' is a string; ids must be whole numbers"),
        ({"image_id": [7]}, "image_id: image id [7] is not a whole number of 64 bits"),
        ({"image_id": None}, "image_id: image id None is not a whole number of 64 bits"),
    ],
)
def test_an_annotation_that_cannot_be_read_is_excluded_and_named(write, change, message):
    values = content()
    values["annotations"][0].update(change)
    assert problems_of(values, write) == [f"FILE: annotation 1: {message}"]
    loaded = data.load(write(values))
    assert [len(record.boxes) for record in loaded.records] == [1, 1]


@pytest.mark.parametrize("box", [[1, 2, 3], None, [1, 2, 3, "4"], "1 2 3 4"])
def test_an_image_with_an_annotation_without_a_box_is_excluded(write, box):
    values = content()
    values["annotations"][1]["bbox"] = box
    message = f"bbox: must be four numbers, is {box!r}; image excluded"
    assert problems_of(values, write) == [f"FILE: annotation 2: {message}"]
    assert [record.image_id for record in data.load(write(values)).records] == [3]


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
def test_an_unusable_annotation_is_ignored_and_named(write, change, message):
    values = content()
    values["annotations"][0].update(change)
    message = f"{message}; ignored in training and evaluation"
    assert problems_of(values, write) == [f"FILE: annotation 1: {message}"]
    loaded = data.load(write(values))
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
def test_an_image_with_an_object_of_unknown_position_is_excluded_and_named(write, bbox, message):
    values = content()
    values["annotations"][0]["bbox"] = bbox
    message = f"annotation 1: bbox: {message}; image excluded"
    assert problems_of(values, write) == [f"FILE: {message}"]
    assert [record.image_id for record in data.load(write(values)).records] == [3]


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
def test_a_bad_image_entry_is_excluded_and_named(write, change, message):
    values = content()
    values["images"][0].update(change)
    values["annotations"] = values["annotations"][2:]
    assert problems_of(values, write) == [f"FILE: {message}"]


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
def test_a_file_that_is_no_coco_file_is_an_error(write, values, message):
    path = write(values)
    with pytest.raises(DataError) as error:
        data.load(path)
    assert str(error.value) == f"{path}: {message}"


def test_an_image_name_that_is_too_long_is_one_of_a_missing_file(write):
    values = content()
    values["images"][0]["file_name"] = "a" * 300 + ".jpg"
    loaded = data.load(write(values))
    assert len(loaded.records) == 1
    [problem] = loaded.problems
    assert problem.endswith("a.jpg: image file is missing")


def test_a_file_of_another_encoding_is_an_error(write):
    path = pathlib.Path(write(content()))
    path.write_bytes(path.read_bytes().replace(b'"file_name": "', b'"file_name": "\xe4', 1))
    with pytest.raises(DataError) as error:
        data.load(str(path))
    assert str(error.value) == f"{path}: not a text file in UTF-8"


def test_a_missing_file_is_an_error(tmp_path):
    path = str(tmp_path / "no.json")
    with pytest.raises(DataError) as error:
        data.load(path)
    assert str(error.value) == f"{path}: cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("value", "is_crowd"),
    [(0, False), ("0", False), ("", False), ([1], False), (1, True), ("1", True), (True, True)],
)
def test_iscrowd_may_be_a_text(write, value, is_crowd):
    values = content()
    values["annotations"][0]["iscrowd"] = value
    assert data.load(write(values)).records[0].is_crowd.tolist() == [is_crowd, True]


@pytest.mark.parametrize("area", [1e400, "12", [12], True, None])
def test_an_area_that_is_no_number_is_that_of_the_box(write, area):
    values = content()
    values["annotations"][0]["area"] = area
    assert data.load(write(values)).records[0].area.tolist() == [600, 64 * 48]


def test_repeated_annotation_ids_are_reported_and_all_used(write, warnings_of):
    values = content()
    values["annotations"][1]["id"] = 1
    path = write(values)
    loaded = data.load(path)
    assert [len(record.boxes) for record in loaded.records] == [2, 1]
    assert loaded.problems == ()
    assert warnings_of()[0] == (
        f"{path}: 1 annotation id occurs more than once, e.g. 1; all of these annotations are "
        "used, where pycocotools takes the last of an id for each"
    )


def test_a_large_file_is_read_like_a_small_one(write, write_image, tmp_path):
    """Entries are read in blocks of 4096; an unusual one has its block examined one by one."""
    values = content()
    write_image(tmp_path / "images" / "a.jpg")
    many = 10_000
    values["images"] = [values["images"][0] | {"id": i} for i in range(many)]
    values["annotations"] = [
        {"id": i, "image_id": (i * 7) % many, "category_id": 5, "bbox": [1, 2, 3 + i % 9, 4]}
        for i in range(many)
    ]
    changes = {
        # In an otherwise plain block, and in an unusual one.
        17: {"image_id": -1},
        5000: {"bbox": None},
        6000: {"category_id": "5"},
        7000: {"image_id": "7"},
        9000: {"iscrowd": "1", "id": 8999},
    }
    for i, change in changes.items():
        values["annotations"][i] |= change
    values["images"][9999]["file_name"] = 9
    path = write(values)
    loaded = data.load(path, verify="header")
    assert [problem.removeprefix(f"{path}: ") for problem in loaded.problems] == [
        "image 10000 of the list: file_name: is missing",
        "annotation 17: image_id: -1 is not among the images",
        # Of the image whose entry cannot be used.
        "annotation 2857: image_id: 9999 is not among the images",
        "annotation 7000: image_id: image id '7' is a string; ids must be whole numbers",
        "annotation 6000: category_id: '5' is not a known category; "
        "ignored in training and evaluation",
        "annotation 5000: bbox: must be four numbers, is None; image excluded",
    ]
    ids = [record.image_id for record in loaded.records]
    assert ids == [i for i in range(9999) if i != 5000]
    boxes = {record.image_id: record.boxes.tolist() for record in loaded.records}
    for number in (0, 4095, 4096, 9998):
        assert boxes[(number * 7) % many] == [[2, 1, 6, min(4 + number % 9, 64)]]
    assert loaded.records[0].is_crowd.tolist() == [False]
    assert boxes[17 * 7] == []
    crowds = [record.image_id for record in loaded.records if record.is_crowd.any()]
    assert crowds == [9000 * 7 % many]


def test_a_byte_order_mark_costs_nothing(write):
    path = write("\ufeff" + json.dumps(content()))
    assert len(data.load(path)) == 2


def test_a_number_of_thousands_of_digits_is_one_line(write):
    path = write('{"images": [' + "1" * 5000 + "]}")
    with pytest.raises(DataError) as error:
        data.load(path)
    assert str(error.value).startswith(f"{path}: not valid JSON: Exceeds the limit (4300 digits)")
    assert "\n" not in str(error.value)


def test_xmp_orientation_does_not_turn_the_size(write, write_image, tmp_path):
    path = write(content())
    write_image(tmp_path / "images" / "a.jpg", xmp=b'<rdf tiff:Orientation="6"/>')
    loaded = data.load(path)
    assert loaded.problems == ()
    assert (loaded.records[0].height, loaded.records[0].width) == (48, 64)


def test_sizes_may_be_texts_or_nonsense(write):
    values = content()
    values["images"][0].update(width="64", height=48.0)
    values["images"][1].update(width=[64], height="tall")
    assert data.load(write(values)).problems == ()


def test_a_missing_or_damaged_image_is_excluded_and_named(write, tmp_path):
    path = write(content())
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


def test_an_image_of_another_size_is_excluded_and_named(write, tmp_path):
    values = content()
    values["images"][0]["width"] = 640
    [problem] = problems_of(values, write)
    image = tmp_path / "images" / "a.jpg"
    assert problem == f"{image}: image is 64 x 48 pixels, but annotated as 640 x 48 pixels"


def test_nothing_usable_is_an_error(write, tmp_path):
    values = content()
    values["images"] = values["images"][:1]
    values["annotations"] = values["annotations"][:1]
    path = write(values)
    image = tmp_path / "images" / "a.jpg"
    image.write_text("no image at all")
    with pytest.raises(DataError) as error:
        data.load(path)
    assert str(error.value) == (
        f"{path}: has no usable image; the first problem: {image}: image file cannot be read; "
        "it must be JPEG, PNG, GIF, BMP or WebP"
    )


def test_problems_are_one_warning_that_names_ten(write, warnings_of):
    values = content()
    bad = values["annotations"][0] | {"bbox": [5, 5, 0, 0]}
    values["annotations"] += [bad | {"id": number} for number in range(100, 112)]
    path = write(values)
    data.load(path)
    fault = "bbox: has no width or no height; ignored in training and evaluation"
    lines = [f"{path}: annotation {number}: {fault}" for number in range(100, 110)]
    expected = "\n  ".join([f"{path}: 12 problems, excluded or ignored:", *lines, "... and 2 more"])
    assert warnings_of()[0] == expected


def test_clipped_boxes_are_counted_and_said_in_one_line(write, warnings_of):
    values = content()
    # Rounding is not reported.
    values["annotations"][1]["bbox"] = [0, 0, 64.7, 48.7]
    path = write(values)
    note = f"1 box reaches beyond its image and was clipped: {path}: annotation 3"
    assert list(data.load(path).notes) == [note]
    assert warnings_of() == [f"{path}: {note}"]
    values["annotations"][0]["bbox"] = [-2, 0, 10, 10]
    first = f"{path}: annotation 1"
    note = f"2 boxes reach beyond their images and were clipped; the first is {first}"
    assert list(data.load(write(values)).notes) == [note]


ORIENTATION = 0x0112


@pytest.mark.parametrize(
    ("orientation", "width", "height", "turned"),
    [
        # The annotated size identifies the stored or the upright image.
        (6, 64, 48, False),
        (6, 48, 64, True),
        # 180 degrees: both fit, and upright is what most tools show.
        (3, 64, 48, True),
        # A size of zero is a missing size.
        (6, 0, 0, True),
    ],
)
def test_the_annotated_size_determines_whether_exif_is_applied(
    write, write_image, tmp_path, orientation, width, height, turned
):
    values = content()
    values["images"][0].update(width=width, height=height)
    path = write(values)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    write_image(tmp_path / "images" / "a.jpg", exif=exif)
    record = data.load(path).records[0]
    assert record.apply_exif == turned
    assert (record.width, record.height) == ((48, 64) if turned and orientation == 6 else (64, 48))


def test_the_blood_cells_are_all_there(shared_data):
    loaded = data.load(str(shared_data / "bccd" / "annotations" / "instances_val.json"))
    assert len(loaded) == 87
    assert loaded.problems == ()
    assert loaded.label_map.names == ("RBC", "WBC", "Platelets")
    counts = np.bincount(np.concatenate([record.classes for record in loaded.records]))
    np.testing.assert_array_equal(counts, [967, 87, 83])
