"""Diagnoses of detections with one thing wrong, and the checks behind them."""

import dataclasses
import json
import math

import numpy as np
import pytest

from efficientdet_tf.boxes import areas
from efficientdet_tf.data.records import DetectionData, LabelMap, Record
from efficientdet_tf.evaluation.calibration import calibration
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays
from efficientdet_tf.evaluation.diagnosis import diagnose
from efficientdet_tf.evaluation.matching import Matcher
from efficientdet_tf.evaluation.score_thresholds import best_threshold, class_thresholds

NAMES = ("cat", "dog", "owl")


def dataset(**fields):
    """Thirty images of different sizes with three objects each."""
    random = np.random.default_rng(0)
    records = []
    for image_id in range(1, 31):
        height, width = random.integers(200, 400, 2).tolist()
        corners = random.uniform(0, 120, (3, 2)) * [[1, 1]] + [[0, 0], [0, 60], [60, 0]]
        boxes = np.concatenate([corners, corners + random.uniform(20, 60, (3, 2))], axis=1)
        records.append(
            Record(
                image_id=image_id,
                image="",
                height=height,
                width=width,
                boxes=boxes.astype(np.float32),
                classes=random.integers(0, 3, 3).astype(np.int32),
                is_crowd=np.zeros(3, bool),
                area=areas(boxes).astype(np.float32),
                **fields,
            )
        )
    return DetectionData(records, LabelMap((5, 2, 9), NAMES))


DATA = dataset()
# A correct detection of each object, of different scores.
FOUND = DetectionArrays(
    np.repeat([record.image_id for record in DATA.records], 3),
    np.concatenate([record.boxes for record in DATA.records]).astype(float),
    np.linspace(0.51, 0.89, 90),
    np.concatenate([record.classes for record in DATA.records]).astype(np.int64),
)
SHAPES = np.repeat([(record.height, record.width) for record in DATA.records], 3, axis=0)


def with_boxes(boxes):
    return dataclasses.replace(FOUND, boxes=np.asarray(boxes, float))


def test_correct_detections_have_no_diagnosis():
    diagnosis = diagnose(DATA, FOUND)
    assert diagnosis.sentence == "no kind of error costs more than 0.02 of AP50, which is 1.000."
    checks = diagnosis.checks
    assert (checks.ap, checks.ap10, checks.ground_truth_ap) == pytest.approx((1, 1, 1))
    assert checks.class_agnostic_ap50 == pytest.approx(1)
    assert checks.relabelled == {} and checks.num_changed == 30
    assert set(checks.thresholds) == set(NAMES)
    assert diagnosis.summary().splitlines() == [
        "Diagnosis: no kind of error costs more than 0.02 of AP50, which is 1.000.",
        "AP50 lost by kind of error: class 0.000, localisation 0.000, both 0.000, duplicate 0.000, "
        "background 0.000, missed 0.000",
        "AP at IoU 0.1: 1.000; class-agnostic AP50: 1.000; ground truth against itself: 1.000; "
        "calibration error: 0.300",
    ]


BOXES, HEIGHTS, WIDTHS = FOUND.boxes, SHAPES[:, 0], SHAPES[:, 1]
YMIN, XMIN, YMAX, XMAX = BOXES.T
LONGEST = SHAPES.max(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("boxes", "change"),
    [
        (BOXES[:, [1, 0, 3, 2]], "x and y swapped"),
        (np.c_[YMIN, WIDTHS - XMAX, YMAX, WIDTHS - XMIN], "flipped left to right"),
        (np.c_[HEIGHTS - YMAX, XMIN, HEIGHTS - YMIN, XMAX], "flipped top to bottom"),
        (BOXES / np.tile(SHAPES, 2), "taken as fractions of the image"),
        (
            np.c_[YMIN, XMIN, YMIN + YMAX, XMIN + XMAX],
            "with width and height taken as the far corner",
        ),
        (
            np.c_[YMIN, XMIN, YMAX - YMIN, XMAX - XMIN],
            "with the far corner taken as width and height",
        ),
        (BOXES / 4, "scaled by 4"),
        (BOXES / LONGEST * 128, "scaled by 0.00781 times the image's longest side"),
        (BOXES + [30, -40, 30, -40], "shifted by 40 pixels to the right and -30 down"),
        (
            BOXES + np.c_[YMAX - YMIN, XMAX - XMIN, YMIN - YMAX, XMIN - XMAX] * 0.25,
            "made 2 times as large in place",
        ),
    ],
)
def test_wrong_boxes_are_recognised(boxes, change):
    diagnosis = diagnose(DATA, with_boxes(boxes))
    unchanged = diagnosis.checks.unchanged_ap50
    assert unchanged < 0.5
    assert diagnosis.sentence == (
        f"boxes look wrong: {change}, they have an AP50 of 1.000 instead of {unchanged:.3f}; "
        "check how coordinates are written."
    )


def test_wrong_labels_are_recognised():
    diagnosis = diagnose(
        DATA, dataclasses.replace(FOUND, class_indices=(FOUND.class_indices + 1) % 3)
    )
    assert diagnosis.sentence == (
        "labels look wrong: with 'cat' as 'owl', 'dog' as 'cat', 'owl' as 'dog', AP50 is 1.000 "
        "instead of 0.000; check the label map."
    )
    assert diagnosis.checks.relabelled == {"cat": "owl", "dog": "cat", "owl": "dog"}


def test_classes_without_any_detection_are_named():
    is_dog = FOUND.class_indices == 1
    diagnosis = diagnose(DATA, FOUND.taken(is_dog))
    assert diagnosis.sentence == (
        "2 of 3 classes with objects have no detection at all, such as 'cat'; check the label map."
    )
    assert diagnosis.checks.undetected == ("cat", "owl")
    # Objects of one class only.
    records = [
        dataclasses.replace(record, is_ignored=record.classes != 1) for record in DATA.records
    ]
    checks = diagnose(DetectionData(records, DATA.label_map), FOUND).checks
    assert (checks.undetected, checks.unannotated) == ((), ("cat", "owl"))


def test_confused_classes_are_no_wrong_labels():
    random = np.random.default_rng(1)
    diagnosis = diagnose(
        DATA, dataclasses.replace(FOUND, class_indices=random.integers(0, 3, len(FOUND)))
    )
    share = diagnosis.checks.errors.shares["class"]
    assert diagnosis.sentence.startswith(f"class errors cost most, {share:.3f} of AP50: boxes are ")
    assert diagnosis.checks.class_agnostic_ap50 == pytest.approx(1)


def test_imprecise_boxes_are_named():
    # IoU 0.625.
    boxes = np.c_[YMIN, XMIN, YMIN + 0.625 * (YMAX - YMIN), XMAX]
    diagnosis = diagnose(DATA, with_boxes(boxes))
    assert diagnosis.sentence == (
        "objects are found, with an AP50 of 1.000, but boxes are imprecise, with an AP of 0.300; "
        "train longer or with a larger image size."
    )


def test_missed_objects_are_named():
    diagnosis = diagnose(DATA, FOUND.taken(np.arange(30)))
    assert diagnosis.sentence.startswith("missed objects cost most, ")
    assert diagnose(DATA, FOUND.taken(np.arange(0))).sentence == (
        "there are no detections; train longer, or lower detection.score_threshold."
    )


def test_boxes_without_size_are_named():
    records = [
        dataclasses.replace(record, boxes=record.boxes * [[1], [1], [0]]) for record in DATA.records
    ]
    diagnosis = diagnose(DetectionData(records, DATA.label_map), FOUND)
    value = diagnosis.checks.ground_truth_ap
    assert 0.3 < value < 0.7
    assert diagnosis.sentence == (
        f"the ground truth against itself has an AP of {value:.3f} instead of 1; check for boxes "
        "without size."
    )


def dense(counts):
    """An image for each number of objects, of the first class, and their correct detections."""
    corners = 10.0 * np.stack(np.divmod(np.arange(max(counts)), 20), axis=1)
    boxes = np.concatenate([corners, corners + 8], axis=1).astype(np.float32)
    records = [
        dataclasses.replace(
            DATA.records[i],
            **dict(boxes=boxes[:n], classes=np.zeros(n, np.int32), area=areas(boxes[:n])),
            **dict(is_crowd=np.zeros(n, bool), is_ignored=None, is_difficult=None),
        )
        for i, n in enumerate(counts)
    ]
    found = DetectionArrays(
        np.repeat([record.image_id for record in records], counts),
        np.concatenate([record.boxes for record in records]).astype(float),
        np.concatenate([np.linspace(0.9, 0.5, n) for n in counts]),
        np.zeros(sum(counts), np.int64),
    )
    return DetectionData(records, DATA.label_map), found


def test_dense_images_are_measured_with_all_detections_and_the_limits_are_told():
    data, found = dense((150, 50))
    diagnosis = diagnose(data, found, max_detections=200)
    assert diagnosis.sentence == "no kind of error costs more than 0.02 of AP50, which is 1.000."
    assert diagnosis.checks.class_agnostic_ap50 == pytest.approx(1)
    # 150 of 200 objects: 76 of the 101 recalls.
    assert diagnosis.checks.highest_coco_ap == pytest.approx(76 / 101)
    assert diagnosis.limits == (
        "COCO counts 100 detections of a class in an image; 1 image has more objects of a class, "
        "up to 150, so that AP is at most 0.752. All else here counts 150 detections: AP is 1.000, "
        "AP50 1.000",
    )
    assert diagnosis.summary().splitlines()[1] == f"Limit: {diagnosis.limits[0]}."
    assert json.loads(diagnosis.to_json())["beyond_coco"]["objects"] == 50


def test_objects_beyond_the_largest_number_of_detections_are_told():
    data, found = dense((60, 40, 30))
    first = np.concatenate([np.flatnonzero(found.image_ids == i)[:25] for i in (1, 2, 3)])
    diagnosis = diagnose(data, found.taken(first), max_detections=25)
    share = diagnosis.checks.errors.shares["missed"]
    assert diagnosis.sentence == (
        f"missed objects cost most, {share:.3f} of AP50: 55 are beyond detection.max_detections."
    )
    assert diagnosis.limits == (
        "detection.max_detections=25: 3 images have more objects, up to 60, and 55 of all 130 "
        "cannot be detected; --set detection.max_detections=100, in training and evaluation",
    )


def test_without_objects_and_images_ap_is_undefined():
    ignored = dataset(is_ignored=np.ones(3, bool))
    for data in (ignored, DetectionData([], DATA.label_map)):
        diagnosis = diagnose(data, FOUND.taken(np.arange(len(data.records))))
        assert diagnosis.sentence == "there are no objects that count, so that AP is undefined."
        values = json.loads(diagnosis.to_json())
        assert values["ap"] is None and values["errors"]["shares"]["class"] is None


def test_json_has_all_numbers():
    values = json.loads(diagnose(DATA, FOUND).to_json())
    assert values["errors"]["ap50"] == pytest.approx(1)
    assert values["changed_ap50"]["x and y swapped"] < 0.5
    assert values["thresholds"]["cat"]["precision"] == 1
    assert values["calibration"]["error"] == pytest.approx(0.3)
    assert values["calibration"]["counts"] == [0, 0, 0, 0, 0, 22, 23, 23, 22, 0]


def test_calibration_compares_scores_with_precision():
    # One of four detections with a score of 0.8 is right, and both with 0.2.
    found = FOUND.taken(np.arange(6))
    boxes = found.boxes + np.array([[0], [500], [500], [500], [0], [0]])
    found = dataclasses.replace(
        found, boxes=boxes, scores=np.array([0.85, 0.85, 0.85, 0.85, 0.25, 0.25])
    )
    result = calibration(Matcher(DATA.records, found))
    assert result.counts.tolist() == [0, 0, 2, 0, 0, 0, 0, 0, 4, 0]
    assert (result.precision[2], result.precision[8]) == (1, 0.25)
    assert result.error == pytest.approx((2 * 0.75 + 4 * 0.6) / 6)
    assert result.excess == pytest.approx((-2 * 0.75 + 4 * 0.6) / 6)
    assert math.isnan(calibration(Matcher(DATA.records, found.taken(np.arange(0)))).error)


def test_the_best_threshold_has_the_best_f1():
    hits = np.array([True, True, False, True, False])
    best = best_threshold(np.array([0.9, 0.8, 0.8, 0.3, 0.2]), hits, 4)
    assert (best.score, best.precision, best.recall, best.f1) == (0.3, 0.75, 0.75, 0.75)
    # Equal scores are above a threshold together.
    best = best_threshold(np.array([0.8, 0.9, 0.8]), np.array([True, True, False]), 2)
    assert (best.score, best.precision, best.recall) == (0.8, 2 / 3, 1.0)
    assert math.isnan(best_threshold(np.array([0.5]), np.array([False]), 1).score)


def test_classes_of_one_name_have_a_threshold_each():
    records = DATA.records[:1]
    label_map = LabelMap(DATA.label_map.ids, ("same",) * len(NAMES))
    thresholds = class_thresholds(Matcher(records, FOUND.taken(np.arange(3))), label_map)
    assert set(thresholds) == {f"same ({label_map.ids[i]})" for i in records[0].classes}


def test_thresholds_are_by_class_with_objects():
    records = DATA.records[:1]
    data = DetectionData(records, DATA.label_map)
    found = FOUND.taken(np.arange(3))
    thresholds = class_thresholds(Matcher(records, found), data.label_map)
    assert set(thresholds) == {NAMES[i] for i in records[0].classes}
    for name, best in thresholds.items():
        scores = found.scores[found.class_indices == NAMES.index(name)]
        assert (best.score, best.f1) == (scores.min(), 1.0)
