"""Matching of a model's classes to those of a data set."""

import numpy as np
import pytest

from efficientdet_tf.data.class_matching import match_classes, with_classes
from efficientdet_tf.data.records import DataError, DetectionData, LabelMap, Record

MODEL = LabelMap((1, 2, 7), ("cat", "dog", "bird"))


def data(ids, names, used=(), ignored=()):
    record = Record(
        image_id=1,
        image="unread.jpg",
        height=10,
        width=10,
        boxes=np.zeros((len(used), 4), np.float32),
        classes=np.array(used, np.int32),
        is_crowd=np.zeros(len(used), bool),
        area=np.zeros(len(used), np.float32),
        is_ignored=np.isin(used, ignored),
    )
    return DetectionData([record], LabelMap(ids, names), source="pets.json")


def test_equal_classes_are_matched_in_order():
    assert match_classes(MODEL, data(MODEL.ids, MODEL.names)).tolist() == [0, 1, 2]


def test_classes_are_matched_by_name_whatever_ids_and_order():
    assert match_classes(MODEL, data((0, 1, 2), ("bird", "cat", "dog"))).tolist() == [1, 2, 0]


def test_classes_missing_from_the_data_are_dropped():
    assert match_classes(MODEL, data((9,), ("dog",), used=[0])).tolist() == [-1, 0, -1]


def test_a_class_without_objects_need_not_be_known():
    assert match_classes(MODEL, data((1, 5), ("cat", "fish"), used=[0])).tolist() == [0, -1, -1]


def test_a_class_of_ignored_objects_need_not_be_known():
    pets = data((1, 5), ("cat", "fish"), used=[0, 1, -1], ignored=[1, -1])
    assert match_classes(MODEL, pets).tolist() == [0, -1, -1]


def test_equal_names_are_distinguished_by_id():
    twins = LabelMap((1, 2), ("bat", "bat"))
    assert match_classes(twins, data((2, 1), ("bat", "bat"), used=[0, 1])).tolist() == [1, 0]


@pytest.mark.parametrize(("ids", "names"), [((1, 5), ("cat", "fish")), ((1, 2), ("cat", "fish"))])
def test_an_unknown_class_is_named(ids, names):
    with pytest.raises(DataError) as error:
        match_classes(MODEL, data(ids, names, used=[0, 1]))
    assert str(error.value) == (
        f"pets.json: class 'fish' (id {ids[1]}) is not a class of the model; "
        "its classes: 'cat' (id 1), 'dog' (id 2), 'bird' (id 7)"
    )


def test_of_many_classes_five_are_listed():
    many = LabelMap(tuple(range(80)), tuple(f"c{i}" for i in range(80)))
    with pytest.raises(DataError, match=r"'c4' \(id 4\) and 75 more$"):
        match_classes(many, data((1,), ("fish",), used=[0]))


def test_a_data_set_of_fewer_classes_in_another_order_gets_those_of_the_model():
    pets = data((3, 1, 5), ("bird", "cat", "fish"), used=[0, 1, 0, 2, -1], ignored=[2, -1])
    matched = with_classes(MODEL, pets)
    assert matched.label_map == MODEL
    assert matched.records[0].classes.tolist() == [2, 0, 2, -1, -1]
    assert matched.records[0].classes.dtype == np.int32
    assert with_classes(MODEL, matched) is matched
    with pytest.raises(DataError, match="'fish' .id 1. is not a class of train.json; its classes"):
        with_classes(MODEL, data((1,), ("fish",), used=[0]), "train.json")
