"""YOLO reader: valid folders, and messages about invalid ones."""

import os

import numpy as np
import pytest
from PIL import Image

from efficientdet_tf import data
from efficientdet_tf.data import DataError
from yolo_content import write_data_set, write_yaml


@pytest.fixture
def folder(tmp_path, write_image):
    return write_data_set(tmp_path, write_image)


def test_reads_boxes_and_background(folder):
    loaded = data.load(str(folder))
    assert loaded.label_map.ids == (0, 1)
    assert loaded.label_map.names == ("cat", "dog")
    first, background = loaded.records
    np.testing.assert_allclose(first.boxes, [[12, 24, 36, 40], [0, 0, 14.4, 19.2]], atol=1e-5)
    np.testing.assert_array_equal(first.classes, [1, 0])
    assert background.boxes.shape == (0, 4)
    assert [record.image_id for record in loaded.records] == [1, 2]
    assert len(data.load(str(folder / "data.yaml"), split="val")) == 1


@pytest.mark.parametrize("place", ["labels/train/a.TXT", "images/train/a.txt"])
def test_a_label_file_elsewhere_is_found(folder, place):
    (folder / "labels" / "train" / "a.txt").rename(folder / place)
    assert [len(record.boxes) for record in data.load(str(folder)).records] == [2, 0]


def test_sparse_class_numbers_are_kept(folder):
    write_yaml(folder, names={1: "dog", 0: "cat", 7: "bird"}, train="images/train")
    assert data.load(str(folder)).label_map.ids == (0, 1, 7)


def test_labels_may_lie_beside_the_images(folder):
    (folder / "labels" / "val" / "c.txt").rename(folder / "c.txt")
    (folder / "images" / "val" / "c.jpg").rename(folder / "c.jpg")
    write_yaml(folder, names=["cat"], val="list.txt")
    (folder / "list.txt").write_text("c.jpg\n")
    assert len(data.load(str(folder), split="val").records[0].boxes) == 1


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("2 0.5 0.5 0.2 0.2", "class: 2 is not a known category"),
        ("0.5 0.5 0.5 0.2 0.2", "class: 0.5 is not a known category"),
        ("0 0.5 0.5 0 0.2", "box: has no width or no height"),
        ("0 0.5 0.5 0.2 -0.2", "box: has no width or no height"),
    ],
)
def test_an_unusable_line_is_ignored_and_named(folder, line, fault):
    file = folder / "labels" / "train" / "a.txt"
    file.write_text(f"1 0.5 0.5 0.2 0.2\n{line}\n0 0.5 0.5 0.2 0.2\n")
    loaded = data.load(str(folder))
    assert list(loaded.problems) == [f"{file}: line 2: {fault}; ignored in training and evaluation"]
    assert loaded.records[0].is_ignored.tolist() == [False, True, False]
    with pytest.raises(DataError) as error:
        data.load(str(folder), strict=True)
    assert str(error.value) == loaded.problems[0]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("0 1.5 0.5 0.2 0.2", "lies outside the image of 64 x 48 pixels"),
        ("0 nan 0.5 0.2 0.2", "is not finite"),
    ],
)
def test_an_image_with_an_object_of_unknown_position_is_excluded_and_named(folder, line, fault):
    file = folder / "labels" / "train" / "a.txt"
    file.write_text(line)
    (folder / "labels" / "train" / "b.txt").write_text("0 0.5 0.5 0.2 0.2")
    loaded = data.load(str(folder))
    assert list(loaded.problems) == [f"{file}: line 1: box: {fault}; image excluded"]
    assert [record.image_id for record in loaded.records] == [2]


@pytest.mark.parametrize(
    "line",
    [
        "0 0.5 0.5 0.2",
        "cat 0.5 0.5 0.2 0.2",
        "nan 0.5 0.5 0.2 0.2",
        "0",
        "0 0.1 0.1 0.2 0.1 0.2 0.2 0.3",
    ],
)
def test_an_image_with_an_unreadable_line_is_excluded(folder, line):
    file = folder / "labels" / "train" / "a.txt"
    file.write_text(f"1 0.5 0.5 0.2 0.2\n{line}\n")
    (folder / "labels" / "train" / "b.txt").write_text("0 0.5 0.5 0.2 0.2")
    loaded = data.load(str(folder))
    assert list(loaded.problems) == [
        f"{file}: line 2: must be five numbers, class x_center y_center width height, or class "
        "and a polygon; image excluded"
    ]
    assert [record.image_id for record in loaded.records] == [2]


@pytest.mark.parametrize("line", ["0 16 24 32 24", "0 16 12 48 12 48 36", "0 0.5 0.5 16 0.5"])
def test_a_box_in_pixels_is_named_as_such(folder, line):
    file = folder / "labels" / "train" / "a.txt"
    file.write_text(line)
    (folder / "labels" / "train" / "b.txt").write_text("0 0.5 0.5 0.2 0.2")
    [problem] = data.load(str(folder)).problems
    assert problem == (
        f"{file}: line 1: box: 16 looks like pixels; "
        "it must be a fraction of the image's size, 0 to 1; image excluded"
    )


def test_polygons_and_predictions_may_be_mixed_with_boxes(folder, warnings_of):
    """Segmentation exports, and predictions saved with their confidence."""
    file = folder / "labels" / "train" / "a.txt"
    (folder / "labels" / "train" / "b.txt").write_text("1 0.5 0.5 0.25 0.5 0.42\n")
    file.write_text(
        "1 0.5 0.5 0.25 0.5\n"
        "0 0.25 0.5 0.75 0.25 0.5 1.0\n"
        "1 0.5 0.5 0.25 0.5 97\n"
        "0 0.25 0.25 0.5 0.25 0.5 0.5 0.25 0.5\n"
    )
    loaded = data.load(str(folder))
    assert loaded.problems == ()
    first, second = loaded.records
    np.testing.assert_allclose(
        first.boxes,
        [[12, 24, 36, 40], [12, 16, 48, 48], [12, 24, 36, 40], [12, 16, 24, 32]],
        atol=1e-5,
    )
    assert first.classes.tolist() == [1, 0, 1, 0]
    np.testing.assert_allclose(second.boxes, [[12, 24, 36, 40]], atol=1e-5)
    assert warnings_of() == [
        f"{folder / 'data.yaml'} (train): 2 lines have a sixth column, e.g. {file}: line 3; it is "
        "taken for the confidence of a prediction and ignored: every box counts as a whole object"
    ]


def test_a_box_with_confidence_and_track_id_is_noted_as_a_triangle(folder, warnings_of):
    file = folder / "labels" / "train" / "a.txt"
    file.write_text("0 .5 .5 .2 .2 .9 1\n0 .5 .5 .2 .2 .9 0\n0 .1 .1 .2 .2 .9 .5\n")
    loaded = data.load(str(folder))
    assert loaded.problems == () and loaded.box_only == {"polygon": 3}
    assert warnings_of() == [
        f"{folder / 'data.yaml'} (train): 2 lines have seven columns of which the last is 0 or 1, "
        f"e.g. {file}: line 1; they are taken for the class and three points: remove the columns "
        "after a box if they are confidence and track id"
    ]


def test_keypoints_behind_the_box_are_no_polygon(folder):
    """Two keypoints of three numbers and the box: ten, like a polygon of five points."""
    keypoints = "0.1 0.1 2 0.9 0.9 2"
    (folder / "labels" / "train" / "a.txt").write_text(f"1 0.5 0.5 0.25 0.5 {keypoints}\n")
    write_yaml(folder, names=["cat", "dog"], train="images/train", kpt_shape=[2, 3])
    loaded = data.load(str(folder))
    np.testing.assert_allclose(loaded.records[0].boxes, [[12, 24, 36, 40]], atol=1e-5)
    write_yaml(folder, names=["cat", "dog"], train="images/train", kpt_shape="two")
    with pytest.raises(DataError) as error:
        data.load(str(folder))
    assert str(error.value) == (
        f"{folder / 'data.yaml'}: kpt_shape: must be the two numbers [keypoints, dimensions]"
    )


def test_webp_and_jfif_are_images_and_others_are_named(folder, write_image):
    images = folder / "images" / "train"
    for name, format in (("w.webp", "WEBP"), ("j.jfif", "JPEG"), ("m.MPO", "JPEG")):
        write_image(images / name, format=format)
    write_image(images / "t.TIF", format="TIFF")
    (images / "i.heic").touch()
    (images / "notes.txt").touch()
    loaded = data.load(str(folder))
    assert [record.name for record in loaded.records] == [
        str(images / name) for name in ("a.jpg", "b.jpg", "j.jfif", "m.MPO", "w.webp")
    ]
    advice = "images are not read; convert it to JPEG, PNG, GIF, BMP or WebP"
    assert list(loaded.problems) == [
        f"{images / 'i.heic'}: .heic {advice}",
        f"{images / 't.TIF'}: .tif {advice}",
    ]
    for name in ("a.jpg", "b.jpg", "j.jfif", "m.MPO", "w.webp", "i.heic"):
        (images / name).unlink()
    with pytest.raises(DataError) as error:
        data.load(str(folder))
    assert str(error.value) == (
        f"{folder / 'data.yaml'}: train: there are no images in {images}; "
        f"the first problem: {images / 't.TIF'}: .tif {advice}"
    )


def test_images_behind_a_link_are_found_once(folder, tmp_path_factory, write_image):
    """Links to a folder elsewhere, to one of the same images, and to the folder itself."""
    elsewhere, images = tmp_path_factory.mktemp("disk"), folder / "images" / "train"
    write_image(elsewhere / "deep" / "d.jpg")
    (images / "batch").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(elsewhere)
    (images / "0").mkdir()
    (images / "more").mkdir()
    write_image(images / "more" / "e.jpg")
    (images / "0" / "link").symlink_to(images / "more")
    (images / "self").symlink_to(images)
    labels = folder / "labels" / "train" / "batch" / "deep"
    labels.mkdir(parents=True)
    (labels / "d.txt").write_text("0 0.5 0.5 0.2 0.2")
    loaded = data.load(str(folder))
    assert [(r.name.removeprefix(f"{images}/"), len(r.boxes)) for r in loaded.records] == [
        *(("a.jpg", 2), ("b.jpg", 0), ("batch/deep/d.jpg", 1), ("more/e.jpg", 0))
    ]


def test_a_byte_order_mark_costs_no_object(folder):
    for file in (folder / "data.yaml", folder / "labels" / "train" / "a.txt"):
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    loaded = data.load(str(folder))
    assert loaded.problems == ()
    assert loaded.records[0].classes.tolist() == [1, 0]


def test_an_image_whose_name_is_no_utf_8_is_named(folder):
    image = os.fsencode(folder / "images" / "train" / "b.jpg")
    os.rename(image, image.replace(b"b.jpg", b"\xe4.jpg"))
    [problem] = data.load(str(folder)).problems
    images = folder / "images" / "train"
    assert problem == f"image file '{images}/\\udce4.jpg' is not valid UTF-8; rename the file"


def test_a_label_file_that_cannot_be_read_excludes_its_image(folder):
    file = folder / "labels" / "train" / "a.txt"
    file.unlink()
    file.mkdir()
    (folder / "labels" / "train" / "b.txt").write_text("0 0.5 0.5 0.2 0.2")
    loaded = data.load(str(folder))
    assert list(loaded.problems) == [f"{file}: cannot be read: Is a directory; image excluded"]
    assert len(loaded) == 1


def test_missing_images_or_labels_are_an_error(folder):
    file = folder / "data.yaml"
    write_yaml(folder, names=["cat"], train="images/test", val="images/val")
    with pytest.raises(DataError) as error:
        data.load(str(folder))
    missing = folder / "images" / "test"
    assert str(error.value) == f"{file}: train: no such folder or list of images: {missing}"
    missing.mkdir()
    with pytest.raises(DataError) as error:
        data.load(str(folder))
    assert str(error.value) == f"{file}: train: there are no images in {missing}"
    label_file = folder / "labels" / "val" / "c.txt"
    label_file.unlink()
    with pytest.raises(DataError) as error:
        data.load(str(folder), split="val")
    assert str(error.value) == f"{file}: val: no image has a label file, e.g. {label_file}"


def test_a_turned_image_is_always_upright(folder, write_image):
    exif = Image.Exif()
    exif[0x0112] = 8
    write_image(folder / "images" / "val" / "c.jpg", exif=exif)
    [record] = data.load(str(folder), split="val").records
    assert record.apply_exif and (record.width, record.height) == (48, 64)
    np.testing.assert_array_equal(record.boxes, [[0, 0, 64, 48]])


def test_everyday_scenes_agree_with_their_coco_form(shared_data):
    root = shared_data / "coco128"
    yolo = data.load(str(root), verify="header")
    coco = data.load(str(root / "annotations" / "instances_train2017_subset.json"), verify="header")
    assert yolo.label_map.names == coco.label_map.names
    assert yolo.label_map.ids == tuple(range(80))
    # The original ids have gaps, which stay.
    assert len(coco.label_map) == 80 and coco.label_map.ids[-1] == 90
    assert (len(yolo), len(coco)) == (96, 96)
    by_image = {record.image: record for record in coco.records}
    for record in yolo.records:
        other = by_image[record.image]
        assert (record.height, record.width) == (other.height, other.width)
        order, other_order = sorting(record), sorting(other)
        np.testing.assert_array_equal(record.classes[order], other.classes[other_order])
        np.testing.assert_allclose(record.boxes[order], other.boxes[other_order], atol=0.02)


def sorting(record) -> np.ndarray:
    return np.lexsort([*np.round(record.boxes).T, record.classes])
