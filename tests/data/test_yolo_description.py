"""YOLO: files that name the classes and the images of each split."""

import pytest

from efficientdet_tf import data
from efficientdet_tf.data import DataError
from yolo_content import write_data_set, write_yaml


@pytest.fixture
def folder(tmp_path, write_image):
    return write_data_set(tmp_path, write_image)


@pytest.mark.parametrize(
    "values",
    [
        {"names": {0: "cat", 1: "dog"}, "path": ".", "train": "images/train"},
        {"names": ["cat", "dog"], "train": ["images/train"]},
        {"names": ["cat", "dog"], "train": "../images/train"},
        {"names": ["cat", "dog"], "path": "elsewhere", "train": "./images/train/"},
        {"names": ["cat", "dog"], "train": "list.txt"},
    ],
)
def test_reads_the_ways_to_write_a_data_yaml(folder, values):
    (folder / "list.txt").write_text("images/train/a.jpg\nimages/train/b.jpg\n")
    write_yaml(folder, **values)
    loaded = data.load(str(folder))
    assert loaded.label_map.names == ("cat", "dog")
    assert [len(record.boxes) for record in loaded.records] == [2, 0]


@pytest.mark.parametrize("prefix", ["", "data/"])
def test_reads_darknets_files(folder, prefix):
    # As CVAT writes them: paths begin with the folder "data" of Darknet.
    (folder / "data.yaml").unlink()
    (folder / "images" / "train").rename(folder / "obj_train_data")
    (folder / "labels" / "train" / "a.txt").rename(folder / "obj_train_data" / "a.txt")
    (folder / "obj.names").write_text("cat\ndog\n")
    (folder / "train.txt").write_text(f"{prefix}obj_train_data/a.jpg\n")
    lines = ["classes = 2", f"train = {prefix}train.txt", f"names = {prefix}obj.names", "backup ="]
    (folder / "obj.data").write_text("\n".join(lines))
    for path in (folder, folder / "obj.data"):
        loaded = data.load(str(path))
        assert loaded.label_map.names == ("cat", "dog")
        assert [record.classes.tolist() for record in loaded.records] == [[1, 0]]
    assert data.lacks_validation(str(folder)) == "obj.data has no key valid"
    (folder / "obj.data").write_text("train = train.txt")
    with pytest.raises(DataError, match="names: is missing; it names the file of the class names"):
        data.load(str(folder))


def test_reads_folders_with_a_list_of_the_classes(folder):
    (folder / "data.yaml").unlink()
    (folder / "classes.txt").write_text("cat\r\ndog\r\n")
    assert data.lacks_validation(str(folder)) == ""
    for split, classes in (("train", [[1, 0], []]), ("val", [[0]])):
        loaded = data.load(str(folder), split=split)
        assert loaded.label_map.names == ("cat", "dog")
        assert [record.classes.tolist() for record in loaded.records] == classes


@pytest.mark.parametrize(
    ("images", "labels"), [("images", "labels"), (".", ".")], ids=["Label Studio", "LabelImg"]
)
def test_a_folder_with_a_list_of_the_classes_may_be_a_single_split(
    tmp_path, write_image, images, labels
):
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    write_image(tmp_path / images / "a.jpg")
    (tmp_path / labels).mkdir(exist_ok=True)
    (tmp_path / labels / "a.txt").write_text("1 0.5 0.5 0.25 0.5")
    for split in ("train", "val"):
        [record] = data.load(str(tmp_path), split=split).records
        assert record.classes.tolist() == [1]
    assert data.lacks_validation(str(tmp_path)) == (
        "a folder with classes.txt and without images/val is a single split"
    )


def test_lines_of_a_list_are_relative_to_the_list_or_the_data_set(folder, monkeypatch):
    root = folder / "set"
    root.mkdir()
    for name in ("images", "labels"):
        (folder / name).rename(root / name)
    lists = root / "lists"
    lists.mkdir()
    write_yaml(folder, path="set", names=["cat", "dog"], train="lists/train.txt")
    write = (lists / "train.txt").write_text
    for prefix in ("", f"{root}/", "./../"):
        write(f"\ufeff{prefix}images/train/a.jpg\n\n{prefix}images/train/b.jpg\n")
        assert [len(record.boxes) for record in data.load(str(folder)).records] == [2, 0]
    write("./images/train/a.jpg\nimages/train/b.jpg\nimages/train/b\n.\na\0.jpg\n")
    with pytest.raises(DataError, match="no image has a label file"):
        data.load(str(folder))
    write("images/train/a.jpg\nimages/train/gone.jpg\nimages/train/a\na\0.jpg\n")
    unnamed = "is not the name of an image file; use JPEG, PNG, GIF, BMP or WebP"
    assert list(data.load(str(folder)).problems) == [
        f"image file '{lists}/a\\x00.jpg' holds control characters",
        f"{lists}/images/train/a: {unnamed}",
        f"{lists}/images/train/gone.jpg: image file is missing",
    ]
    monkeypatch.chdir(root)
    (folder / "data.yaml").write_text("names: [cat, dog]\ntrain: set/lists/train.txt\n")
    write("images/train/a.jpg\n")
    assert len(data.load(str(folder)).records) == 1


def test_paths_may_be_those_of_windows(folder):
    root = folder / "set"
    root.mkdir()
    for name in ("images", "labels"):
        (folder / name).rename(root / name)
    (root / "lists").mkdir()
    (root / "lists" / "val.txt").write_bytes(b"..\\images\\val\\c.jpg\r\n")
    write_yaml(folder, path=".\\set", names=["a", "b"], train="images\\train", val="lists\\val.txt")
    assert len(data.load(str(folder))) == 2
    [record] = data.load(str(folder), split="val").records
    assert len(record.boxes) == 1
    (root / "lists" / "val.txt").write_text("images\\val\\c.jpg\n")
    assert len(data.load(str(folder), split="val")) == 1


def test_a_single_image_may_be_a_split_and_an_empty_list_is_an_error(folder):
    write_yaml(folder, names=["cat", "dog"], train="images/train/a.jpg", val=[])
    assert len(data.load(str(folder))) == 1
    with pytest.raises(DataError) as error:
        data.load(str(folder), split="val")
    message = "val: there are no images in an empty list"
    assert str(error.value) == f"{folder / 'data.yaml'}: {message}"
    # A key without a value, as in the data.yaml of Ultralytics' tools.
    write_yaml(folder, names=["cat", "dog"], train="images/train", val=None)
    assert data.lacks_validation(str(folder)) == "data.yaml has no key val"
    with pytest.raises(DataError) as error:
        data.load(str(folder), split="val")
    message = "val: is missing; it names the image folder of this split"
    assert str(error.value) == f"{folder / 'data.yaml'}: {message}"


def test_class_names_are_the_written_words(folder):
    text = "train: images/train\nnames: [no, yes, On, off, true, 'no way', 010, 1.10, 2020-01-02]\n"
    (folder / "data.yaml").write_text(text)
    names = data.load(str(folder)).label_map.names
    assert names == ("no", "yes", "On", "off", "true", "no way", "010", "1.10", "2020-01-02")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("names: [cat\ntrain: x", "line 2: not valid YAML"),
        ("just text", "must hold keys and values; is it a YOLO data.yaml?"),
        ("train: images/train", "names: must be the list of the class names"),
        ("names: {a: cat}", "names: class numbers must be whole numbers"),
        (f"names: {{{10**30}: cat}}", "names: class numbers must be whole numbers"),
        ("names: [[cat, dog]]", "names: name of class 0: must be a text"),
        ("names: 2020-99-99", "not valid YAML"),
        ("names: [cat]", "train: is missing; it names the image folder of this split"),
    ],
)
def test_a_bad_data_yaml_is_an_error(folder, text, message):
    file = folder / "data.yaml"
    file.write_text(text)
    with pytest.raises(DataError) as error:
        data.load(str(folder))
    assert str(error.value) == f"{file}: {message}"
