"""Suspects: labels and predictions that disagree, of which the labels may be wrong."""

from collections.abc import Sequence

import numpy as np

from efficientdet_tf.boxes import pairwise_overlaps
from efficientdet_tf.data.checks.checked_set import CheckedImage, CheckedSet
from efficientdet_tf.data.faults import Fault
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays

# IoU from which a prediction finds an object, and below which there is none at its place.
_FOUND_IOU, _NOTHING_IOU = 0.5, 0.3


def find_suspects(part: CheckedSet, detections: DetectionArrays, min_score: float) -> list[Fault]:
    """Compare the labels of a set with a model's predictions.

    Args:
      part: the checked set; only its usable images are compared.
      detections: the predictions, class indices in the label map of the set.
      min_score: score from which a prediction is confident, 0..1.

    Returns:
      Faults: `suspect_unlabelled` for each confident prediction where no object is annotated,
      `suspect_class` for one at the place of an object of another class, most confident first;
      and `suspect_unfound` for each object that no prediction finds, of any score and class.
    """
    found: list[tuple[float, Fault]] = []
    order = np.argsort(-detections.scores, kind="stable")
    by_image = detections.taken(order[np.argsort(detections.image_ids[order], kind="stable")])
    for each in part.images:
        if each.record is None:
            continue
        first, last = np.searchsorted(
            by_image.image_ids, [each.record.image_id, each.record.image_id + 1]
        )
        own = by_image.taken(np.arange(first, last))
        found += _suspect_predictions(each, own.taken(own.scores >= min_score), part)
        found += _unfound_objects(each, own, part)
    return [fault for _, fault in sorted(found, key=lambda pair: -pair[0])]


def _suspect_predictions(
    checked: CheckedImage, confident: DetectionArrays, part: CheckedSet
) -> list[tuple[float, Fault]]:
    record = checked.record
    assert record is not None
    ious, inside = pairwise_overlaps(confident.boxes, record.boxes)
    # Within a crowd region, or an ignored object.
    ious = np.where(record.is_counted, ious, np.maximum(ious, inside))
    faults: list[tuple[float, Fault]] = []
    reported: list[int] = []
    for i, (box, score) in enumerate(zip(confident.boxes, confident.scores.tolist())):
        fault = _compare(checked, part, confident, i, ious)
        # Soft NMS keeps several predictions of one object.
        repeats = _any_found(pairwise_overlaps(box[None], confident.boxes[reported])[0])
        if fault is not None and not repeats:
            reported.append(i)
            faults.append((score, fault))
    return faults


def _compare(
    checked: CheckedImage, part: CheckedSet, confident: DetectionArrays, i: int, ious: np.ndarray
) -> Fault | None:
    """Return the fault of prediction i, if the labels contradict it.

    Args:
      checked: the image.
      part: its set.
      confident: its m confident predictions, by descending score.
      i: position of the prediction.
      ious: float [m, n], overlaps of the predictions with the n objects.
    """
    record, names = checked.record, part.label_map.names
    assert record is not None
    index = int(confident.class_indices[i])
    text = f"a prediction of {names[index]!r} with a score of {confident.scores[i]:.2f}"
    image, box = checked.image.name, confident.boxes[i]
    if ious[i].max(initial=0) < _NOTHING_IOU:
        line = f"{checked.image.name}: {text}, where no object is annotated"
        file = checked.image.annotation_file
        return Fault("suspect_unlabelled", line, file=file, image=image, box=box)
    best = int(ious[i].argmax())
    label = record.classes[best]
    if (
        ious[i, best] < _FOUND_IOU
        or not record.is_counted[best]
        or _any_found(ious[i, record.classes == index])
        # A prediction of a higher score agrees with the label.
        or _any_found(ious[:i, best][confident.class_indices[:i] == label])
    ):
        return None
    where = _where(checked, best, part, label=True)
    line = (
        f"{where['file']}: {where['place']}: {where['field']}: is {names[label]!r}, at the place "
        f"of {text}"
    )
    return Fault("suspect_class", line, image=image, box=box, **where)


def _unfound_objects(
    checked: CheckedImage, own: DetectionArrays, part: CheckedSet
) -> list[tuple[float, Fault]]:
    record = checked.record
    assert record is not None
    ious = pairwise_overlaps(record.boxes, own.boxes)[0].max(axis=1, initial=0)
    faults = []
    for index in np.flatnonzero(record.is_counted & (ious < _FOUND_IOU)).tolist():
        where = _where(checked, index, part)
        line = (
            f"{where['file']}: {where['place']}: {where['field']}: no prediction of any score "
            f"finds this {part.label_map.names[record.classes[index]]!r}"
        )
        box = record.boxes[index]
        # Those that are found least come first.
        fault = Fault("suspect_unfound", line, image=checked.image.name, box=box, **where)
        faults.append((-float(ious[index]), fault))
    return faults


def _any_found(ious: np.ndarray | Sequence[float]) -> bool:
    return bool(np.any(np.asarray(ious) >= _FOUND_IOU))


def _where(
    checked: CheckedImage, index: int, part: CheckedSet, label: bool = False
) -> dict[str, str]:
    """Return file, place and field of an object's box or label."""
    annotations = part.annotations
    return {
        "file": checked.image.annotation_file,
        "place": f"{annotations.object_word} {checked.image.numbers[index]}",
        "field": annotations.label_field if label else annotations.box_field,
    }
