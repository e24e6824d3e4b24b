"""Shares of the kinds of errors in the AP that is lost, after TIDE.

Bolya et al. 2020, "TIDE: A General Toolbox for Identifying Object Detection Errors",
https://arxiv.org/abs/2008.08115. With the thresholds t_f = 0.5 and t_b = 0.1, IoU_same and
IoU_other the highest IoU of a false positive with an object of its class and of another class,
it is an error of the first kind that applies:

* background: IoU_same < t_b and IoU_other < t_b;
* localisation: t_b <= IoU_same < t_f;
* class: IoU_other >= t_f;
* duplicate: IoU_same >= t_f, so that a detection with a higher score is matched to the object;
* both class and localisation: all others.

An object is missed if no detection is matched to it, and none has a class or localisation error
with it. The share of a kind is

    dAP = AP(errors of this kind corrected) - AP

where AP is at the IoU t_f. Corrected class and localisation errors are true positives of the
object if it has none, and no other such error with a higher score; otherwise they are removed, as
are both, duplicate and background errors. Corrected missed objects do not count. The shares do not
add up to 1 - AP: correcting one kind changes the weight of the others.

As in COCO and unlike TIDE's own code, classes without objects do not count; a class whose objects
are all missed has an AP of 1 when they are corrected. Crowd regions and ignored objects are as in
`matching`.
"""

import dataclasses
import math

import numpy as np

from efficientdet_tf.evaluation.detection_arrays import DetectionArrays
from efficientdet_tf.evaluation.matching import Matcher
from efficientdet_tf.evaluation.overlaps import Overlaps, overlaps
from efficientdet_tf.evaluation.precision_recall import interpolated_precision

# Minimum IoU of a match, and maximum IoU of a detection on the background.
FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1
_FALSE_POSITIVES = ("class", "localisation", "both", "duplicate", "background")
KINDS = (*_FALSE_POSITIVES, "missed")


@dataclasses.dataclass(frozen=True)
class ErrorShares:
    """Errors by kind.

    Attributes:
      ap50: AP at IoU 0.5, 0..1; NaN without objects.
      shares: {kind: dAP}, the AP at IoU 0.5 that correcting all errors of the kind adds.
      counts: {kind: number of detections, or of missed objects}.
      false_positives: AP that removing all false positives adds.
      false_negatives: AP that leaving out all objects without a match adds.
    """

    ap50: float
    shares: dict[str, float]
    counts: dict[str, int]
    false_positives: float
    false_negatives: float

    @property
    def largest(self) -> str:
        """Kind with the largest share."""
        return max(KINDS, key=lambda kind: self.shares[kind])


@dataclasses.dataclass(frozen=True)
class _Errors:
    """False positives and missed objects.

    Attributes:
      rows: int64 [m], positions of the false positives in the detections.
      kinds: int64 [m], indices of `KINDS`.
      is_corrected: bool [m], class and localisation errors that become true positives.
      classes: int64 [m], class indices after the correction.
      is_missed: bool [objects].
    """

    rows: np.ndarray
    kinds: np.ndarray
    is_corrected: np.ndarray
    classes: np.ndarray
    is_missed: np.ndarray


def error_shares(matcher: Matcher) -> ErrorShares:
    """Compute the shares of all kinds of errors.

    Args:
      matcher: detections and objects, with `min_iou` of at most 0.5.
    """
    matches = matcher.match(np.array([FOREGROUND_IOU]))
    counted, hit = matches.is_counted[0], matches.objects[0] >= 0
    errors = _find_errors(matcher, counted & ~hit, matches.objects[0][counted & hit])
    objects = _count(matcher, matcher.truth.is_counted)
    found = matcher.detections
    ap50 = _mean_ap(found.taken(counted), hit[counted], objects, objects)
    shares = {}
    for number, kind in enumerate(_FALSE_POSITIVES):
        chosen = errors.kinds == number
        fixed = errors.rows[chosen & errors.is_corrected]
        classes = found.class_indices.copy()
        classes[fixed] = errors.classes[chosen & errors.is_corrected]
        is_hit, kept = hit.copy(), counted.copy()
        kept[errors.rows[chosen]] = False
        is_hit[fixed] = kept[fixed] = True
        corrected = dataclasses.replace(found, class_indices=classes).taken(kept)
        shares[kind] = _mean_ap(corrected, is_hit[kept], objects, objects) - ap50
    given = found.taken(counted), hit[counted], objects
    shares["missed"] = _mean_ap(*given, objects - _count(matcher, errors.is_missed)) - ap50
    counts = np.bincount(errors.kinds, minlength=len(_FALSE_POSITIVES)).tolist()
    hits = found.taken(counted & hit)
    left = np.bincount(hits.class_indices, minlength=len(objects))
    return ErrorShares(
        ap50=ap50,
        shares=shares,
        counts=dict(zip(KINDS, [*counts, int(errors.is_missed.sum())])),
        false_positives=_mean_ap(hits, np.ones(len(hits), bool), objects, objects) - ap50,
        false_negatives=_mean_ap(*given, left) - ap50,
    )


def _find_errors(matcher: Matcher, is_false: np.ndarray, matched: np.ndarray) -> _Errors:
    """Find the kinds of all errors.

    Args:
      matcher: detections and objects.
      is_false: bool [n], false positives.
      matched: int [k], objects with a true positive.
    """
    truth, rows = matcher.truth, np.flatnonzero(is_false)
    false = matcher.detections.taken(rows)
    pairs = overlaps(truth, false, BACKGROUND_IOU)
    pairs = pairs.taken(truth.is_counted[pairs.objects])
    is_same = truth.class_indices[pairs.objects] == false.class_indices[pairs.detections]
    same_iou, same = _best(pairs.taken(is_same), len(false))
    other_iou, other = _best(pairs.taken(~is_same), len(false))
    kinds = np.select(
        [
            np.maximum(same_iou, other_iou) < BACKGROUND_IOU,
            (same_iou >= BACKGROUND_IOU) & (same_iou < FOREGROUND_IOU),
            other_iou >= FOREGROUND_IOU,
            same_iou >= FOREGROUND_IOU,
        ],
        [KINDS.index(kind) for kind in ("background", "localisation", "class", "duplicate")],
        KINDS.index("both"),
    )
    is_class, is_localisation = (kinds == KINDS.index(kind) for kind in ("class", "localisation"))
    target = np.where(is_class, other, same)
    is_free = np.ones(len(truth), bool)
    is_free[matched] = False
    can_hit = np.flatnonzero(is_class | is_localisation)
    can_hit = can_hit[is_free[target[can_hit]]]
    is_missed = truth.is_counted & is_free
    is_missed[target[can_hit]] = False
    # Best score first: of several detections the first is corrected.
    can_hit = can_hit[np.argsort(-false.scores[can_hit], kind="stable")]
    _, first = np.unique(target[can_hit], return_index=True)
    is_corrected = np.zeros(len(false), bool)
    is_corrected[can_hit[first]] = True
    classes = np.append(truth.class_indices, -1)[target]
    return _Errors(rows, kinds, is_corrected, classes, is_missed)


def _best(pairs: Overlaps, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the highest IoU of each detection and its object; 0 and -1 without any."""
    ious, objects = np.zeros(count), np.full(count, -1, np.int64)
    # Pairs are ordered by IoU: the last one stays.
    ious[pairs.detections], objects[pairs.detections] = pairs.ious, pairs.objects
    return ious, objects


def _count(matcher: Matcher, which: np.ndarray) -> np.ndarray:
    """Count objects by class index: int64 [highest class index + 1]."""
    classes = [matcher.truth.class_indices, matcher.detections.class_indices]
    length = max(int(part.max(initial=0)) for part in classes) + 1
    return np.bincount(matcher.truth.class_indices[which], minlength=length)


def _mean_ap(
    found: DetectionArrays, is_hit: np.ndarray, all_objects: np.ndarray, objects: np.ndarray
) -> float:
    """Compute the mean AP of the classes with objects, NaN without any.

    Args:
      found: detections that count.
      is_hit: bool [n], true positives.
      all_objects: int64 [classes].
      objects: int64 [classes], without those that a correction leaves out.
    """
    order = np.lexsort((-found.scores, found.class_indices))
    values = []
    for index in np.flatnonzero(all_objects):
        limits = np.searchsorted(found.class_indices, [index, index + 1], sorter=order)
        counted = np.flatnonzero(is_hit[order[slice(*limits)]]) + 1
        count = int(objects[index])
        values.append(interpolated_precision(counted, count).mean() if count else 1.0)
    return float(np.mean(values)) if values else math.nan
