"""Which class was taken for which, what was missed, and in which images."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from efficientdet_tf.boxes import pairwise_overlaps
from efficientdet_tf.data.records import DetectionData, LabelMap, Record
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays


@dataclasses.dataclass(frozen=True)
class ImageOutcome:
    """The detections of one image, each held against the objects in it.

    Attributes:
      record: the image and its objects.
      boxes: float64 [m, 4], ymin, xmin, ymax, xmax in pixels: the detections
        that reach the score threshold, best score first.
      scores: float64 [m].
      classes: int64 [m], class indices.
      object_of: int64 [m], the object of the record that a detection is of, by
        place and whatever its class; -1 for none.
      is_ignored: bool [m], neither true nor false positive: lies in a crowd region
        of its class, or is of an ignored object of its class or of no class.
    """

    record: Record
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    object_of: np.ndarray
    is_ignored: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """bool [m], detections of an object of their class."""
        matched = self.object_of >= 0
        right = np.zeros(len(matched), bool)
        right[matched] = self.record.classes[self.object_of[matched]] == self.classes[matched]
        return right

    @property
    def found(self) -> np.ndarray:
        """bool [n], objects that a detection of their class is of."""
        found = np.zeros(len(self.record.classes), bool)
        found[self.object_of[self.right]] = True
        return found

    @property
    def missed(self) -> int:
        """How many counted objects were not found as what they are."""
        return int((~self.found & self.record.is_counted).sum())

    @property
    def false(self) -> int:
        """How many detections are of no object of their class."""
        return int((~self.right & ~self.is_ignored).sum())

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, 0..1; 1 with nothing to find or found."""
        hits = 2 * int(self.right.sum())
        total = hits + self.missed + self.false
        return hits / total if total else 1.0


@dataclasses.dataclass(frozen=True)
class Confusion:
    """How detections above a score agree with the objects.

    Attributes:
      matrix: int64 [classes + 1, classes + 1], objects by row and detections by
        column. The last column counts objects that nothing was detected at, the
        last row detections where no object is.
      label_map: names the classes.
      outcomes: one for each image, in order of the data.
      score_threshold: detections below are left out.
      iou_threshold: a detection is of an object from this overlap on.
    """

    matrix: np.ndarray
    label_map: LabelMap
    outcomes: tuple[ImageOutcome, ...]
    score_threshold: float
    iou_threshold: float

    @property
    def precision(self) -> np.ndarray:
        """float64 [classes], right ones of the detections; NaN without any."""
        return _share(self.matrix.diagonal()[:-1], self.matrix.sum(axis=0)[:-1])

    @property
    def recall(self) -> np.ndarray:
        """float64 [classes], found ones of the objects; NaN without any."""
        return _share(self.matrix.diagonal()[:-1], self.matrix.sum(axis=1)[:-1])

    def worst_images(self, count: int) -> list[ImageOutcome]:
        """Up to `count` images with mistakes: most of them first, then lowest F1."""
        wrong = [outcome for outcome in self.outcomes if outcome.missed + outcome.false]
        return sorted(wrong, key=lambda o: (-(o.missed + o.false), o.f1))[:count]

    def most_confused(self, count: int) -> list[tuple[str, str, int]]:
        """Up to `count` pairs (class of the object, class detected, how often), most first."""
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
    """Holds detections against objects, image by image.

    First every class by itself, as COCO does: the best-scoring detection takes the
    object that it overlaps most, the next one takes of those left. So the
    diagonal agrees with precision and recall at this score. A detection left
    over in a crowd region of its class, or that overlaps an ignored object of its
    class or of no class, does not count. Those left over still then take, in the
    same way, the objects left over of any class.

    Args:
      data: images and objects.
      detections: of the images of `data`, as of `CocoEvaluator.arrays`.
      score_threshold: detections that score less are left out; None takes the
        one with the best F1 over all classes and images.
      iou_threshold: least overlap of a detection and its object.
    """
    by_image = _by_image(data, detections)
    outcomes = []
    for record in data.records:
        boxes, scores, classes = by_image[record.image_id]
        outcomes.append(_match(record, boxes, scores, classes, iou_threshold))
    if score_threshold is None:
        score_threshold = _best_threshold(outcomes)
    # Matching is by descending score: the same again without the unsure ones.
    outcomes = [_confuse(_above(outcome, score_threshold), iou_threshold) for outcome in outcomes]
    size = len(data.label_map) + 1
    matrix = np.zeros((size, size), np.int64)
    for outcome in outcomes:
        _count(matrix, outcome)
    return Confusion(matrix, data.label_map, tuple(outcomes), score_threshold, iou_threshold)


def _by_image(data: DetectionData, detections: DetectionArrays) -> dict[int, tuple]:
    """(boxes, scores, classes) by image id, best score first."""
    ordered = detections.taken(np.lexsort((-detections.scores, detections.image_ids)))
    ids = np.array([record.image_id for record in data.records], np.int64)
    starts = np.searchsorted(ordered.image_ids, ids)
    ends = np.searchsorted(ordered.image_ids, ids, side="right")
    columns = ordered.boxes, ordered.scores, ordered.class_indices
    return {
        id_: tuple(column[start:end] for column in columns)
        for id_, start, end in zip(ids.tolist(), starts, ends)
    }


def _match(
    record: Record, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, iou_threshold: float
) -> ImageOutcome:
    """Each class by itself."""
    iou, covered = pairwise_overlaps(boxes, record.boxes)
    same_class = classes[:, None] == record.classes[None]
    object_of = np.full(len(boxes), -1, np.int64)
    free = same_class & record.is_counted
    _greedy(iou * free, np.ones(len(boxes), bool), object_of, iou_threshold)
    # A region covers many objects, an ignored object is one: see `category_evaluation`.
    on = np.where(record.is_crowd, covered, iou) >= iou_threshold
    any_class = record.classes < 0
    is_ignored = (on & (same_class | any_class) & ~record.is_counted).any(axis=1)
    return ImageOutcome(record, boxes, scores, classes, object_of, is_ignored & (object_of < 0))


def _confuse(outcome: ImageOutcome, iou_threshold: float) -> ImageOutcome:
    """Detections that are left over take objects of other classes."""
    object_of = outcome.object_of.copy()
    iou, _ = pairwise_overlaps(outcome.boxes, outcome.record.boxes)
    free = outcome.record.is_counted
    free[object_of[object_of >= 0]] = False
    _greedy(iou * free, (object_of < 0) & ~outcome.is_ignored, object_of, iou_threshold)
    return dataclasses.replace(outcome, object_of=object_of)


def _greedy(iou: np.ndarray, takers: np.ndarray, object_of: np.ndarray, threshold: float) -> None:
    """Gives each taker, in order, the object that it overlaps most of those not taken.

    Args:
      iou: float64 [m, n], 0 where an object may not be taken; written over.
      takers: bool [m].
      object_of: int64 [m], written to.
      threshold: least overlap.
    """
    for i in np.flatnonzero(takers) if iou.shape[1] else ():
        best = int(iou[i].argmax())
        if iou[i, best] > 0 and iou[i, best] >= threshold:
            object_of[i] = best
            iou[:, best] = 0


def _above(outcome: ImageOutcome, score_threshold: float) -> ImageOutcome:
    kept = outcome.scores >= score_threshold
    fields = ("boxes", "scores", "classes", "object_of", "is_ignored")
    return dataclasses.replace(outcome, **{name: getattr(outcome, name)[kept] for name in fields})


def _best_threshold(outcomes: Sequence[ImageOutcome]) -> float:
    """The score with the best F1 of all detections from it on; 0.5 when none is right."""
    counted = [~outcome.is_ignored for outcome in outcomes]
    scores = _joined([outcome.scores[kept] for outcome, kept in zip(outcomes, counted)])
    right = _joined([outcome.right[kept] for outcome, kept in zip(outcomes, counted)])
    if not right.any():
        return 0.5
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], np.cumsum(right[order])
    objects = sum(int(outcome.record.is_counted.sum()) for outcome in outcomes)
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + objects)
    # Equal scores are above a threshold together or not at all.
    last = np.append(scores[1:] != scores[:-1], True)
    return float(scores[np.where(last, f1, -1).argmax()])


def _joined(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0)


def _count(matrix: np.ndarray, outcome: ImageOutcome) -> None:
    counted = ~outcome.is_ignored
    object_of, classes = outcome.object_of[counted], outcome.classes[counted]
    rows = np.where(object_of >= 0, np.append(outcome.record.classes, -1)[object_of], -1)
    np.add.at(matrix, (rows, classes), 1)
    untouched = outcome.record.is_counted
    untouched[object_of[object_of >= 0]] = False
    np.add.at(matrix, (outcome.record.classes[untouched], -1), 1)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0)
