"""Changes of detected boxes that undo common errors in coordinates.

If one of them raises AP much, the coordinates are wrong, not the detector.
"""

from collections.abc import Sequence

import numpy as np

from efficientdet_tf.boxes import areas
from efficientdet_tf.data.records import Record
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays


def box_changes(records: Sequence[Record], detections: DetectionArrays) -> dict[str, np.ndarray]:
    """Change the boxes of detections in several ways.

    Scales and the shift are medians over images: from the mean of an image's n detections with the
    best scores to the mean of its n objects.

    Args:
      records: images and ground truth.
      detections: detections in these images.

    Returns:
      {change: float64 [n, 4], ymin, xmin, ymax, xmax in pixels}; without scales and shift where no
      image has objects and detections.
    """
    boxes = detections.boxes
    order = np.argsort([record.image_id for record in records])
    shapes = np.array([(record.height, record.width) for record in records], float).reshape(-1, 2)
    ids = np.array([record.image_id for record in records], np.int64)[order]
    heights, widths = shapes[order][np.searchsorted(ids, detections.image_ids)].T
    ymin, xmin, ymax, xmax = boxes.T
    changes = {
        "x and y swapped": (xmin, ymin, xmax, ymax),
        "flipped left to right": (ymin, widths - xmax, ymax, widths - xmin),
        "flipped top to bottom": (heights - ymax, xmin, heights - ymin, xmax),
        "taken as fractions of the image": (
            *(ymin * heights, xmin * widths),
            *(ymax * heights, xmax * widths),
        ),
        # What a results file's x, y, width and height give if they are corners, and the reverse.
        "with width and height taken as the far corner": (ymin, xmin, ymax - ymin, xmax - xmin),
        "with the far corner taken as width and height": (ymin, xmin, ymin + ymax, xmin + xmax),
    }
    swapped = {name: np.stack(sides, axis=1) for name, sides in changes.items()}
    return swapped | _estimated(records, detections, np.maximum(heights, widths))


def _estimated(
    records: Sequence[Record], detections: DetectionArrays, longest: np.ndarray
) -> dict[str, np.ndarray]:
    """Scale and shift boxes by what makes them like the objects.

    Args:
      records: images and ground truth.
      detections: detections in these images.
      longest: float64 [n], longest side of each detection's image.
    """
    pairs = _object_and_detection_means(records, detections)
    if not len(pairs):
        return {}
    ratios = pairs[:, 0, 2] / pairs[:, 1, 2]
    shift = np.median(pairs[:, 0, :2] - pairs[:, 1, :2], axis=0)
    scale = float(np.median(ratios))
    scale_of_longest = float(np.median(ratios / pairs[:, 0, 3]))
    boxes = detections.boxes
    centers = np.tile((boxes[:, :2] + boxes[:, 2:]) / 2, 2)
    return {
        f"scaled by {scale:.3g}": boxes * scale,
        f"scaled by {scale_of_longest:.3g} times the image's longest side": boxes
        * (longest[:, None] * scale_of_longest),
        f"made {scale:.3g} times as large in place": centers + (boxes - centers) * scale,
        f"shifted by {shift[1]:.3g} pixels to the right and {shift[0]:.3g} down": boxes
        + np.tile(shift, 2),
    }


def _object_and_detection_means(
    records: Sequence[Record], detections: DetectionArrays
) -> np.ndarray:
    """Average the n objects of each image, and its n detections with the best scores.

    Returns:
      float64 [images, 2, 4]: for the objects, then the detections, centre (y, x) and side in
      pixels, and the image's longest side; without images that lack either.
    """
    ordered = detections.taken(np.lexsort((-detections.scores, detections.image_ids)))
    means = []
    for record in records:
        truth = record.boxes[record.is_counted].astype(float)
        start, end = np.searchsorted(ordered.image_ids, [record.image_id, record.image_id + 1])
        found = ordered.boxes[start : min(end, start + len(truth))]
        longest = max(record.height, record.width)
        rows = [[*_mean_center(part), _mean_side(part), longest] for part in (truth, found)]
        if len(found) and rows[1][2] > 0:
            means.append(rows)
    return np.array(means).reshape(-1, 2, 4)


def _mean_center(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, :2] + boxes[:, 2:]).sum(axis=0) / max(1, len(boxes)) / 2


def _mean_side(boxes: np.ndarray) -> float:
    return float(np.sqrt(areas(boxes).clip(0)).sum()) / max(1, len(boxes))
