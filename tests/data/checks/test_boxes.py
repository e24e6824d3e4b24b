"""Faults of boxes and categories, each with its exact line."""

import math

import numpy as np
import pytest

from efficientdet_tf import data
from efficientdet_tf.data.checks.checked_set import check_set


def test_every_fault_of_a_box(folder, faults_of):
    folder.categories.pop()
    nan, image = math.nan, "the image of 64 x 48 pixels"
    good = [10, 10, 30, 30]
    for name, box in {
        "a.png": [nan, 1, 2, 3],
        "b.png": [0, 0, 0, 0],
        "c.png": [30, 30, -10, 5],
        "d.png": [30, 30, 10, 0],
        "e.png": [64, 10, 20, 20],
        "f.png": [10, 10, 200, 20],
        "g.png": [50, 10, 20, 20],
        "h.png": "1 2 3 4",
        "i.png": [50, 30, 14.5, 18.9],
    }.items():
        folder.add(name, box, good)
    folder.annotations[-1]["category_id"] = 7
    ignored = "ignored in training and evaluation"
    expected = [
        ("box_unreadable", 15, "must be four numbers, is '1 2 3 4'; image excluded"),
        ("box_not_finite", 1, "is not finite; image excluded"),
        ("box_all_zero", 3, "is all zeros; image excluded"),
        ("box_negative", 5, f"has no width or no height; {ignored}"),
        ("box_empty", 7, f"has no width or no height; {ignored}"),
        ("box_outside", 9, f"lies outside {image}; image excluded"),
        ("box_far_outside", 11, f"reaches far beyond {image}; clipped"),
        ("box_beyond", 13, f"reaches beyond {image}; clipped"),
    ]
    lines = [(kind, f"set.json: annotation {n}: bbox: {fact}") for kind, n, fact in expected]
    unknown = f"set.json: annotation 18: category_id: 7 is not a known category; {ignored}"
    assert faults_of(folder.save()) == [*lines, ("category_unknown", unknown)]


def test_a_fault_knows_its_file_field_image_and_box(folder):
    image = folder.add("a.png", [50, 10, 20, 20])
    path = folder.save()
    [fault] = check_set(data.read_annotations(path), "train").faults
    assert (fault.file, fault.place, fault.field) == (path, "annotation 1", "bbox")
    assert (fault.image, fault.box) == (str(image), (10, 50, 30, 70))
    assert fault.fact == "reaches beyond the image of 64 x 48 pixels; clipped"


def test_repeated_ids_and_objects(folder, faults_of):
    folder.categories.pop()
    folder.add("a.png", [10, 10, 30, 30], [10, 10, 30, 29], [10, 10, 30, 20])
    folder.add("b.png")
    folder.annotations[1]["id"] = folder.annotations[3]["id"] = 1
    folder.images.append(folder.images[1])
    assert faults_of(folder.save()) == [
        ("image_id_duplicate", "set.json: image 3 of the list: image id 2 occurs twice"),
        (
            "annotation_id_duplicate",
            "set.json: 1 annotation id occurs more than once, e.g. 1; all of these annotations are "
            "used, where pycocotools takes the last of an id for each",
        ),
        (
            "box_duplicate",
            "set.json: annotation 1: bbox: is that of annotation 1, of the same class",
        ),
    ]


BOXES = np.array([[5, 5, 20, 30], [30, 10, 62, 40], [20, 2, 60, 46], [40, 30, 64, 48]])


@pytest.mark.parametrize(
    ("numbers", "order", "as_read"),
    [
        (BOXES, "[xmin, ymin, xmax, ymax]", 1),
        (BOXES[:, [1, 0, 3, 2]], "[ymin, xmin, ymax, xmax]", 1),
        (
            np.concatenate([(BOXES[:, :2] + BOXES[:, 2:]) / 2, BOXES[:, 2:] - BOXES[:, :2]], 1),
            "[x_center, y_center, width, height]",
            1,
        ),
        (np.concatenate([BOXES[:, :2], BOXES[:, 2:] - BOXES[:, :2]], axis=1), "", 4),
    ],
)
def test_another_order_of_the_numbers_is_guessed(folder, faults_of, numbers, order, as_read):
    folder.add("a.png", *numbers.tolist())
    lines = [line for kind, line in faults_of(folder.save()) if kind == "box_order"]
    assert lines == [
        f"set.json: bbox: {as_read} of 4 boxes are inside their image as [xmin, ymin, width, "
        f"height], 4 as {order}; they are probably written in that order"
    ] * bool(order)


def test_small_boxes_depend_on_the_input_size(folder, faults_of):
    folder.categories.pop()
    # At 64 pixels it is as large as given, and an anchor of 4 x 4 pixels has its centre at 20, 20.
    folder.add("a.png", [19, 19, 2, 2], [18, 18, 4, 4])
    fact = "is 2.0 x 2.0 pixels at the network's input; the best anchor has an IoU of 0.25"
    assert faults_of(folder.save()) == [("box_small", f"set.json: annotation 1: bbox: {fact}")]
    # At 128 pixels it is as large as the smallest anchor.
    assert faults_of(folder.save(), settings={"model.image_size": 128}) == []
    assert faults_of(folder.save(), settings={"anchors.scale": 0.25}) == []


def test_small_boxes_are_found_at_the_input_size_that_is_chosen(folder, faults_of):
    folder.categories.pop()
    # At 96 pixels 3 x 3 around 28, 28, where an anchor of 4 x 4 pixels is.
    folder.add("a.png", [17.67, 17.67, 2, 2])
    [(kind, _)] = faults_of(folder.save())
    assert kind == "box_small"
    assert faults_of(folder.save(), settings={"model.auto_image_size": True}) == []
