"""Confusion matrix and per-image errors."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from efficientdet_tf.boxes import pairwise_overlaps
from efficientdet_tf.data.records import DetectionData, LabelMap, Record
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays
from efficientdet_tf.evaluation.score_thresholds import best_threshold


@dataclasses.dataclass(frozen=True)
class ImageOutcome:
    """Detections of one image, matched to its ground truth.

    Attributes:
      record: image and ground truth.
      boxes: float64 [m, 4], ymin, xmin, ymax, xmax in pixels: detections at or
        above the score threshold, best score first.
      scores: float64 [m].
      classes: int64 [m], class indices.
      matched_object: int64 [m], index of the ground-truth object of any class that a
        detection is matched to; -1 for none.
      is_ignored: bool [m], neither true nor false positive: in a crowd region of its
        class, or matched to an ignored object of its class or of no class.
    """

    record: Record
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    matched_object: np.ndarray
    is_ignored: np.ndarray

    @property
    def is_true_positive(self) -> np.ndarray:
        """bool [m], detections matched to an object of their class."""
        matched = self.matched_object >= 0
        same_class = np.zeros(len(matched), bool)
        true_classes = self.record.classes[self.matched_object[matched]]
        same_class[matched] = true_classes == self.classes[matched]
        return same_class

    @property
    def is_detected(self) -> np.ndarray:
        """bool [n], objects matched by a detection of their class."""
        is_detected = np.zeros(len(self.record.classes), bool)
        is_detected[self.matched_object[self.is_true_positive]] = True
        return is_detected

    @property
    def false_negatives(self) -> int:
        """Number of counted objects without a true positive."""
        return int((~self.is_detected & self.record.is_counted).sum())

    @property
    def false_positives(self) -> int:
        """Number of counted detections that are not true positives."""
        return int((~self.is_true_positive & ~self.is_ignored).sum())

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 0..1; 1 without objects and detections."""
        hits = 2 * int(self.is_true_positive.sum())
        total = hits + self.false_negatives + self.false_positives
        return hits / total if total else 1.0


@dataclasses.dataclass(frozen=True)
class Confusion:
    """Confusion matrix of detections above a score threshold.

    Attributes:
      matrix: int64 [classes + 1, classes + 1], ground truth by row and predictions by
        column. The last column counts unmatched objects, the last row unmatched
        detections.
      label_map: classes.
      outcomes: outcome of each image, in the order of the data.
      score_threshold: minimum score of a detection.
      iou_threshold: minimum IoU of a match.
    """

    matrix: np.ndarray
    label_map: LabelMap
    outcomes: tuple[ImageOutcome, ...]
    score_threshold: float
    iou_threshold: float

    @property
    def precision(self) -> np.ndarray:
        """float64 [classes], true positives / detections; NaN without detections."""
        return _share(self.matrix.diagonal()[:-1], self.matrix.sum(axis=0)[:-1])

    @property
    def recall(self) -> np.ndarray:
        """float64 [classes], true positives / objects; NaN without objects."""
        return _share(self.matrix.diagonal()[:-1], self.matrix.sum(axis=1)[:-1])

    def worst_images(self, count: int) -> list[ImageOutcome]:
        """Return up to `count` images with errors: most errors first, then lowest F1."""
        wrong = [o for o in self.outcomes if o.false_negatives + o.false_positives]
        return sorted(wrong, key=lambda o: (-o.false_negatives - o.false_positives, o.f1))[:count]

    def most_confused(self, count: int) -> list[tuple[str, str, int]]:
        """Return up to `count` (true class, predicted class, count), most frequent first."""
        between = self.matrix[:-1, :-1] * ~np.eye(len(self.label_map), dtype=bool)
        order = np.argsort(-between, axis=None, kind="stable")[:count]
        pairs = zip(*np.unravel_index(order, between.shape))
        names = self.label_map.names
        return [(names[i], names[j], int(between[i, j])) for i, j in pairs if between[i, j]]


def confusion(
    data: DetectionData,
    detections: DetectionArrays,
    score_threshold: float | None = None,
    iou_threshold: float = 0.5,
) -> Confusion:
    """Match detections to ground truth and count the confusion matrix.

    Detections are first matched within each class, as in COCO: by descending score, each
    is matched to the unmatched object with the highest IoU. So the diagonal agrees with
    precision and recall at this score. Unmatched detections in a crowd region of their
    class, or matching an ignored object of their class or of no class, do not count. The
    remaining ones are then matched in the same way to unmatched objects of any class.

    Args:
      data: images and ground truth.
      detections: detections in these images, e.g. `CocoEvaluator.arrays()`.
      score_threshold: minimum score; None chooses the one with the best F1 over all
        classes and images.
      iou_threshold: minimum IoU of a match. Default 0.5.
    """
    by_image = _by_image(data, detections)
    outcomes = []
    for record in data.records:
        boxes, scores, classes = by_image[record.image_id]
        outcomes.append(_match_within_classes(record, boxes, scores, classes, iou_threshold))
    if score_threshold is None:
        score_threshold = _best_threshold(outcomes)
    # Matching is by descending score: dropping low scores does not change other matches.
    outcomes = [
        _match_across_classes(_above(outcome, score_threshold), iou_threshold)
        for outcome in outcomes
    ]
    size = len(data.label_map) + 1
    matrix = np.zeros((size, size), np.int64)
    for outcome in outcomes:
        _count(matrix, outcome)
    return Confusion(matrix, data.label_map, tuple(outcomes), score_threshold, iou_threshold)


def _by_image(data: DetectionData, detections: DetectionArrays) -> dict[int, tuple]:
    """Return (boxes, scores, classes) by image id, best score first."""
    ordered = detections.taken(np.lexsort((-detections.scores, detections.image_ids)))
    ids = np.array([record.image_id for record in data.records], np.int64)
    starts = np.searchsorted(ordered.image_ids, ids)
    ends = np.searchsorted(ordered.image_ids, ids, side="right")
    columns = ordered.boxes, ordered.scores, ordered.class_indices
    return {
        id_: tuple(column[start:end] for column in columns)
        for id_, start, end in zip(ids.tolist(), starts, ends)
    }


def _match_within_classes(
    record: Record, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, iou_threshold: float
) -> ImageOutcome:
    """Match detections to objects of their class."""
    iou, covered = pairwise_overlaps(boxes, record.boxes)
    same_class = classes[:, None] == record.classes[None]
    matched_object = np.full(len(boxes), -1, np.int64)
    free = same_class & record.is_counted
    _match_greedily(iou * free, np.ones(len(boxes), bool), matched_object, iou_threshold)
    # A crowd region covers many objects, an ignored object is one: see `matching`.
    on = np.where(record.is_crowd, covered, iou) >= iou_threshold
    any_class = record.classes < 0
    is_ignored = (on & (same_class | any_class) & ~record.is_counted).any(axis=1)
    return ImageOutcome(
        record, boxes, scores, classes, matched_object, is_ignored & (matched_object < 0)
    )


def _match_across_classes(outcome: ImageOutcome, iou_threshold: float) -> ImageOutcome:
    """Match unmatched detections to unmatched objects of other classes."""
    matched_object = outcome.matched_object.copy()
    iou, _ = pairwise_overlaps(outcome.boxes, outcome.record.boxes)
    free = outcome.record.is_counted
    free[matched_object[matched_object >= 0]] = False
    _match_greedily(
        iou * free, (matched_object < 0) & ~outcome.is_ignored, matched_object, iou_threshold
    )
    return dataclasses.replace(outcome, matched_object=matched_object)


def _match_greedily(
    iou: np.ndarray, candidates: np.ndarray, matched_object: np.ndarray, threshold: float
) -> None:
    """Match each candidate, in order, to the unmatched object with the highest IoU.

    Args:
      iou: float64 [m, n], 0 where a match is not allowed; overwritten.
      candidates: bool [m], detections to match.
      matched_object: int64 [m], indices of the matched objects; written to.
      threshold: minimum IoU.
    """
    for i in np.flatnonzero(candidates) if iou.shape[1] else ():
        best = int(iou[i].argmax())
        if iou[i, best] > 0 and iou[i, best] >= threshold:
            matched_object[i] = best
            iou[:, best] = 0


def _above(outcome: ImageOutcome, score_threshold: float) -> ImageOutcome:
    kept = outcome.scores >= score_threshold
    fields = ("boxes", "scores", "classes", "matched_object", "is_ignored")
    return dataclasses.replace(outcome, **{name: getattr(outcome, name)[kept] for name in fields})


def _best_threshold(outcomes: Sequence[ImageOutcome]) -> float:
    """Return the score threshold with the best F1; 0.5 without any true positive."""
    counted = [~outcome.is_ignored for outcome in outcomes]
    scores = _joined([outcome.scores[kept] for outcome, kept in zip(outcomes, counted)])
    is_true_positive = _joined(
        [outcome.is_true_positive[kept] for outcome, kept in zip(outcomes, counted)]
    )
    objects = sum(int(outcome.record.is_counted.sum()) for outcome in outcomes)
    best = best_threshold(scores, is_true_positive, objects).score
    return 0.5 if math.isnan(best) else best


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0)


def _count(matrix: np.ndarray, outcome: ImageOutcome) -> None:
    counted = ~outcome.is_ignored
    matched_object, classes = outcome.matched_object[counted], outcome.classes[counted]
    rows = np.where(matched_object >= 0, np.append(outcome.record.classes, -1)[matched_object], -1)
    np.add.at(matrix, (rows, classes), 1)
    untouched = outcome.record.is_counted
    untouched[matched_object[matched_object >= 0]] = False
    np.add.at(matrix, (outcome.record.classes[untouched], -1), 1)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
