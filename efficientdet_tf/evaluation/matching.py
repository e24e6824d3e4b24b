"""Matching of detections to ground truth, as in COCO, for all images at once.

In each image and class, detections are matched by descending score, each to the unmatched
object with the highest IoU. Only pairs above the lowest IoU threshold matter, and these are
few: they are found once. Then the first such detection of every image and class is matched, at all
thresholds, then the second of every image and class, and so on.

Uncounted objects are matched after all others, and detections matched to them count
neither as true nor as false positives:

* a crowd region, as in COCO: any number of detections, by the share of the detection's
  area inside the region;
* an ignored object: also any number of detections, as in Pascal VOC's benchmark, but by
  IoU, at each of COCO's IoU thresholds: it is a single object, and a small box inside it
  is not a detection of it. A detection that overlaps both a counted and an ignored object
  is matched to the counted one (Pascal VOC: to the one it overlaps more);
* an object of unknown category: matched by detections of every category.

Objects outside a range of sizes are matched after the others, too, but once. Detections without a
match whose own size is outside do not count.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from efficientdet_tf.data.records import Record
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays
from efficientdet_tf.evaluation.detection_limits import COCO_MAX_DETECTIONS
from efficientdet_tf.evaluation.ground_truth_arrays import GroundTruthArrays
from efficientdet_tf.evaluation.overlaps import Overlaps, overlaps

# Range of object areas in square pixels that holds all of COCO's objects.
ALL_AREAS = (0.0, 1e5**2)


@dataclasses.dataclass(frozen=True)
class Matches:
    """Matches of detections at several IoU thresholds, for a range of object areas.

    Attributes:
      objects: int32 [thresholds, n], position of the matched object in the ground truth; -1
        for none.
      is_counted: bool [thresholds, n], true or false positives; the others are matched to an
        object that does not count, or are unmatched and of another size.
      counted_objects: bool [m], objects that count.
    """

    objects: np.ndarray
    is_counted: np.ndarray
    counted_objects: np.ndarray

    def is_true_positive(self, rows: np.ndarray) -> np.ndarray:
        """Tell which of some detections are matched to an object that counts.

        Args:
          rows: int [k], positions of the detections.

        Returns:
          bool [thresholds, k].
        """
        return self.is_counted[:, rows] & (self.objects[:, rows] >= 0)


class Matcher:
    """Matches the detections of a data set to its objects.

    Args:
      records: images and ground truth, with distinct image ids.
      detections: detections in these images.
      min_iou: lowest IoU threshold of a match. Default 0.5.
      max_detections: number of detections of a class in an image; those with lower scores are left
        out. Default 100, as in COCO.

    Attributes:
      truth: all objects.
      detections: detections, ordered by class index, image id, then best score first; equal
        scores in their given order.
      ranks: int64 [n], number of detections of the same image and class before.
    """

    def __init__(
        self,
        records: Sequence[Record],
        detections: DetectionArrays,
        min_iou: float = 0.5,
        max_detections: int = COCO_MAX_DETECTIONS,
    ) -> None:
        self.truth = GroundTruthArrays.from_records(records)
        order = np.lexsort((-detections.scores, detections.image_ids, detections.class_indices))
        ordered = detections.taken(order)
        ranks = _count_before(ordered.class_indices, ordered.image_ids)
        kept = ranks < max_detections
        self.detections, self.ranks = ordered.taken(kept), ranks[kept]
        pairs = overlaps(self.truth, self.detections, min_iou)
        classes = self.truth.class_indices[pairs.objects]
        same_class = classes == self.detections.class_indices[pairs.detections]
        self._rounds = self._split_into_rounds(pairs.taken(same_class | (classes < 0)))

    def _split_into_rounds(self, pairs: Overlaps) -> list[Overlaps]:
        """Split pairs so that each holds one detection of an image and class, best scores first."""
        is_first = np.diff(pairs.detections, prepend=-1) > 0
        found = self.detections.taken(pairs.detections[is_first])
        rounds = _count_before(found.class_indices, found.image_ids)
        round_of_pair = rounds[np.cumsum(is_first) - 1]
        order = np.argsort(round_of_pair, kind="stable")
        limits = np.cumsum(np.bincount(round_of_pair))[:-1]
        return [pairs.taken(which) for which in np.split(order, limits) if len(which)]

    def match(self, thresholds: np.ndarray, area_range: tuple[float, float] = ALL_AREAS) -> Matches:
        """Match detections to objects.

        Args:
          thresholds: float [thresholds], IoU thresholds, each at least `min_iou`.
          area_range: lowest and highest area of objects that count, in square pixels. Default:
            all objects.
        """
        low, high = area_range
        counted_objects = self.truth.is_counted & (low <= self.truth.areas)
        counted_objects &= self.truth.areas <= high
        levels = np.asarray(thresholds, float)[:, None]
        matched = np.full((len(levels), len(self.detections)), -1, np.int32)
        is_taken = np.zeros((len(levels), len(self.truth)), bool)
        for pairs in self._rounds:
            self._match_round(pairs, levels, counted_objects, matched, is_taken)
        is_matched = matched >= 0
        # An appended object stands for "none".
        is_counted = np.append(counted_objects, True)[matched]
        sides = self.detections.coco_boxes()[:, 2:]
        areas = sides[:, 0] * sides[:, 1]
        is_counted &= is_matched | ~((areas < low) | (areas > high))
        return Matches(matched, is_counted, counted_objects)

    def _match_round(
        self,
        pairs: Overlaps,
        levels: np.ndarray,
        counted_objects: np.ndarray,
        matched: np.ndarray,
        is_taken: np.ndarray,
    ) -> None:
        """Match at most one detection of each image and class, at all thresholds.

        Args:
          pairs: overlapping pairs, ordered by detection, then by IoU, then by object.
          levels: float64 [thresholds, 1], IoU thresholds.
          counted_objects: bool [m].
          matched: int32 [thresholds, n], written to.
          is_taken: bool [thresholds, m], objects that are matched already; written to.
        """
        possible = (pairs.ious >= levels) & ~is_taken[:, pairs.objects]
        # The later of two pairs is better: pycocotools, too, prefers the last of equal IoUs. One
        # with an object that counts is better than all others.
        places = np.arange(len(pairs)) + len(pairs) * counted_objects[pairs.objects]
        starts = np.flatnonzero(np.diff(pairs.detections, prepend=-1))
        best = np.maximum.reduceat(np.where(possible, places, -1), starts, axis=1)
        rows, columns = np.nonzero(best >= 0)
        objects = pairs.objects[best[rows, columns] % len(pairs)]
        matched[rows, pairs.detections[starts[columns]]] = objects
        # Objects that never count are matched any number of times.
        once = self.truth.is_counted[objects]
        is_taken[rows[once], objects[once]] = True


def _count_before(*keys: np.ndarray) -> np.ndarray:
    """Count the rows before each row that have the same keys; rows of equal keys are adjacent."""
    count = len(keys[0])
    is_first = np.ones(count, bool)
    is_first[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    starts = np.flatnonzero(is_first)
    return np.arange(count) - np.repeat(starts, np.diff(np.append(starts, count)))
