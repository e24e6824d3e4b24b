"""COCO files in a folder, one for each split."""

import json

import pytest

from coco_content import content
from efficientdet_tf import data
from efficientdet_tf.data import DataError, splitting


@pytest.fixture
def write_split(tmp_path, write_image):
    """Function that writes a COCO file of one image, with the image at a path."""

    def write(file, image, number=7):
        some = content()
        some["images"] = [entry for entry in some["images"] if entry["id"] == number]
        some["images"][0]["file_name"] = image.name
        some["annotations"] = [each for each in some["annotations"] if each["image_id"] == number]
        for path in (file, image):
            path.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(some))
        write_image(image)

    return write


LAYOUTS = {
    "COCO": (
        "annotations/instances_{}2017.json",
        "{}2017/1.jpg",
        {"train": "train", "val": "val"},
    ),
    "CVAT": (
        "annotations/instances_{}.json",
        "images/{}/1.jpg",
        {"train": "Train", "val": "Validation", "test": "Test"},
    ),
    "Roboflow": (
        "{}/_annotations.coco.json",
        "{}/1.jpg",
        {"train": "train", "val": "valid", "test": "test"},
    ),
    "names alone": ("annotations/{}.json", "images/1_{}.jpg", {"train": "train", "val": "val"}),
    "beside": ("instances_{}.json", "images/1_{}.jpg", {"train": "train", "val": "val"}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_split_is_read(tmp_path, write_split, name):
    file, image, words = LAYOUTS[name]
    for number, word in zip((7, 3, 7), words.values()):
        write_split(tmp_path / file.format(word), tmp_path / image.format(word), number)
    # COCO's other kinds of annotations.
    if name == "COCO":
        (tmp_path / "annotations" / "captions_train2017.json").write_text("{}")
    assert data.lacks_validation(str(tmp_path)) == ""
    for number, (split, word) in zip((7, 3, 7), words.items()):
        loaded = data.load(str(tmp_path), split=split)
        assert [record.image_id for record in loaded.records] == [number]
        assert loaded.records[0].name == str(tmp_path / image.format(word))
        assert loaded.source == str(tmp_path / file.format(word))


def test_a_file_of_no_split_is_the_training_set(tmp_path, write_split):
    """As CVAT writes a task without subsets."""
    write_split(tmp_path / "annotations/instances_default.json", tmp_path / "images/default/1.jpg")
    assert len(data.load(str(tmp_path))) == 1
    assert data.lacks_validation(str(tmp_path)) == "the folder has no COCO file of split val"


def test_a_split_without_a_file_or_with_several(tmp_path, write_split):
    write_split(tmp_path / "instances_train.json", tmp_path / "images" / "1.jpg")
    assert data.lacks_validation(str(tmp_path)) == "the folder has no COCO file of split val"
    with pytest.raises(DataError) as error:
        data.load(str(tmp_path), split="val")
    assert str(error.value) == (
        f"{tmp_path}: no COCO file of split val, such as annotations/instances_val.json or "
        "val/_annotations.coco.json"
    )
    write_split(tmp_path / "instances_train_2.json", tmp_path / "images" / "1.jpg")
    with pytest.raises(DataError) as error:
        data.load(str(tmp_path))
    assert str(error.value) == (
        f"{tmp_path}: several COCO files of split train: instances_train.json, "
        "instances_train_2.json; use one of them"
    )


def test_a_folder_of_labelme_is_none_of_coco(tmp_path, write_image):
    write_image(tmp_path / "train.png")
    points = [[1, 1], [30, 30]]
    shapes = [{"label": "cat", "shape_type": "rectangle", "points": points}]
    (tmp_path / "train.json").write_text(json.dumps({"shapes": shapes, "imagePath": "train.png"}))
    assert data.format_name(str(tmp_path)) == "labelme"


def test_a_folder_can_be_divided(tmp_path, write_split):
    file = tmp_path / "source" / "annotations" / "instances_train.json"
    write_split(file, tmp_path / "source" / "images" / "a.jpg")
    write_split(file.with_name("instances_val.json"), file.parents[1] / "images" / "b.png", 3)
    # Both images.
    file.write_text(json.dumps(content()))
    splitting.split(str(tmp_path / "source"), tmp_path / "parts", val_fraction=0.5)
    for part in ("train", "val"):
        path = str(tmp_path / "parts" / f"{part}.json")
        assert data.format_name(path) == "coco" and len(data.load(path)) == 1
