"""Latest and best evaluation of a training run, with their detections."""

import dataclasses
from collections.abc import Callable

from efficientdet_tf.evaluation.coco import CocoEvaluator
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays
from efficientdet_tf.evaluation.result import EvaluationResult


@dataclasses.dataclass(frozen=True)
class Measured:
    """Metrics and detections of one evaluation.

    Attributes:
      result: metrics.
      detections: all detections.
    """

    result: EvaluationResult
    detections: DetectionArrays

    @classmethod
    def from_evaluator(cls, evaluator: CocoEvaluator) -> "Measured":
        """Measure the detections that an evaluator has collected."""
        return cls(evaluator.result(), evaluator.arrays())


class CachedEvaluation:
    """Evaluates, and keeps the latest evaluation and the one with the best AP.

    Args:
      detect: called without arguments, returns a `CocoEvaluator` with all
        detections, such as `Evaluation.detect`.

    Attributes:
      latest: latest evaluation; None before the first.
      best: evaluation with the best AP; None before the first.
    """

    def __init__(self, detect: Callable[[], CocoEvaluator]) -> None:
        self._detect = detect
        self.latest: Measured | None = None
        self.best: Measured | None = None

    def run(self) -> EvaluationResult:
        """Compute the COCO metrics of the model with its current weights."""
        self.latest = Measured.from_evaluator(self._detect())
        # A NaN AP is never better.
        if self.best is None or self.latest.result.metrics["AP"] > self.best.result.metrics["AP"]:
            self.best = self.latest
        return self.latest.result
