"""Result of an evaluation as numbers, a table, and JSON."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

# COCO's twelve metrics, in the order of pycocotools.
METRICS = (
    "AP",
    "AP50",
    "AP75",
    "APs",
    "APm",
    "APl",
    "AR1",
    "AR10",
    "AR100",
    "ARs",
    "ARm",
    "ARl",
)

_MEANINGS = {
    "AP": "average precision, mean over IoU 0.50 to 0.95",
    "AP50": "at IoU 0.50",
    "AP75": "at IoU 0.75",
    "APs": "of objects below 32 x 32 pixels",
    "APm": "of objects up to 96 x 96 pixels",
    "APl": "of larger objects",
    "AR1": "average recall with 1 detection an image",
    "AR10": "with 10",
    "AR100": "with 100",
    "ARs": "of objects below 32 x 32 pixels",
    "ARm": "of objects up to 96 x 96 pixels",
    "ARl": "of larger objects",
}


@dataclasses.dataclass(frozen=True)
class ClassResult:
    """Metrics of one class.

    Attributes:
      id: category id of the data set.
      name: class name.
      objects: number of objects, without crowd regions and ignored ones.
      ap: average precision over IoU 0.50 to 0.95, 0..1; NaN without objects.
      ap50: the same at IoU 0.50.
    """

    id: int
    name: str
    objects: int
    ap: float
    ap50: float


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """COCO metrics of a set of detections.

    Attributes:
      metrics: each of `METRICS`, 0..1; NaN without counted objects, e.g. APs of
        a data set without small objects.
      per_class: metrics of each class, by class index.
      num_images: number of evaluated images.
      precision: float64 [thresholds, recalls, classes], precision at each
        recall; NaN for classes without objects.
      recalls: float64 [recalls], 0..1.
      iou_thresholds: float64 [thresholds].
    """

    metrics: Mapping[str, float]
    per_class: tuple[ClassResult, ...]
    num_images: int
    precision: np.ndarray
    recalls: np.ndarray
    iou_thresholds: np.ndarray

    def table(self) -> str:
        """Format the twelve metrics, then a row for each class, as text."""
        lines = [f"{self.num_images} images"]
        for name, value in self.metrics.items():
            lines.append(f"{name:6}{_number(value):>7}  {_MEANINGS[name]}")
        width = max([len("class"), *(len(item.name) for item in self.per_class)])
        lines += ["", f"{'id':>5}  {'class':{width}}  {'objects':>7}  {'AP':>6}  {'AP50':>6}"]
        for item in self.per_class:
            lines.append(
                f"{item.id:>5}  {item.name:{width}}  {item.objects:>7}  "
                f"{_number(item.ap):>6}  {_number(item.ap50):>6}"
            )
        return "\n".join(lines)

    def to_json(self, evaluated: Mapping[str, object] | None = None) -> str:
        """Return `{"metrics": {...}, "per_class": [...], "images": n}`; null for NaN.

        Args:
          evaluated: what the numbers are of, added as `"evaluated"`. Default: nothing.
        """
        values: dict[str, object] = {"evaluated": dict(evaluated)} if evaluated else {}
        values |= {
            "metrics": {name: _finite(value) for name, value in self.metrics.items()},
            "per_class": [
                {key: _finite(value) for key, value in dataclasses.asdict(item).items()}
                for item in self.per_class
            ],
            "images": self.num_images,
        }
        return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False)


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
