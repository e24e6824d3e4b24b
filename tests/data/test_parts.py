"""Training and validation data: their paths, and refused data sets."""

import json

import pytest

from efficientdet_tf import data
from efficientdet_tf.config import Config
from efficientdet_tf.data import DataError, digits, parts
from efficientdet_tf.data.tfrecord import write_tfrecord
from efficientdet_tf.training.train import load_data

OBJECT = (
    "<object><name>cat</name><bndbox><xmin>{0}</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
    "</bndbox></object>"
)


def config(train="", val="", **settings) -> Config:
    return Config().override({"data.train": train, "data.val": val} | settings)


def refusal(function, *arguments) -> str:
    with pytest.raises(DataError) as error:
        function(*arguments)
    return str(error.value)


@pytest.fixture
def voc(tmp_path, write_image):
    """Pascal VOC folder of two images without lists of splits."""
    (tmp_path / "Annotations").mkdir()
    for stem, width in (("a", 64), ("b", 65)):
        write_image(tmp_path / "JPEGImages" / f"{stem}.jpg", width=width)
        text = f"<annotation>{OBJECT.format(1)}</annotation>"
        (tmp_path / "Annotations" / f"{stem}.xml").write_text(text)
    return tmp_path


def add_lists(folder):
    lists = folder / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a")
    (lists / "val.txt").write_text("b")


def test_a_training_needs_data():
    message = "data.train: is empty; name the training data (--train_data)"
    assert refusal(parts.resolve, config()) == message
    assert refusal(data.load, "") == "data set: its path is empty"


def test_without_validation_data_a_path_that_holds_both_is_meant(voc, tmp_path):
    assert parts.resolve(config("digits")).data.val == "digits"
    assert parts.resolve(config("set/data.yaml")).data.val == "set/data.yaml"
    add_lists(voc)
    assert parts.resolve(config(str(voc))).data.val == str(voc)
    assert parts.resolve(config(str(voc), "other")).data.val == "other"
    records = tmp_path / "records"
    write_tfrecord(digits.load("train", num_images=1), str(records / "train.tfrecord"))
    write_tfrecord(digits.load("val", num_images=1), str(records / "my-validation.tfrecord"))
    assert parts.resolve(config(str(records))).data.val == str(records)
    train, val = load_data(config(str(records)))
    assert [record.name for record in train.records] == [f"{records}/train.tfrecord: record 1"]
    assert [len(train), len(val)] == [1, 1]


def test_a_path_with_one_split_needs_another_for_validation(voc, tmp_path):
    missing = "--val_data is missing: {} has no validation images: {}"
    assert refusal(parts.resolve, config("train.json")) == missing.format(
        "train.json", "a COCO file is a single split"
    )
    lack = "ImageSets/Main/val.txt is missing"
    assert refusal(parts.resolve, config(str(voc))) == missing.format(voc, lack)
    other = "{0}: has no validation images: {1}; set --val_data to other images"
    assert refusal(parts.resolve, config(str(voc), str(voc))) == other.format(voc, lack)
    again = f"{voc}/JPEGImages/.."
    assert refusal(parts.resolve, config(str(voc), again)) == other.format(again, lack)

    folder = tmp_path / "records"
    [file] = write_tfrecord(digits.load("train", num_images=1), str(folder / "part.tfrecord"))
    lack = "val*.tfrecord is missing"
    assert refusal(parts.resolve, config(str(folder))) == missing.format(folder, lack)
    assert refusal(load_data, config(str(folder), str(folder))) == other.format(folder, lack)
    lack = "TFRecord files given by name are a single split"
    assert refusal(parts.resolve, config(file)) == missing.format(file, lack)
    # Another folder may hold only validation images.
    assert parts.resolve(config(str(voc), str(folder))).data.val == str(folder)


def test_a_file_named_twice_is_used_and_warned_of(tmp_path, warnings_of):
    [file] = write_tfrecord(digits.load("train", num_images=2), str(tmp_path / "some.tfrecord"))
    train, val = load_data(config(file, file))
    assert (len(train), len(val)) == (2, 2)
    assert warnings_of() == [
        f"{file}: 2 of its 2 images are also in the training set, e.g. {file}: record 1; the "
        "metrics will be too good"
    ]


def test_a_set_without_objects_is_refused_in_every_format(voc, tmp_path, write_image):
    add_lists(voc)
    for stem in ("a", "b"):
        text = f"<annotation>{OBJECT.format(9 if stem == 'b' else 1)}</annotation>"
        (voc / "Annotations" / f"{stem}.xml").write_text(text)
    (voc / "labels.txt").write_text("cat")
    bad = f"{voc}/Annotations/b.xml: object 1: bndbox: has no width or no height"
    message = "{}: has no usable object in {} images"
    assert refusal(load_data, config(str(voc))).startswith(
        f"{message.format(f'{voc} (val)', 1)}; the first problem: {bad}"
    )

    image = write_image(tmp_path / "images" / "train" / "c.jpg")
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "c.txt").write_text("\n")
    yaml = tmp_path / "data.yaml"
    yaml.write_text("{names: [cat], train: images/train, val: images/train}")
    assert refusal(load_data, config(str(yaml))) == message.format(f"{yaml} (train)", 1)

    crowd = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1}
    content = {
        "images": [{"id": 1, "file_name": str(image)}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [crowd],
    }
    file = tmp_path / "all.json"
    file.write_text(json.dumps(content))
    assert refusal(load_data, config(str(file), str(file))) == (
        f"{message.format(file, 1)}; all that is annotated are crowd regions: 1"
    )

    records = str(tmp_path / "all.tfrecord")
    write_tfrecord(data.load(str(file)), records)
    assert refusal(load_data, config(records, records)) == (
        f"{message.format(records, 1)}; all that is annotated are crowd regions: 1"
    )
