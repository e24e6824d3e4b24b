"""Diagnosis of a low AP in one sentence, with the numbers behind it."""

import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.evaluation.checks import Checks, run_checks
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays
from efficientdet_tf.evaluation.error_shares import KINDS

# AP50 that a change of boxes or labels must add to be the diagnosis, and that a kind of error must
# cost to be named.
_TELLING, _NOTABLE = 0.1, 0.02
# Share of the classes without any detection from which it is the diagnosis.
_MANY = 0.5
_ADVICE = {
    "class": "boxes are right but classes are confused; look at the confusion matrix, and check "
    "that labels are consistent",
    "localisation": "objects are found but boxes are imprecise; check the annotated boxes, train "
    "longer or with a larger image size",
    "both": "boxes are imprecise and classes confused; train longer or with more data",
    "duplicate": "objects are detected more than once; lower detection.iou_threshold or use "
    "detection.nms=hard",
    "background": "detections lie on the background; look for objects without annotations, or add "
    "images without objects",
    "missed": "objects are not detected; train longer, or with a larger image size if they are "
    "small",
}


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Checks and their conclusion.

    Attributes:
      sentence: what most likely costs AP.
      checks: results of the checks.
      limits: one line for each limit on the number of detections that has fewer than there are
        objects.
    """

    sentence: str
    checks: Checks
    limits: tuple[str, ...] = ()

    def summary(self) -> str:
        """Format the conclusion and its main numbers in a few lines."""
        checks = self.checks
        shares = ", ".join(f"{kind} {checks.errors.shares[kind]:.3f}" for kind in KINDS)
        return "\n".join(
            [
                f"Diagnosis: {self.sentence}",
                *(f"Limit: {line}." for line in self.limits),
                f"AP50 lost by kind of error: {shares}",
                f"AP at IoU 0.1: {checks.ap10:.3f}; class-agnostic AP50: "
                f"{checks.class_agnostic_ap50:.3f}; ground truth against itself: "
                f"{checks.ground_truth_ap:.3f}; calibration error: {checks.calibration.error:.3f}",
            ]
        )

    def to_json(self) -> str:
        """Serialise to JSON; null for NaN."""
        values = dataclasses.asdict(self.checks)
        values |= {"sentence": self.sentence, "limits": list(self.limits)}
        values["calibration"]["error"] = self.checks.calibration.error
        return json.dumps(_plain(values), indent=1, ensure_ascii=False, allow_nan=False)


def diagnose(
    data: DetectionData, detections: DetectionArrays, max_detections: int | None = None
) -> Diagnosis:
    """Find what most likely costs AP.

    Args:
      data: images and ground truth.
      detections: detections in these images.
      max_detections: the detector's largest number of detections of an image; None if it is
        unknown. Default None.
    """
    checks = run_checks(data, detections, max_detections)
    return Diagnosis(_conclude(checks), checks, tuple(_limits(checks)))


def _limits(checks: Checks) -> Iterator[str]:
    """Describe the limits on detections that are fewer than the objects."""
    if beyond := checks.beyond_max_detections:
        yield beyond.remedy
    if beyond := checks.beyond_coco:
        more = "image has more" if beyond.images == 1 else "images have more"
        yield (
            f"COCO counts {beyond.limit} detections of a class in an image; {beyond.images:,} "
            f"{more} objects of a class, up to {beyond.most:,}, so that AP is at most "
            f"{checks.highest_coco_ap:.3f}. All else here counts {beyond.most:,} detections: AP is "
            f"{checks.ap:.3f}, AP50 {checks.errors.ap50:.3f}"
        )


def _conclude(checks: Checks) -> str:
    """Name the first thing that is wrong: the data, the boxes, the labels, then the detector."""
    if math.isnan(checks.ap):
        return "there are no objects that count, so that AP is undefined."
    if checks.ground_truth_ap < 0.9995:
        return (
            f"the ground truth against itself has an AP of {checks.ground_truth_ap:.3f} instead of "
            "1; check for boxes without size."
        )
    if not checks.num_detections:
        return "there are no detections; train longer, or lower detection.score_threshold."
    change, ap50 = checks.best_change
    if ap50 - checks.unchanged_ap50 >= _TELLING:
        return (
            f"boxes look wrong: {change}, they have an AP50 of {ap50:.3f} instead of "
            f"{checks.unchanged_ap50:.3f}; check how coordinates are written."
        )
    if checks.relabelled_ap50 - checks.unchanged_ap50 >= _TELLING:
        pairs = [f"{detected!r} as {true!r}" for detected, true in checks.relabelled.items()]
        more = f" and {len(pairs) - 3} more" if len(pairs) > 3 else ""
        return (
            f"labels look wrong: with {', '.join(pairs[:3])}{more}, AP50 is "
            f"{checks.relabelled_ap50:.3f} instead of {checks.unchanged_ap50:.3f}; check the label "
            "map."
        )
    if len(checks.undetected) >= _MANY * len(checks.thresholds):
        return (
            f"{len(checks.undetected)} of {len(checks.thresholds)} classes with objects have no "
            f"detection at all, such as {checks.undetected[0]!r}; check the label map."
        )
    return _name_errors(checks)


def _name_errors(checks: Checks) -> str:
    errors = checks.errors
    share = errors.shares[errors.largest]
    if share >= _NOTABLE:
        name, advice = f"{errors.largest} errors", _ADVICE[errors.largest]
        if errors.largest == "missed":
            name, beyond = "missed objects", checks.beyond_max_detections
            advice = f"{beyond.objects:,} are beyond detection.max_detections" if beyond else advice
        return f"{name} cost most, {share:.3f} of AP50: {advice}."
    if checks.ap < 0.8 * errors.ap50:
        return (
            f"objects are found, with an AP50 of {errors.ap50:.3f}, but boxes are imprecise, with "
            f"an AP of {checks.ap:.3f}; train longer or with a larger image size."
        )
    return f"no kind of error costs more than {_NOTABLE} of AP50, which is {errors.ap50:.3f}."


def _plain(value: Any) -> Any:
    """Convert to what JSON has: lists for arrays, None for NaN."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
