"""COCO reader: what it reads, and what it passes over."""

import json

import numpy as np
import pytest
from PIL import Image

from coco_content import content
from efficientdet_tf import data
from efficientdet_tf.data import DataError


def test_reads_boxes_crowd_area_and_sparse_ids(write_coco):
    loaded = data.load(write_coco(content()))
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
def test_finds_the_images(write_coco, folder):
    assert len(data.load(write_coco(content(), folder))) == 2


def test_file_names_may_have_the_separators_of_windows(write_coco, write_image, tmp_path):
    some = content()
    for image in some["images"]:
        image["file_name"] = f"images\\{image['file_name']}"
    path = write_coco(some, "images")
    assert [record.name for record in data.load(path).records] == [
        str(tmp_path / "images" / name) for name in ("a.jpg", "b.png")
    ]
    # A name of this system with a backslash is itself.
    write_image(tmp_path / "images\\b.png")
    assert data.load(path).records[1].name == str(tmp_path / "images\\b.png")


@pytest.mark.parametrize("old", ["/home/me/data/", "C:\\me\\", "../../upload/1/"])
def test_file_names_may_have_folders_that_are_not_there(write_coco, tmp_path, warnings_of, old):
    some = content()
    for image in some["images"]:
        image["file_name"] = f"{old}{image['file_name']}"
    path = write_coco(some, "images")
    for images in ("", str(tmp_path / "images")):
        assert [record.name for record in data.load(path, images=images).records] == [
            str(tmp_path / "images" / name) for name in ("a.jpg", "b.png")
        ]
        assert warnings_of()[-2] == (
            f"{path}: images are taken from {tmp_path}/images; their folders, as in {old}a.jpg, "
            "are not there"
        )
    # One file cannot be both.
    some["images"][1]["file_name"] = f"{old}other/a.jpg"
    with pytest.raises(DataError, match="are not in any of"):
        data.load(write_coco(some, "images"))


def test_an_annotation_without_a_box_has_that_of_its_polygons(write_coco):
    some = content()
    polygons = [[10, 5, 30, 5, 30, 35], [12, 40, 20, 40, 20, 44]]
    some["annotations"][0] |= {"bbox": [], "segmentation": polygons}
    some["annotations"][2] |= {"segmentation": [[50.5, 30, 60, 30, 60, 40]]}
    del some["annotations"][2]["bbox"]
    first, second = data.load(write_coco(some)).records
    np.testing.assert_array_equal(first.boxes[0], [5, 10, 44, 30])
    np.testing.assert_array_equal(second.boxes, [[30, 50.5, 40, 60]])


def test_images_elsewhere_are_named(write_coco, tmp_path):
    path = write_coco(content(), "elsewhere")
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
    ("value", "is_crowd"),
    [(0, False), ("0", False), ("", False), ([1], False), (1, True), ("1", True), (True, True)],
)
def test_iscrowd_may_be_a_text(write_coco, value, is_crowd):
    values = content()
    values["annotations"][0]["iscrowd"] = value
    assert data.load(write_coco(values)).records[0].is_crowd.tolist() == [is_crowd, True]


@pytest.mark.parametrize("area", [1e400, "12", [12], True, None])
def test_an_area_that_is_no_number_is_that_of_the_box(write_coco, area):
    values = content()
    values["annotations"][0]["area"] = area
    assert data.load(write_coco(values)).records[0].area.tolist() == [600, 64 * 48]


def test_repeated_annotation_ids_are_reported_and_all_used(write_coco, warnings_of):
    values = content()
    values["annotations"][1]["id"] = 1
    path = write_coco(values)
    loaded = data.load(path)
    assert [len(record.boxes) for record in loaded.records] == [2, 1]
    assert loaded.problems == ()
    assert warnings_of()[0] == (
        f"{path}: 1 annotation id occurs more than once, e.g. 1; all of these annotations are "
        "used, where pycocotools takes the last of an id for each"
    )


def test_a_large_file_is_read_like_a_small_one(write_coco, write_image, tmp_path):
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
    path = write_coco(values)
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


def test_a_byte_order_mark_costs_nothing(write_coco):
    path = write_coco("\ufeff" + json.dumps(content()))
    assert len(data.load(path)) == 2


def test_xmp_orientation_does_not_turn_the_size(write_coco, write_image, tmp_path):
    path = write_coco(content())
    write_image(tmp_path / "images" / "a.jpg", xmp=b'<rdf tiff:Orientation="6"/>')
    loaded = data.load(path)
    assert loaded.problems == ()
    assert (loaded.records[0].height, loaded.records[0].width) == (48, 64)


def test_sizes_may_be_texts_or_nonsense(write_coco):
    values = content()
    values["images"][0].update(width="64", height=48.0)
    values["images"][1].update(width=[64], height="tall")
    assert data.load(write_coco(values)).problems == ()


def test_clipped_boxes_are_counted_and_said_in_one_line(write_coco, warnings_of):
    values = content()
    # Rounding is not reported.
    values["annotations"][1]["bbox"] = [0, 0, 64.7, 48.7]
    path = write_coco(values)
    note = f"1 box reaches beyond its image and was clipped: {path}: annotation 3"
    assert list(data.load(path).notes) == [note]
    assert warnings_of() == [f"{path}: {note}"]
    values["annotations"][0]["bbox"] = [-2, 0, 10, 10]
    first = f"{path}: annotation 1"
    note = f"2 boxes reach beyond their images and were clipped; the first is {first}"
    assert list(data.load(write_coco(values)).notes) == [note]


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
    write_coco, write_image, tmp_path, orientation, width, height, turned
):
    values = content()
    values["images"][0].update(width=width, height=height)
    path = write_coco(values)
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
