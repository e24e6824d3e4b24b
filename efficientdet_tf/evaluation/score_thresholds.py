"""Score thresholds with the best F1."""

import dataclasses

import numpy as np

from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.evaluation.matching import Matcher


@dataclasses.dataclass(frozen=True)
class ScoreThreshold:
    """Score threshold with the best F1.

    Attributes:
      score: detections that score at least this much are kept; NaN without a true positive.
      precision: true positives among the kept detections, 0..1.
      recall: objects with a true positive, 0..1.
    """

    score: float
    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 0..1."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


def best_threshold(
    scores: np.ndarray, is_true_positive: np.ndarray, objects: int
) -> ScoreThreshold:
    """Find the score threshold with the best F1; the highest of equal ones.

    Args:
      scores: float [n], of detections that count, in any order.
      is_true_positive: bool [n].
      objects: number of objects.
    """
    if not is_true_positive.any():
        return ScoreThreshold(float("nan"), 0.0, 0.0)
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(is_true_positive[order])
    counts = np.arange(1, len(hits) + 1)
    # Equal scores are above a threshold together.
    last = np.append(scores[1:] != scores[:-1], True)
    best = int(np.where(last, 2 * hits / (counts + objects), -1).argmax())
    return ScoreThreshold(
        float(scores[best]), float(hits[best] / counts[best]), float(hits[best] / objects)
    )


def class_thresholds(
    matcher: Matcher, label_map: LabelMap, iou_threshold: float = 0.5
) -> dict[str, ScoreThreshold]:
    """Find the best threshold of each class with objects.

    Args:
      matcher: detections and objects.
      label_map: classes.
      iou_threshold: minimum IoU of a match. Default 0.5.

    Returns:
      {class name: threshold}, by class index; see `LabelMap.distinct_names`.
    """
    matches = matcher.match(np.array([iou_threshold]))
    objects = matcher.truth.class_indices[matches.counted_objects]
    found = matcher.detections
    thresholds = {}
    for index, name in enumerate(label_map.distinct_names):
        count = int((objects == index).sum())
        rows = np.flatnonzero((found.class_indices == index) & matches.is_counted[0])
        if count:
            hits = matches.is_true_positive(rows)[0]
            thresholds[name] = best_threshold(found.scores[rows], hits, count)
    return thresholds
