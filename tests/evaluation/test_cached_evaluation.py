"""Latest and best evaluation of a training run."""

import numpy as np
import pytest

from efficientdet_tf.data.records import DetectionData, LabelMap, Record
from efficientdet_tf.evaluation.cached_evaluation import CachedEvaluation
from efficientdet_tf.evaluation.coco import CocoEvaluator


@pytest.fixture
def data():
    objects = dict(classes=np.zeros(1, np.int32), is_crowd=np.zeros(1, bool), area=np.ones(1) * 100)
    boxes = np.array([[0, 0, 10, 10]], np.float32)
    record = Record(image_id=1, image="", height=20, width=20, boxes=boxes, **objects)
    return DetectionData([record], LabelMap((1,), ("a",)))


def test_the_latest_and_the_best_are_kept(data):
    widths = iter([5, 10, 7, 10])

    def detect():
        evaluator = CocoEvaluator(data)
        evaluator.add(1, np.array([[0, 0, 10, next(widths)]]), [0.9], [0])
        return evaluator

    evaluation = CachedEvaluation(detect)
    assert (evaluation.latest, evaluation.best) == (None, None)
    kept = []
    for _ in range(4):
        result = evaluation.run()
        assert result is evaluation.latest.result
        kept.append(evaluation.latest)
    # The first of equal ones.
    assert evaluation.best is kept[1]
    assert evaluation.best.detections.boxes.tolist() == [[0, 0, 10, 10]]
    assert evaluation.best.result.metrics["AP"] == pytest.approx(1)


def test_without_objects_no_evaluation_is_better_than_the_first():
    empty = DetectionData([], LabelMap((1,), ("a",)))
    evaluation = CachedEvaluation(lambda: CocoEvaluator(empty))
    evaluation.run()
    first = evaluation.best
    evaluation.run()
    assert evaluation.best is first and evaluation.latest is not first
