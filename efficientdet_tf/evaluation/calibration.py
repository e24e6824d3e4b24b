"""Calibration: whether scores agree with the share of correct detections."""

import dataclasses

import numpy as np

from efficientdet_tf.evaluation.matching import Matcher


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Scores and precision of detections in bins of equal width of the score.

    Attributes:
      limits: float64 [bins + 1], limits of the bins, 0..1.
      counts: int64 [bins], detections that count.
      scores: float64 [bins], their mean score, 0..1; NaN without any.
      precision: float64 [bins], true positives among them, 0..1; NaN without any.
    """

    limits: np.ndarray
    counts: np.ndarray
    scores: np.ndarray
    precision: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: mean of |score - precision| over detections; NaN without."""
        return self._mean(np.abs(self.scores - self.precision))

    @property
    def excess(self) -> float:
        """Mean score minus precision, over all detections: above 0 if scores are too high."""
        return self._mean(self.scores - self.precision)

    def _mean(self, values: np.ndarray) -> float:
        total = self.counts.sum()
        return float(np.nansum(values * self.counts) / total) if total else float("nan")


def calibration(matcher: Matcher, iou_threshold: float = 0.5, bins: int = 10) -> Calibration:
    """Compare scores with precision.

    Args:
      matcher: detections and objects. Detections of a crowd region or an ignored object do not
        count.
      iou_threshold: minimum IoU of a match. Default 0.5.
      bins: number of bins. Default 10.
    """
    matches = matcher.match(np.array([iou_threshold]))
    counted = np.flatnonzero(matches.is_counted[0])
    scores, hits = matcher.detections.scores[counted], matches.is_true_positive(counted)[0]
    which = np.clip((scores * bins).astype(int), 0, bins - 1)
    counts, score_sums, hit_sums = (
        np.bincount(which, weights, minlength=bins) for weights in (None, scores, hits)
    )
    means = (
        np.divide(sums, counts, out=np.full(bins, np.nan), where=counts > 0)
        for sums in (score_sums, hit_sums)
    )
    return Calibration(np.linspace(0, 1, bins + 1), counts, *means)
