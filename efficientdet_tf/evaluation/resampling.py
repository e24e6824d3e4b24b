"""AP of resampled images, from stored matches.

Detections are matched once: that of an image does not depend on other images. An image that is
drawn w times has each of its detections and objects w times. The copies of a detection have equal
scores, and among those of a true positive precision is highest at the last, which is the one that
counts.
"""

import dataclasses

import numpy as np

from efficientdet_tf.evaluation.matching import Matcher
from efficientdet_tf.evaluation.precision_recall import IOU_THRESHOLDS, RECALLS

# Detections times resamples at a time: limits memory.
_AT_ONCE = 5_000_000


@dataclasses.dataclass(frozen=True)
class _ClassMatches:
    """Matches of one class, best score first, up to the last true positive.

    Attributes:
      images: int64 [n], position of each detection's image.
      is_counted: bool [thresholds, n].
      is_true_positive: bool [thresholds, n].
      objects: int64 [images], number of objects that count.
    """

    images: np.ndarray
    is_counted: np.ndarray
    is_true_positive: np.ndarray
    objects: np.ndarray


class ResampledPrecision:
    """Average precision for any multiplicities of the images.

    Args:
      matcher: detections and objects.
      image_ids: int64 [images], all image ids, ascending.
      num_classes: number of classes.
    """

    def __init__(self, matcher: Matcher, image_ids: np.ndarray, num_classes: int) -> None:
        matches, found, truth = matcher.match(IOU_THRESHOLDS), matcher.detections, matcher.truth
        object_images = np.searchsorted(image_ids, truth.image_ids)
        by_score = np.lexsort((-found.scores, found.class_indices))
        self._classes = []
        for index in range(num_classes):
            limits = np.searchsorted(found.class_indices, [index, index + 1])
            rows = by_score[slice(*limits)]
            # Precision is read at true positives: those behind the last one change nothing.
            hits = np.flatnonzero(matches.is_true_positive(rows).any(axis=0))
            rows = rows[: hits.max(initial=-1) + 1]
            which = object_images[matches.counted_objects & (truth.class_indices == index)]
            self._classes.append(
                _ClassMatches(
                    np.searchsorted(image_ids, found.image_ids[rows]),
                    matches.is_counted[:, rows],
                    matches.is_true_positive(rows),
                    np.bincount(which, minlength=len(image_ids)),
                )
            )

    def images_with_objects(self, index: int | None = None) -> int:
        """Count the images with objects of a class, of any class for None."""
        classes = self._classes if index is None else self._classes[index : index + 1]
        return int(np.count_nonzero(sum(matches.objects for matches in classes)))

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """Compute AP at each IoU threshold of each class.

        Args:
          weights: int [resamples, images], how often each image is drawn.

        Returns:
          float64 [resamples, thresholds, classes], 0..1; NaN for a class without objects.
        """
        shape = len(weights), len(IOU_THRESHOLDS), len(self._classes)
        values = np.full(shape, np.nan)
        for index, matches in enumerate(self._classes):
            objects = weights @ matches.objects
            known = np.flatnonzero(objects)
            step = max(1, _AT_ONCE // max(1, len(matches.images)))
            for start in range(0, len(known), step):
                some = known[start : start + step]
                values[some, :, index] = _class_precision(matches, weights[some], objects[some])
        return values


def _class_precision(
    matches: _ClassMatches, weights: np.ndarray, objects: np.ndarray
) -> np.ndarray:
    """Compute AP of a class: float64 [resamples, thresholds].

    Args:
      matches: matches of the class.
      weights: int64 [resamples, images].
      objects: int64 [resamples], number of objects, above 0.
    """
    needed = _needed_hits(objects)
    drawn = weights[:, matches.images].astype(np.int32)
    all_of_them = _cumulated(drawn)
    values = []
    for is_counted, is_hit in zip(matches.is_counted, matches.is_true_positive):
        rows, left_out = np.flatnonzero(is_hit), np.flatnonzero(~is_counted)
        # Those that do not count are few: subtracting them saves a sum at each threshold.
        before = np.pad(_cumulated(drawn[:, left_out]), ((0, 0), (1, 0)))
        counted = all_of_them[:, rows] - before[:, np.searchsorted(left_out, rows)]
        values.append(_interpolated(_cumulated(drawn[:, rows]), counted, needed))
    return np.stack(values, axis=1)


def _cumulated(drawn: np.ndarray) -> np.ndarray:
    return np.cumsum(drawn, axis=1, dtype=drawn.dtype)


def _interpolated(hits: np.ndarray, counted: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """Average the interpolated precision over `RECALLS`: float64 [resamples].

    Args:
      hits: int64 [resamples, h], true positives up to each of them, itself included.
      counted: int64 [resamples, h], true and false positives up to there.
      needed: int64 [resamples, recalls], number of true positives of each recall.
    """
    precision = hits / np.maximum(counted, 1)
    highest = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # 0 beyond the highest recall.
    highest = np.pad(highest, ((0, 0), (0, 1)))
    # One search in all rows: each has a range of numbers of its own.
    offsets = (needed.max() + 1) * np.arange(len(hits))[:, None]
    places = np.searchsorted((np.minimum(hits, needed.max()) + offsets).ravel(), needed + offsets)
    places -= hits.shape[1] * np.arange(len(hits))[:, None]
    return np.take_along_axis(highest, places, axis=1).mean(axis=1)


def _needed_hits(objects: np.ndarray) -> np.ndarray:
    """Compute how many true positives reach each recall: int64 [resamples, recalls]."""
    objects = objects[:, None]
    needed = np.ceil(RECALLS * objects).astype(np.int64)
    # Rounding: a recall is reached if hits / objects is at least as much.
    needed += needed / objects < RECALLS
    return needed - ((needed > 0) & ((needed - 1) / objects >= RECALLS))
