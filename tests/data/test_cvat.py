"""CVAT reader: shapes, subsets, ids, and messages about invalid files."""

import math

import numpy as np
import pytest

from efficientdet_tf import data
from efficientdet_tf.data import DataError

LABELS = "".join(f"<label><name>{name}</name></label>" for name in ("dog", "cat"))
BOX = '<box label="cat" xtl="10" ytl="5" xbr="30" ybr="35.5" {}>{}</box>'


def image(name, *shapes, number=0, subset="", size=(64, 48)) -> str:
    subset = f'subset="{subset}" ' if subset else ""
    return (
        f'<image id="{number}" name="{name}" {subset}width="{size[0]}" height="{size[1]}">'
        f"{''.join(shapes)}</image>"
    )


def write(folder, *images, labels=LABELS):
    meta = f"<meta><task><labels>{labels}</labels></task></meta>"
    file = folder / "annotations.xml"
    file.write_text(f"<annotations><version>1.1</version>{meta}{''.join(images)}</annotations>")
    return file


@pytest.fixture
def photos(tmp_path, write_image):
    for name in ("a.jpg", "deep/b.jpg"):
        write_image(tmp_path / "images" / name)
    return tmp_path


def test_reads_shapes_with_an_area(photos, warnings_of):
    marks = "".join(f'<attribute name="{n}">true</attribute>' for n in ("difficult", "is_crowd"))
    shapes = [
        BOX.format('occluded="1"', ""),
        BOX.format("", marks),
        '<box label="dog" xtl="10" ytl="10" xbr="30" ybr="20" rotation="90.0"></box>',
        '<polygon label="dog" points="0.00,0.00;10.00,0.00;0.00,20.00"></polygon>',
        '<ellipse label="dog" cx="30" cy="20" rx="10" ry="5" rotation="90"></ellipse>',
        '<mask label="cat" rle="1, 3, 2, 2" left="4" top="6" width="4" height="2"></mask>',
        '<points label="dog" points="1,2"></points>',
        '<tag label="cat"></tag>',
    ]
    write(photos, image("a.jpg", *shapes, number=17), image("deep/b.jpg", number=4))
    loaded = data.load(str(photos))
    assert data.format_name(str(photos)) == "cvat" == data.format_name(f"{photos}/x.xml")
    assert loaded.label_map.ids == (1, 2) and loaded.label_map.names == ("dog", "cat")
    record, background = loaded.records
    assert (record.image_id, background.image_id) == (17, 4) and len(background.boxes) == 0
    box = [5, 10, 35.5, 30]
    expected = [box, box, [5, 15, 25, 25], [0, 0, 20, 10], [10, 25, 30, 35], [6, 4, 8, 8]]
    np.testing.assert_allclose(record.boxes, expected, atol=1e-5)
    np.testing.assert_allclose(record.area, [610, 610, 200, 100, 50 * math.pi, 5], rtol=1e-6)
    assert record.classes.tolist() == [1, 1, 0, 0, 0, 1]
    assert record.is_difficult.tolist() == record.is_crowd.tolist() == [False, True] + [False] * 4
    assert (
        loaded.box_only == {"polygon": 1, "ellipse": 1, "mask": 1, "rotated box": 1}
        and loaded.problems == ()
    )
    file = photos / "annotations.xml"
    assert warnings_of()[:2] == [
        f"{file}: 1 of kind 'points' are not used as objects",
        f"{file}: 1 of kind 'tag' are not used as objects",
    ]


def test_subsets_are_splits(photos):
    file = write(
        photos,
        image("a.jpg", BOX.format("", ""), subset="Train"),
        image("deep/b.jpg", BOX.format("", ""), subset="Validation"),
        labels=LABELS + LABELS,
    )
    train, val = data.load(str(file)), data.load(str(photos), split="val")
    assert [len(train), len(val)] == [1, 1] and train.label_map == val.label_map
    assert data.lacks_validation(str(file)) == ""
    # Ids are repeated in the file: counted over all subsets.
    assert [train.records[0].image_id, val.records[0].image_id] == [1, 2]
    with pytest.raises(DataError) as error:
        data.load(str(file), split="test")
    assert str(error.value) == f"{file}: no image has a subset test"


def test_images_of_another_subset_are_counted(photos, warnings_of):
    file = write(
        photos,
        image("a.jpg", BOX.format("", ""), subset="Train"),
        image("deep/b.jpg", BOX.format("", ""), subset="Default", number=1),
    )
    assert len(data.load(str(file))) == 1
    assert warnings_of() == [
        f"{file}: 1 images of subset 'Default' belong to no split, and are not used"
    ]


def test_without_subsets_it_is_a_single_split(photos):
    file = write(photos, image("a.jpg", BOX.format("", "")), labels="")
    assert data.lacks_validation(str(file)) == "no image has the subset Validation"
    assert data.load(str(file), split="val").label_map.names == ("cat",)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ('<box label="cat" xtl="?"></box>', "box: has invalid numbers; image excluded"),
        ('<polygon label="cat" points="1,2;3"></polygon>', "polygon: has invalid numbers; image"),
        (
            '<polygon label="cow" points="1,2;30,40;1,40"></polygon>',
            "label: 'cow' is not a known category; ignored in training and evaluation",
        ),
    ],
)
def test_a_bad_shape_is_named(photos, bad, reason):
    file = write(photos, image("a.jpg", BOX.format("", ""), bad), image("deep/b.jpg", number=1))
    [problem] = data.load(str(photos)).problems
    assert problem.startswith(f"{file}: shape 2 of a.jpg: {reason}")
    assert (problem.file, problem.place) == (str(file), "shape 2 of a.jpg")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<annotation/>", "its root is <annotation>, not <annotations> of CVAT for images 1.1; a"),
        ("<annotations>\n<image", "line 2: not valid XML"),
        ("<annotations><track/></annotations>", "is CVAT for video; export it as CVAT for images"),
        ("<annotations></annotations>", "there is no image"),
    ],
)
def test_what_is_no_such_file_is_one_line(tmp_path, text, reason):
    file = tmp_path / "some.xml"
    file.write_text(text)
    with pytest.raises(DataError) as error:
        data.load(str(file))
    assert str(error.value).startswith(f"{file}: {reason}")
    with pytest.raises(DataError) as error:
        data.load(str(tmp_path / "missing.xml"))
    assert str(error.value) == (
        f"{tmp_path / 'missing.xml'}: cannot be read: No such file or directory"
    )
