"""Unusable objects: ignored at a known position, else their image is excluded."""

import io
import types

import numpy as np
import pytest
from PIL import Image

from efficientdet_tf.cli import eval, report
from efficientdet_tf.config import Config
from efficientdet_tf.data import DataError, parts, voc
from efficientdet_tf.data.annotations import AnnotatedImage, Annotations, boxes_array
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.data.validation import validate
from efficientdet_tf.training import train

# Width 60, height 40.
PNG = io.BytesIO()
Image.new("RGB", (60, 40)).save(PNG, "PNG")
GOOD = [5, 5, 20, 30]


def annotations(*boxes, labels=None, **fields) -> Annotations:
    """One image with boxes of class "cat", or of the given labels."""
    image = AnnotatedImage(
        image_id=1,
        image=PNG.getvalue(),
        name="a.png",
        annotation_file="a.txt",
        size=None,
        boxes=boxes_array(boxes),
        labels=labels or ["cat"] * len(boxes),
        numbers=range(1, len(boxes) + 1),
        **fields,
    )
    return Annotations(
        images=[image],
        label_map=LabelMap((1, 2), ("cat", "dog")),
        class_indices={"cat": 0, "dog": 1},
        source="set",
        object_word="object",
        box_field="box",
        label_field="class",
    )


@pytest.mark.parametrize(
    ("given", "placed"),
    [
        # Swapped corners.
        ([20, 30, 5, 5], [5, 5, 20, 30]),
        ([5, 30, 20, 5], [5, 5, 20, 30]),
        # Lines and points are widened to a pixel.
        ([5, 7, 20, 7], [5, 6.5, 20, 7.5]),
        ([9, 7, 9, 7], [8.5, 6.5, 9.5, 7.5]),
        # Clipped at the border.
        ([5, 60, 20, 60], [5, 59.5, 20, 60]),
    ],
)
def test_a_box_without_area_is_ignored_where_it_is(given, placed):
    loaded = validate(annotations(GOOD, given))
    [record] = loaded.records
    np.testing.assert_array_equal(record.boxes, [GOOD, placed])
    assert record.is_ignored.tolist() == [False, True]
    assert record.is_counted.tolist() == [True, False]
    fault = "box: has no width or no height; ignored in training and evaluation"
    assert list(loaded.problems) == [f"a.txt: object 2: {fault}"]


def test_small_boxes_stay_as_they_are():
    [record] = validate(annotations([5, 5, 5.25, 5.5])).records
    np.testing.assert_array_equal(record.boxes, [[5, 5, 5.25, 5.5]])
    np.testing.assert_array_equal(record.area, [0.125])
    assert record.is_counted.all()


def test_an_unknown_category_has_no_class():
    loaded = validate(annotations(GOOD, [1, 2, 3, 4], labels=["cow", "dog"]))
    [record] = loaded.records
    assert record.classes.tolist() == [-1, 1]
    assert record.is_ignored.tolist() == [True, False]
    fault = "class: 'cow' is not a known category; ignored in training and evaluation"
    assert list(loaded.problems) == [f"a.txt: object 1: {fault}"]


def test_one_object_of_unknown_position_excludes_the_image():
    boxes = [GOOD, [0, 0, 0, 0], [5, 5, 5, 5], [50, 5, 60, 30], [1, 1, np.inf, 2]]
    with pytest.raises(DataError) as error:
        validate(annotations(*boxes))
    assert str(error.value) == (
        "set: has no usable image; the first problem: a.txt: object 2: box: is all zeros; "
        "image excluded"
    )
    two = annotations(*boxes)
    other = annotations(GOOD).images[0]
    loaded = validate(Annotations(**{**vars(two), "images": [two.images[0], other]}))
    faults = {
        2: "is all zeros",
        4: "lies outside the image of 60 x 40 pixels",
        5: "is not finite",
    }
    assert list(loaded.problems) == [
        f"a.txt: object {number}: box: {fault}; image excluded" for number, fault in faults.items()
    ]
    assert len(loaded) == 1


def test_difficult_objects_are_ignored_unless_they_are_counted(warnings_of):
    marked = annotations(GOOD, [1, 2, 3, 4], is_difficult=[False, True])
    loaded = validate(marked, strict=True)
    [record] = loaded.records
    assert record.is_ignored.tolist() == record.is_difficult.tolist() == [False, True]
    assert record.classes.tolist() == [0, 0]
    # They are valid, and no problem.
    assert loaded.problems == ()
    note = (
        "1 difficult object is ignored in training and evaluation; "
        "data.use_difficult=true counts them"
    )
    assert list(loaded.notes) == [note] and warnings_of() == [f"set: {note}"]
    counted = validate(marked, use_difficult=True)
    assert counted.records[0].is_counted.all() and counted.notes == ()
    assert counted.records[0].is_difficult.tolist() == [False, True]


def test_a_set_of_difficult_objects_only_says_so():
    loaded = validate(annotations(GOOD, GOOD, is_difficult=[True, True]))
    with pytest.raises(DataError) as error:
        parts.require_objects(loaded)
    assert str(error.value) == (
        "set: has no usable object in 1 images; 2 difficult objects are ignored in training and "
        "evaluation; data.use_difficult=true counts them"
    )


def test_an_object_that_the_reader_cannot_place_excludes_the_image():
    some = annotations(GOOD, unplaced=["a.txt: object 2: box: must be four numbers"])
    both = Annotations(**{**vars(some), "images": [some.images[0], annotations(GOOD).images[0]]})
    loaded = validate(both)
    message = "a.txt: object 2: box: must be four numbers; image excluded"
    assert list(loaded.problems) == [message] and len(loaded) == 1
    with pytest.raises(DataError) as error:
        validate(both, strict=True)
    assert str(error.value) == message


@pytest.mark.parametrize("counted", [False, True])
def test_every_command_passes_on_whether_difficult_objects_count(monkeypatch, counted):
    marked = annotations(GOOD, [1, 2, 3, 4], is_difficult=[False, True])
    monkeypatch.setattr(voc, "read", lambda path, *, images, split: marked)
    config = Config().override({"data.format": "voc", "data.use_difficult": counted})
    config = config.override({"data.train": "a", "data.val": "b"})
    options = types.SimpleNamespace(data="a", format="voc", images="", split="val")
    loaded = [
        *train.load_data(config),
        *report._data(config, marked.label_map),
        eval._data(options, config, is_run=False),
        eval._data(types.SimpleNamespace(**{**vars(options), "data": ""}), config, is_run=True),
    ]
    for data_set in loaded:
        assert data_set.records[0].is_counted.tolist() == [True, counted]
