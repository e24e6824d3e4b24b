"""Kinds of errors, on cases with known shares."""

import math

import numpy as np
import pytest

from efficientdet_tf.boxes import areas
from efficientdet_tf.data.records import Record
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays
from efficientdet_tf.evaluation.error_shares import KINDS, error_shares
from efficientdet_tf.evaluation.matching import Matcher

CAT, DOG = range(2)
# Places that do not overlap.
HERE, THERE, AWAY = [0, 0, 10, 10], [0, 20, 10, 30], [60, 60, 70, 70]
# Of the same place, at IoU 0.4, 0.6 and 1 / 19.
FAR, NEAR, TOUCHING = [0, 0, 4, 10], [0, 0, 6, 10], [9, 0, 19, 10]


def record(image_id, *objects):
    """An image with objects (box, class) or (box, class, "crowd")."""
    boxes = np.array([item[0] for item in objects], np.float32).reshape(-1, 4)
    return Record(
        image_id=image_id,
        image="",
        height=100,
        width=100,
        boxes=boxes,
        classes=np.array([item[1] for item in objects], np.int32),
        is_crowd=np.array([item[2:] == ("crowd",) for item in objects], bool),
        area=areas(boxes),
    )


def measured(records, *found):
    """Measure detections (image id, box, class, score)."""
    columns = list(zip(*found)) or [[]] * 4
    detections = DetectionArrays(
        np.array(columns[0], np.int64),
        np.array(columns[1], float).reshape(-1, 4),
        np.array(columns[3], float),
        np.array(columns[2], np.int64),
    )
    return error_shares(Matcher(records, detections))


CATS = [record(1, (HERE, CAT)), record(2, (HERE, CAT))]


# Each beside the detection of the other cat, whose AP is then 51 of 101 recalls, or half if the
# error has the higher score.
@pytest.mark.parametrize(
    ("kind", "error", "ap50"),
    [
        ("localisation", (1, FAR, CAT, 0.3), 51 / 101),
        ("missed", None, 51 / 101),
        ("duplicate", (2, NEAR, CAT, 0.3), 51 / 101),
        ("background", (2, AWAY, CAT, 0.9), 51 / 101 / 2),
        ("background", (2, TOUCHING, CAT, 0.9), 51 / 101 / 2),
    ],
)
def test_one_kind_of_error(kind, error, ap50):
    found = [(2, HERE, CAT, 0.8)] + ([error] if error else [])
    result = measured(CATS, *found)
    assert result.ap50 == pytest.approx(ap50)
    alone = {"localisation": 1, "missed": 1, "duplicate": 0, "background": 1}[kind]
    assert result.counts[kind] == 1
    if kind in ("localisation", "missed"):
        assert result.shares[kind] == pytest.approx(1 - ap50)
        assert result.largest == kind
        assert sum(result.counts.values()) == alone
    if kind == "background":
        assert result.shares[kind] == pytest.approx(51 / 101 - ap50)
        # The cat of image 1.
        assert (result.counts["missed"], sum(result.counts.values())) == (1, 2)


def test_only_class_errors_give_only_a_class_share():
    records = [record(1, (HERE, CAT)), record(2, (HERE, DOG))]
    found = [(1, HERE, CAT, 0.9), (2, HERE, CAT, 0.8), (2, HERE, DOG, 0.7), (1, HERE, DOG, 0.9)]
    result = measured(records, *found)
    # The dog is detected below a cat predicted as a dog.
    assert result.ap50 == pytest.approx((1 + 1 / 2) / 2)
    assert result.counts == dict.fromkeys(KINDS, 0) | {"class": 2}
    assert result.shares == pytest.approx(dict.fromkeys(KINDS, 0.0) | {"class": 0.25}, abs=1e-9)
    result = measured(records, (1, HERE, DOG, 0.9), (2, HERE, CAT, 0.8))
    assert result.ap50 == 0
    assert result.shares == pytest.approx(dict.fromkeys(KINDS, 0.0) | {"class": 1.0}, abs=1e-9)
    # Without its false positive, each class still has no true positive.
    assert result.false_positives == 0
    assert result.false_negatives == 1


def test_a_duplicate_costs_where_objects_follow():
    found = [(1, HERE, CAT, 0.9), (1, NEAR, CAT, 0.8), (2, HERE, CAT, 0.7)]
    result = measured(CATS, *found)
    ap50 = (51 + 50 * 2 / 3) / 101
    assert result.ap50 == pytest.approx(ap50)
    assert result.shares["duplicate"] == pytest.approx(1 - ap50)
    assert result.false_positives == pytest.approx(1 - ap50)
    assert result.counts == dict.fromkeys(KINDS, 0) | {"duplicate": 1}


def test_both_wrong_is_removed_and_leaves_the_object_missed():
    result = measured(CATS[:1], (1, FAR, DOG, 0.9))
    assert result.counts == dict.fromkeys(KINDS, 0) | {"both": 1, "missed": 1}
    # The only class with objects: perfect without its missed object.
    assert result.shares["missed"] == 1 and result.shares["both"] == 0


def test_of_several_errors_with_an_object_the_best_is_corrected():
    found = [(1, FAR, CAT, 0.6), (1, FAR, CAT, 0.9), (2, HERE, CAT, 0.8)]
    result = measured(CATS, *found)
    assert result.counts == dict.fromkeys(KINDS, 0) | {"localisation": 2}
    assert result.ap50 + result.shares["localisation"] == pytest.approx(1.0)
    # None is corrected where the object has a true positive: both are removed.
    result = measured(CATS[:1], (1, FAR, CAT, 0.9), (1, HERE, CAT, 0.8))
    assert result.ap50 == pytest.approx(0.5)
    assert result.shares["localisation"] == pytest.approx(0.5)


def test_detections_in_a_crowd_region_are_no_errors():
    result = measured(
        [record(1, (HERE, CAT), ([20, 20, 90, 90], CAT, "crowd"))],
        (1, [30, 30, 40, 40], CAT, 0.9),
        (1, HERE, CAT, 0.5),
    )
    assert result.ap50 == pytest.approx(1.0)
    assert not any(result.counts.values())


def test_without_detections_all_is_missed():
    result = measured(CATS)
    assert (result.ap50, result.largest, result.counts["missed"]) == (0, "missed", 2)
    assert result.shares["missed"] == result.false_negatives == 1


def test_without_objects_nothing_is_defined():
    result = measured([record(1)], (1, HERE, CAT, 0.9))
    assert math.isnan(result.ap50) and result.counts["background"] == 1
    assert math.isnan(measured([]).ap50)
