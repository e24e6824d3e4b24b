"""Evaluations of a running training, kept for those who look at more than the metrics."""

import dataclasses
from collections.abc import Callable

from efficientdet_tf.evaluation.coco import CocoEvaluator
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays
from efficientdet_tf.evaluation.result import EvaluationResult


@dataclasses.dataclass(frozen=True)
class Measured:
    """What one evaluation found.

    Attributes:
      result: the metrics.
      detections: all of them.
    """

    result: EvaluationResult
    detections: DetectionArrays

    @classmethod
    def of(cls, evaluator: CocoEvaluator) -> "Measured":
        """The detections taken so far, measured."""
        return cls(evaluator.result(), evaluator.arrays())


class CachedEvaluation:
    """Evaluates, and keeps the latest evaluation and the one with the best AP.

    Args:
      detect: called without arguments, returns a `CocoEvaluator` with all
        detections: `Evaluation.detect`.

    Attributes:
      latest, best: None before the first evaluation.
    """

    def __init__(self, detect: Callable[[], CocoEvaluator]) -> None:
        self._detect = detect
        self.latest: Measured | None = None
        self.best: Measured | None = None

    def run(self) -> EvaluationResult:
        """COCO metrics of the model as it is now."""
        self.latest = Measured.of(self._detect())
        # AP may be NaN, which is not better than anything.
        if self.best is None or self.latest.result.metrics["AP"] > self.best.result.metrics["AP"]:
            self.best = self.latest
        return self.latest.result
