"""The confusion matrix and the worst images, counted by hand."""

import numpy as np
import pytest

from benchmarks.coco_reference import reference
from efficientdet_tf.boxes import areas
from efficientdet_tf.data.records import DetectionData, LabelMap, Record
from efficientdet_tf.evaluation.coco import CocoEvaluator
from efficientdet_tf.evaluation.confusion import confusion
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays

LABELS = LabelMap((7, 2, 5), ("cat", "dog", "owl"))
CAT, DOG, OWL = range(3)
# Places that do not overlap.
HERE, THERE, AWAY = [0, 0, 10, 10], [0, 20, 10, 30], [20, 0, 40, 20]


def record(image_id, *objects):
    """An image with objects (box, class), (box, class, "crowd") or (box, class, "ignored")."""
    boxes = np.array([item[0] for item in objects], np.float32).reshape(-1, 4)
    return Record(
        image_id=image_id,
        image="",
        height=100,
        width=100,
        boxes=boxes,
        classes=np.array([item[1] for item in objects], np.int32),
        is_crowd=np.array([item[2:] == ("crowd",) for item in objects], bool),
        is_ignored=np.array([item[2:] == ("ignored",) for item in objects], bool),
        area=areas(boxes),
    )


def found(image_id, box, class_index, score):
    return DetectionArrays(
        np.array([image_id]), np.array([box], float), np.array([score]), np.array([class_index])
    )


def match(records, detections, **options):
    arrays = DetectionArrays.joined(detections)
    return confusion(DetectionData(records, LABELS), arrays, **options)


DATA = [
    record(1, (HERE, CAT), (THERE, DOG)),
    record(2, (HERE, OWL), (THERE, CAT), (AWAY, OWL)),
    record(3),
]
DETECTIONS = [
    # Image 1: both true positives; the cat twice.
    found(1, HERE, CAT, 0.9),
    found(1, THERE, DOG, 0.8),
    found(1, [1, 0, 10, 10], CAT, 0.7),
    # Image 2: an owl predicted as a cat; the cat is a false negative at threshold 0.5.
    found(2, HERE, CAT, 0.95),
    found(2, THERE, CAT, 0.4),
    found(2, [60, 60, 70, 70], DOG, 0.6),
    # Image 3: a false positive without any object.
    found(3, HERE, OWL, 0.5),
]


def test_the_matrix():
    result = match(DATA, DETECTIONS, score_threshold=0.5)
    assert result.matrix.tolist() == [
        # cat dog owl background
        [1, 0, 0, 1],
        [0, 1, 0, 0],
        [1, 0, 0, 1],
        [1, 1, 1, 0],
    ]
    assert result.precision.tolist() == [1 / 3, 1 / 2, 0]
    assert result.recall.tolist() == [1 / 2, 1, 0]
    assert result.most_confused(5) == [("owl", "cat", 1)]


def test_the_worst_images_come_first():
    result = match(DATA, DETECTIONS, score_threshold=0.5)
    worst = result.worst_images(5)
    summary = [(o.record.image_id, o.false_negatives, o.false_positives) for o in worst]
    # Images 1 and 3 have as many errors, but image 1 has the higher F1.
    assert summary == [(2, 3, 2), (3, 0, 1), (1, 0, 1)]
    assert [o.f1 for o in result.worst_images(5)] == [0, 0, 4 / 5]
    assert len(result.worst_images(1)) == 1


def test_images_without_errors_are_not_among_the_worst():
    result = match([record(1, (HERE, CAT)), record(2)], [found(1, HERE, CAT, 0.9)])
    assert result.worst_images(5) == []
    assert [outcome.f1 for outcome in result.outcomes] == [1, 1]


def test_the_default_threshold_has_the_best_f1():
    # At 0.4 there are 3 true positives of 7 for 5 objects, F1 6/12; at 0.8 2 of 3, F1 4/8:
    # equal, so the first is chosen.
    result = match(DATA, DETECTIONS)
    assert result.score_threshold == 0.8
    assert match(DATA, [found(1, HERE, CAT, 0.2)]).score_threshold == 0.2
    assert match(DATA, []).score_threshold == 0.5


def test_equal_scores_are_above_the_threshold_together():
    detections = [found(1, HERE, CAT, 0.5), found(1, AWAY, CAT, 0.5), found(1, THERE, DOG, 0.3)]
    result = match(DATA[:1], detections)
    # 0.5 has F1 2/4, 0.3 has 4/5.
    assert result.score_threshold == 0.3
    result = match([record(1, (HERE, CAT))], detections)
    assert (result.score_threshold, int(result.matrix.sum())) == (0.5, 2)


def test_the_true_class_is_matched_before_a_higher_score_of_another():
    detections = [found(1, HERE, DOG, 0.9), found(1, HERE, CAT, 0.6)]
    result = match([record(1, (HERE, CAT))], detections, score_threshold=0.5)
    assert result.matrix[CAT].tolist() == [1, 0, 0, 0]
    assert result.matrix[-1].tolist() == [0, 1, 0, 0]


def test_the_higher_score_is_matched():
    near = [0, 0, 10, 9]
    detections = [found(1, near, CAT, 0.9), found(1, HERE, CAT, 0.8)]
    [outcome] = match([record(1, (HERE, CAT))], detections, score_threshold=0.5).outcomes
    assert outcome.scores.tolist() == [0.9, 0.8]
    assert outcome.matched_object.tolist() == [0, -1]
    assert outcome.is_true_positive.tolist() == [True, False]
    assert outcome.is_detected.tolist() == [True]


def test_the_object_with_the_highest_iou_is_matched():
    objects = [([0, 0, 10, 6], CAT), (HERE, CAT)]
    result = match([record(1, *objects)], [found(1, HERE, CAT, 0.9)])
    assert result.outcomes[0].is_detected.tolist() == [False, True]


@pytest.mark.parametrize(("width", "is_found"), [(5, True), (4, False)])
def test_matches_need_an_iou_of_one_half(width, is_found):
    result = match([record(1, (HERE, CAT))], [found(1, [0, 0, 10, width], CAT, 0.9)])
    assert bool(result.outcomes[0].is_detected[0]) == is_found


def test_crowd_regions_are_neither_objects_nor_errors():
    records = [record(1, (AWAY, CAT, "crowd"), (HERE, CAT))]
    inside = [22, 2, 30, 10]
    detections = [
        found(1, inside, CAT, 0.9),
        found(1, AWAY, CAT, 0.8),
        # A crowd region of another class does not apply.
        found(1, inside, DOG, 0.7),
    ]
    result = match(records, detections, score_threshold=0.5)
    assert result.matrix.tolist() == [[0, 0, 0, 1], [0] * 4, [0] * 4, [0, 1, 0, 0]]
    [outcome] = result.outcomes
    assert outcome.is_ignored.tolist() == [True, True, False]
    assert (outcome.false_negatives, outcome.false_positives) == (1, 1)


def test_ignored_objects_are_neither_objects_nor_errors():
    records = [record(1, (THERE, CAT, "ignored"), (AWAY, -1, "ignored"), (HERE, CAT))]
    detections = [
        found(1, THERE, CAT, 0.9),
        found(1, THERE, CAT, 0.8),
        # An ignored object of another class does not apply; one of no class does.
        found(1, THERE, DOG, 0.7),
        found(1, AWAY, DOG, 0.6),
        # Inside only.
        found(1, [22, 2, 30, 10], DOG, 0.55),
    ]
    result = match(records, detections, score_threshold=0.5)
    assert result.matrix.tolist() == [[0, 0, 0, 1], [0] * 4, [0] * 4, [0, 2, 0, 0]]
    [outcome] = result.outcomes
    assert outcome.is_ignored.tolist() == [True, True, False, True, False]
    assert (outcome.false_negatives, outcome.false_positives) == (1, 2)
    # The best threshold does not count them.
    only = [*detections[:2], found(1, HERE, CAT, 0.3)]
    assert match(records, only).score_threshold == 0.3
    assert match(records, only).outcomes[0].f1 == 1


def test_no_images():
    result = match([], [])
    assert result.matrix.shape == (4, 4) and not result.matrix.any()
    assert np.isnan(result.precision).all() and np.isnan(result.recall).all()
    assert result.most_confused(3) == []


def test_detections_of_the_evaluator():
    data = DetectionData(DATA, LABELS)
    evaluator = CocoEvaluator(data)
    evaluator.add(1, np.array([HERE, THERE]), np.array([0.9, 0.8]), np.array([CAT, OWL]))
    result = confusion(data, evaluator.arrays(), score_threshold=0.5)
    assert result.matrix[CAT, CAT] == 1 and result.matrix[DOG, OWL] == 1


def test_the_diagonal_agrees_with_pycocotools():
    """Recall at IoU 0.5 of all detections, for random boxes in crowded images."""
    random = np.random.default_rng(3)
    corners = random.uniform(0, 20, (60, 2))
    boxes = np.c_[corners, corners + random.uniform(5, 20, (60, 2))]
    records = [
        record(n, *((box, int(c)) for box, c in zip(part, random.integers(0, 3, 6))))
        for n, part in enumerate(boxes.reshape(10, 6, 4), start=1)
    ]
    data = DetectionData(records, LABELS)
    evaluator = CocoEvaluator(data)
    for item in records:
        boxes = item.boxes + random.uniform(-3, 3, (6, 4)).astype(np.float32)
        classes = np.where(random.random(6) < 0.8, item.classes, 0)
        evaluator.add(item.image_id, boxes, random.random(6), classes)
    result = confusion(data, evaluator.arrays(), score_threshold=0)
    cocoeval = reference(data, evaluator.arrays())
    # Of all object sizes, with 100 detections, in order of category id.
    recall = cocoeval.eval["recall"][0, :, 0, -1]
    np.testing.assert_allclose(result.recall[[1, 2, 0]], recall)
    assert recall.min() > 0 and recall.max() < 1
