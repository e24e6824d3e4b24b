"""Checks of data, boxes, labels and scores, that tell why AP is low."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from efficientdet_tf.data.records import DetectionData, Record
from efficientdet_tf.evaluation.box_changes import box_changes
from efficientdet_tf.evaluation.calibration import Calibration, calibration
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays
from efficientdet_tf.evaluation.detection_limits import (
    COCO_MAX_DETECTIONS,
    Excess,
    beyond_coco,
    beyond_max_detections,
)
from efficientdet_tf.evaluation.error_shares import ErrorShares, error_shares
from efficientdet_tf.evaluation.label_check import likely_classes
from efficientdet_tf.evaluation.matching import Matcher
from efficientdet_tf.evaluation.precision_recall import mean_average_precision
from efficientdet_tf.evaluation.score_thresholds import ScoreThreshold, class_thresholds

# Boxes and labels are changed in at most so many images, which takes seconds.
_MOST_CHANGED = 500
_AP50 = np.array([0.5])


@dataclasses.dataclass(frozen=True)
class Checks:
    """Results of the checks; AP is 0..1, and NaN without objects.

    Where an image has more than 100 objects of a class, AP is that of as many detections as the
    largest number of them, unlike COCO's.

    Attributes:
      num_detections: number of detections.
      ap: AP over IoU 0.50 to 0.95.
      highest_coco_ap: AP of the ground truth as its own detections, of which COCO counts 100 of a
        class in an image.
      beyond_coco: objects beyond these 100; None for none.
      beyond_max_detections: objects beyond the detector's largest number of detections of an image;
        None for none.
      errors: errors by kind at IoU 0.5, with AP50.
      ground_truth_ap: AP of the ground truth as its own detections; 1 unless the data are wrong.
      ap10: AP at IoU 0.1.
      class_agnostic_ap50: AP at IoU 0.5 as if there were one class only.
      num_changed: number of images of the following four.
      unchanged_ap50: AP50 in these images.
      changed_ap50: {change of the boxes: AP50}.
      relabelled_ap50: AP50 with the classes of `relabelled`.
      relabelled: {class of detections: class of the objects they lie on}, where they differ.
      undetected: classes with objects that count but without detections.
      unannotated: classes with detections but without objects that count.
      thresholds: {class: score threshold with the best F1}.
      calibration: scores and precision.
    """

    num_detections: int
    ap: float
    highest_coco_ap: float
    beyond_coco: Excess | None
    beyond_max_detections: Excess | None
    errors: ErrorShares
    ground_truth_ap: float
    ap10: float
    class_agnostic_ap50: float
    num_changed: int
    unchanged_ap50: float
    changed_ap50: dict[str, float]
    relabelled_ap50: float
    relabelled: dict[str, str]
    undetected: tuple[str, ...]
    unannotated: tuple[str, ...]
    thresholds: dict[str, ScoreThreshold]
    calibration: Calibration

    @property
    def best_change(self) -> tuple[str, float]:
        """Change of the boxes with the highest AP50, and that AP50."""
        return max(self.changed_ap50.items(), key=lambda item: item[1])


def run_checks(
    data: DetectionData, detections: DetectionArrays, max_detections: int | None = None
) -> Checks:
    """Run all checks.

    Args:
      data: images and ground truth.
      detections: detections in these images.
      max_detections: the detector's largest number of detections of an image; None if it is
        unknown. Default None.
    """
    records, names = data.records, data.label_map.distinct_names
    dense, truth = beyond_coco(records), _as_detections(records)
    highest_coco_ap = mean_average_precision(Matcher(records, truth), len(names))
    dense_images = beyond_max_detections(records, COCO_MAX_DETECTIONS)
    match = functools.partial(Matcher, max_detections=_counted(dense))
    matcher, loose = match(records, detections), match(records, detections, min_iou=0.1)
    some, found = _sample(records, detections)
    sampled = match(some, found)
    likely = likely_classes(sampled, len(names))
    annotated = np.unique(matcher.truth.class_indices[matcher.truth.is_counted]).tolist()
    detected = np.unique(detections.class_indices).tolist()
    relabelled = dataclasses.replace(found, class_indices=likely[found.class_indices])

    def ap50(detections: DetectionArrays) -> float:
        return mean_average_precision(match(some, detections), len(names), _AP50)

    return Checks(
        num_detections=len(detections),
        ap=mean_average_precision(matcher, len(names)),
        highest_coco_ap=highest_coco_ap,
        beyond_coco=dense,
        beyond_max_detections=beyond_max_detections(records, max_detections)
        if max_detections
        else None,
        errors=error_shares(matcher),
        ground_truth_ap=mean_average_precision(match(records, truth), len(names))
        if dense
        else highest_coco_ap,
        ap10=mean_average_precision(loose, len(names), np.array([0.1])),
        class_agnostic_ap50=mean_average_precision(
            Matcher(*_without_classes(records, detections), max_detections=_counted(dense_images)),
            1,
            _AP50,
        ),
        num_changed=len(some),
        unchanged_ap50=mean_average_precision(sampled, len(names), _AP50),
        changed_ap50={
            change: ap50(dataclasses.replace(found, boxes=boxes))
            for change, boxes in box_changes(some, found).items()
        },
        relabelled_ap50=ap50(relabelled),
        relabelled={names[i]: names[j] for i, j in enumerate(likely.tolist()) if i != j},
        undetected=tuple(names[i] for i in annotated if i not in detected),
        unannotated=tuple(names[i] for i in detected if i not in annotated),
        thresholds=class_thresholds(matcher, data.label_map),
        calibration=calibration(matcher),
    )


def _counted(dense: Excess | None) -> int:
    """Return the number of detections that count: COCO's, or that of the most objects."""
    return dense.most if dense else COCO_MAX_DETECTIONS


def _sample(
    records: Sequence[Record], detections: DetectionArrays
) -> tuple[Sequence[Record], DetectionArrays]:
    """Take images at equal distances, and their detections."""
    some = records[:: -(-len(records) // _MOST_CHANGED) or 1]
    ids = [record.image_id for record in some]
    return some, detections.taken(np.isin(detections.image_ids, ids))


def _as_detections(records: Sequence[Record]) -> DetectionArrays:
    """Make detections with a score of 1 of the objects that count."""
    parts = [DetectionArrays.joined([])]
    for record in records:
        counted = record.is_counted
        count = int(counted.sum())
        parts.append(
            DetectionArrays(
                np.full(count, record.image_id, np.int64),
                record.boxes[counted].astype(np.float64),
                np.ones(count),
                record.classes[counted].astype(np.int64),
            )
        )
    return DetectionArrays.joined(parts)


def _without_classes(
    records: Sequence[Record], detections: DetectionArrays
) -> tuple[Sequence[Record], DetectionArrays]:
    """Give all objects and detections the same class."""
    one_class = [
        dataclasses.replace(record, classes=np.zeros_like(record.classes)) for record in records
    ]
    classes = np.zeros_like(detections.class_indices)
    return one_class, dataclasses.replace(detections, class_indices=classes)
