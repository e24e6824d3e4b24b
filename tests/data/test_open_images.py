"""Open Images reader: valid folders, parts of a download, and messages about invalid files."""

import numpy as np
import pytest

from efficientdet_tf import data
from efficientdet_tf.data import DataError

HEADER = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsGroupOf\n"


def row(image="a", label="/m/cat", xmin=0.25, xmax=0.5, ymin=0.125, ymax=0.75, group=0) -> str:
    return f"{image},xclick,{label},1,{xmin},{xmax},{ymin},{ymax},0,{group}\n"


@pytest.fixture
def folder(tmp_path, write_image):
    """Three images for training, one of them background, and one for validation."""
    for name in ("train/b", "train/a", "train/empty", "validation/c"):
        write_image(tmp_path / f"{name}.jpg")
    rows = [row("b", "/m/dog", group=1), row("a"), row("a", "/m/dog", xmax=1)]
    (tmp_path / "oidv6-train-annotations-bbox.csv").write_text(HEADER + "".join(rows))
    (tmp_path / "validation-annotations-bbox.csv").write_text(HEADER + row("c"))
    (tmp_path / "train-images.csv").write_text("ImageID,Subset\na,train\nempty,train\n")
    names = '/m/dog,Dog\n/m/cat,Cat\n/m/x,"Axe, large"\n'
    (tmp_path / "class-descriptions-boxable.csv").write_text(names)
    return tmp_path


def test_reads_the_splits_of_a_folder(folder):
    train, val = data.load(str(folder)), data.load(str(folder), split="val")
    assert data.format_name(str(folder)) == "csv"
    assert train.label_map == val.label_map
    assert train.label_map.ids == (1, 2, 3)
    assert train.label_map.names == ("Dog", "Cat", "Axe, large")
    assert [record.name.rpartition("/")[2] for record in train.records] == [
        *("a.jpg", "b.jpg", "empty.jpg")
    ]
    assert [record.image_id for record in train.records] == [1, 2, 3]
    first, second, empty = train.records
    np.testing.assert_array_equal(first.boxes, [[6, 16, 36, 32], [6, 16, 36, 64]])
    assert first.classes.tolist() == [1, 0] and len(empty.boxes) == 0
    assert second.is_crowd.tolist() == [True] and first.is_crowd.tolist() == [False, False]
    assert [record.name.rpartition("/")[2] for record in val.records] == ["c.jpg"]
    assert data.lacks_validation(str(folder)) == "" and train.notes == ()


def test_a_file_is_one_split_and_finds_its_images(folder):
    file = str(folder / "validation-annotations-bbox.csv")
    assert len(data.load(file)) == 1
    assert data.lacks_validation(file) == "a CSV file is a single split"
    (folder / "validation-annotations-bbox.csv").unlink()
    assert data.lacks_validation(str(folder)) == "validation-annotations-bbox.csv is missing"


def test_without_descriptions_the_names_of_all_files_are_sorted(folder):
    (folder / "class-descriptions-boxable.csv").unlink()
    assert data.load(str(folder), split="val").label_map.names == ("/m/cat", "/m/dog")


def test_images_that_were_not_downloaded_are_counted(folder, warnings_of):
    (folder / "train" / "b.jpg").unlink()
    loaded = data.load(str(folder))
    assert [record.image_id for record in loaded.records] == [1, 2] and loaded.problems == ()
    assert warnings_of() == [
        f"{folder}: 1 of the 3 listed images are not in {folder / 'train'}; not used"
    ]


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (
            row("a", xmin="?"),
            "YMin, XMin, YMax, XMax: must be numbers; image excluded",
        ),
        (
            row("a", xmax=320),
            "320 looks like pixels; it must be a fraction of the image's size, 0 to 1; "
            "image excluded",
        ),
        (
            row("a", label="/m/bird"),
            "LabelName: '/m/bird' is not a known category; ignored in training and evaluation",
        ),
    ],
)
def test_a_bad_row_is_named_by_its_line(folder, bad, problem):
    file = folder / "oidv6-train-annotations-bbox.csv"
    file.write_text(file.read_text() + bad)
    assert list(data.load(str(folder)).problems) == [f"{file}: line 5: {problem}"]


def test_what_is_no_such_file_is_one_line(tmp_path, folder):
    file = tmp_path / "other.csv"
    file.write_text("filename,class,xMin\n")
    with pytest.raises(DataError) as error:
        data.load(str(file))
    assert str(error.value) == (
        f"{file}: line 1: column ImageID is missing; Open Images' CSV has ImageID, LabelName, "
        "YMin, XMin, YMax, XMax"
    )
    (tmp_path / "class-descriptions-boxable.csv").write_text("/m/dog,Dog\n/m/dog,Cat\n")
    with pytest.raises(DataError) as error:
        data.load(str(folder))
    descriptions = tmp_path / "class-descriptions-boxable.csv"
    assert str(error.value) == f"{descriptions}: line 2: LabelName occurs twice"


def test_a_folder_without_a_file_of_boxes_is_one_line(tmp_path):
    (tmp_path / "boxes.csv").write_text(HEADER)
    with pytest.raises(DataError) as error:
        data.load(str(tmp_path), format="csv")
    assert str(error.value) == f"{tmp_path}: no *bbox*.csv in it; name the CSV file of boxes"


def test_a_folder_without_its_images_names_where_it_looked(tmp_path):
    file = tmp_path / "some" / "test-annotations-bbox.csv"
    file.parent.mkdir()
    file.write_text(HEADER + row())
    with pytest.raises(DataError) as error:
        data.load(str(file))
    assert str(error.value).startswith(
        f"{file}: its images, e.g. a.jpg, are not in {file.parent}/test, "
    )
