"""Predictions that contradict the labels, and labels that no prediction finds."""

import json

import numpy as np
import pytest
from PIL import Image

from efficientdet_tf import data
from efficientdet_tf.data.checks.checked_set import check_set
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays
from efficientdet_tf.evaluation.suspects import find_suspects

# x, y, width and height: a cat, a dog, and a crowd of cats.
OBJECTS = [(1, [10, 10, 40, 40], 0), (2, [100, 10, 40, 40], 0), (1, [10, 100, 180, 90], 1)]


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suspects")
    for number in (1, 2):
        Image.new("RGB", (200, 200)).save(folder / f"{number}.png")
    content = {
        "images": [{"id": number, "file_name": f"{number}.png"} for number in (1, 2)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": category, "bbox": box, "iscrowd": crowd}
            for i, (category, box, crowd) in enumerate(OBJECTS, 1)
        ],
    }
    (folder / "set.json").write_text(json.dumps(content))
    return check_set(data.read_annotations(str(folder / "set.json")), "val")


def suspects(checked, *predictions):
    """Kind, place and box of the suspects among (image id, class index, score, x, y, w, h)."""
    values = np.array(predictions, float).reshape(-1, 7)
    x, y, width, height = values[:, 3:].T
    boxes = np.stack([y, x, y + height, x + width], axis=-1)
    ids, indices = values[:, 0].astype(int), values[:, 1].astype(int)
    found = find_suspects(checked, DetectionArrays(ids, boxes, values[:, 2], indices), 0.5)
    return [(fault.kind, fault.place, fault.box) for fault in found]


CAT, DOG = (1, 0, 0.9, 11, 10, 40, 40), (1, 1, 0.1, 100, 12, 40, 40)


def test_right_predictions_and_crowds_are_no_suspects(checked):
    in_crowd = (1, 0, 0.9, 30, 120, 20, 20)
    unsure = (2, 0, 0.4, 30, 120, 20, 20)
    assert suspects(checked, CAT, DOG, in_crowd, unsure) == []


def test_every_object_is_unfound_without_predictions(checked):
    kinds = [kind for kind, _, _ in suspects(checked)]
    places = [place for _, place, _ in suspects(checked)]
    # Crowds are not searched for.
    assert kinds == ["suspect_unfound"] * 2 and places == ["annotation 1", "annotation 2"]


def test_predictions_where_no_object_is_are_listed_once_by_descending_score(checked):
    first, second = (2, 1, 0.7, 50, 50, 30, 30), (2, 0, 0.8, 150, 50, 30, 30)
    again = (2, 1, 0.6, 52, 50, 30, 30)
    assert suspects(checked, CAT, DOG, first, again, second) == [
        ("suspect_unlabelled", "", (50, 150, 80, 180)),
        ("suspect_unlabelled", "", (50, 50, 80, 80)),
    ]


def test_a_prediction_of_another_class_names_the_label(checked):
    wrong = (1, 1, 0.8, 10, 11, 40, 40)
    assert suspects(checked, DOG, wrong) == [
        ("suspect_class", "annotation 1", (11, 10, 51, 50)),
    ]
    # A surer prediction agrees with the label.
    assert suspects(checked, DOG, CAT, wrong) == []
