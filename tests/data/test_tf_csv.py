"""Reader of CSV files of boxes in pixels: both layouts, splits, and messages on invalid rows."""

import numpy as np
import pytest

from efficientdet_tf import data
from efficientdet_tf.data import DataError

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax"


def write(file, *rows, header=HEADER):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([header, *rows]) + "\n")
    return file


@pytest.fixture
def roboflow(tmp_path, write_image):
    """Data set as Roboflow exports it."""
    for folder, names in (("train", ("a.jpg", "b.jpg")), ("valid", ("c.jpg",))):
        for name in names:
            write_image(tmp_path / folder / name)
    rows = ("b.jpg,64,48,dog,10,5,30,35", "a.jpg,64,48,cat,1,2,3.5,4", "b.jpg,64,48,cat,0,0,64,48")
    write(tmp_path / "train" / "_annotations.csv", *rows)
    write(tmp_path / "valid" / "_annotations.csv", "c.jpg,64,48,ant,1,2,3,4")
    return tmp_path


def test_reads_the_folders_of_roboflow(roboflow):
    assert data.format_name(str(roboflow)) == "tf_csv"
    assert data.lacks_validation(str(roboflow)) == ""
    train, val = (data.load(str(roboflow), split=split) for split in ("train", "val"))
    # The classes of all splits.
    assert train.label_map.names == val.label_map.names == ("ant", "cat", "dog")
    assert train.label_map.ids == (1, 2, 3)
    first, second = train.records
    assert (first.image_id, first.image) == (1, str(roboflow / "train" / "b.jpg"))
    np.testing.assert_array_equal(first.boxes, [[5, 10, 35, 30], [0, 0, 48, 64]])
    assert first.classes.tolist() == [2, 1]
    np.testing.assert_array_equal(second.boxes, [[2, 1, 4, 3.5]])
    assert len(val.records) == 1 and train.problems == val.problems == ()


def test_reads_the_files_of_the_tutorials_with_paths_of_another_disk(tmp_path, write_image):
    write_image(tmp_path / "images" / "train" / "a.jpg")
    write_image(tmp_path / "images" / "test" / "b.jpg")
    row = r"C:\photos\{},64,48,cat,1,2,3,4"
    for split, name in (("train", "a.jpg"), ("test", "b.jpg")):
        write(tmp_path / f"{split}_labels.csv", row.format(name))
    assert data.lacks_validation(str(tmp_path)) == "there is no CSV file of a split val"
    [record] = data.load(str(tmp_path)).records
    assert record.image == str(tmp_path / "images" / "train" / "a.jpg")
    file = str(tmp_path / "test_labels.csv")
    assert data.lacks_validation(file) == "a CSV file is a single split"
    [record] = data.load(file, split="val").records
    assert record.image == str(tmp_path / "images" / "test" / "b.jpg")
    with pytest.raises(DataError) as error:
        data.load(str(tmp_path), split="val")
    assert str(error.value) == f"{tmp_path}: no CSV file of a split val in it, only train, test"


def test_columns_in_another_order_without_sizes_and_a_file_of_labels(tmp_path, write_image):
    write_image(tmp_path / "a.jpg")
    header, rows = "class,ymax,xmax,ymin,xmin,filename,score", ("dog,35,30,5,10,a.jpg,1",)
    write(tmp_path / "boxes.csv", *rows, header=header)
    (tmp_path / "labels.txt").write_text("dog\ncat\n")
    loaded = data.load(str(tmp_path))
    assert loaded.label_map.names == ("dog", "cat")
    np.testing.assert_array_equal(loaded.records[0].boxes, [[5, 10, 35, 30]])


def test_images_without_objects_have_a_row_without_class_and_corners(roboflow, write_image):
    write_image(roboflow / "train" / "empty.jpg")
    file = roboflow / "train" / "_annotations.csv"
    file.write_text(file.read_text() + "empty.jpg,64,48,,,,,\n")
    *_, record = data.load(str(roboflow)).records
    assert record.image.endswith("empty.jpg") and len(record.boxes) == 0


def test_bad_rows_are_named(roboflow):
    file = write(
        roboflow / "train" / "_annotations.csv",
        *("a.jpg,64,48,cat,1,2,3,4", "b.jpg,64,48,cat,1,2,,4", ",64,48,cat,1,2,3,4"),
        *("c.jpg,64,48,cat,1,2,3,4", "a.jpg,64,48,,1,2,3,4"),
    )
    loaded = data.load(str(roboflow))
    assert [str(problem) for problem in loaded.problems] == [
        f"{file}: line 4: filename is empty",
        f"{file}: line 6: class: '' is not a known category; ignored in training and evaluation",
        f"{file}: line 3: ymin, xmin, ymax, xmax: must be numbers; image excluded",
        f"{roboflow}/train/c.jpg: image file is missing",
    ]
    assert len(loaded.records) == 1


def test_an_image_of_another_size_than_annotated_is_excluded(roboflow):
    write(
        roboflow / "train" / "_annotations.csv", "a.jpg,64,49,cat,1,2,3,4", "b.jpg,0,0,cat,1,2,3,4"
    )
    loaded = data.load(str(roboflow))
    assert len(loaded.records) == 1 and loaded.records[0].image.endswith("b.jpg")
    assert "image is 64 x 48 pixels, but annotated as 64 x 49 pixels" in str(loaded.problems[0])


def test_a_missing_column_and_missing_images_are_one_line(tmp_path, write_image):
    file = write(tmp_path / "a.csv", "a.jpg,1,2,3,4", header="filename,xmin,ymin,xmax,ymax")
    with pytest.raises(DataError) as error:
        data.load(str(file))
    assert str(error.value) == (
        f"{file}: line 1: column class is missing; such a CSV file has filename, class, ymin, "
        "xmin, ymax, xmax"
    )
    write(file, "a.jpg,64,48,cat,1,2,3,4")
    with pytest.raises(DataError) as error:
        data.load(str(file))
    assert str(error.value).startswith(
        f"{file}: its images, e.g. a.jpg, are not in {tmp_path}/train, "
    )
    assert str(error.value).endswith(
        "--set data.train_images=FOLDER, or --images=FOLDER for eval.py"
    )
    write_image(tmp_path / "elsewhere" / "a.jpg")
    assert len(data.load(str(file), images=str(tmp_path / "elsewhere")).records) == 1


def test_a_folder_without_such_a_file(tmp_path):
    with pytest.raises(DataError) as error:
        data.load(str(tmp_path), format="tf_csv")
    assert str(error.value) == (
        f"{tmp_path}: no CSV file with the columns filename, class, ymin, xmin, ymax, xmax in it"
    )
