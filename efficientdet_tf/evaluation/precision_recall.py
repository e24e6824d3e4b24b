"""Precision-recall curves and recall of matched detections, as in COCO."""

import numpy as np

from efficientdet_tf.evaluation.matching import Matcher, Matches

# COCO's: recalls at which precision is read, and IoU thresholds.
RECALLS = np.linspace(0.0, 1.00, 101)
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)


def interpolated_precision(counted: np.ndarray, objects: int) -> np.ndarray:
    """Compute precision at each of `RECALLS`: the highest at that recall or a higher one.

    Args:
      counted: int [hits], for each true positive the number of true and false positives that
        score at least as much, itself included; best score first.
      objects: number of objects, above 0.

    Returns:
      float64 [recalls], 0..1.
    """
    hits = np.arange(1, len(counted) + 1)
    # Like pycocotools, which so avoids a division by zero: equal to the last digit.
    precision = hits / (counted + np.spacing(1))
    highest = np.maximum.accumulate(precision[::-1])[::-1]
    # 0 beyond the highest recall.
    return np.append(highest, 0.0)[np.searchsorted(hits / objects, RECALLS)]


def precision_curves(matcher: Matcher, matches: Matches, class_indices: np.ndarray) -> np.ndarray:
    """Compute the precision-recall curve of each class at each IoU threshold.

    Args:
      matcher: detections and objects.
      matches: their matches.
      class_indices: int [classes], in the order of the result.

    Returns:
      float64 [thresholds, recalls, classes]; NaN for classes without objects that count.
    """
    found = matcher.detections
    by_score = np.lexsort((-found.scores, found.class_indices))
    objects = count_objects(matcher, matches, class_indices)
    curves = np.full((len(matches.objects), len(RECALLS), len(class_indices)), np.nan)
    for place in np.flatnonzero(objects):
        index = class_indices[place]
        rows = by_score[slice(*np.searchsorted(found.class_indices, [index, index + 1]))]
        counted = np.cumsum(matches.is_counted[:, rows], axis=1)
        is_true_positive = matches.is_true_positive(rows)
        for threshold in range(len(curves)):
            at = counted[threshold, is_true_positive[threshold]]
            curves[threshold, :, place] = interpolated_precision(at, int(objects[place]))
    return curves


def recalls(
    matcher: Matcher, matches: Matches, class_indices: np.ndarray, max_detections: int
) -> np.ndarray:
    """Compute the recall of each class at each IoU threshold.

    Args:
      matcher: detections and objects.
      matches: their matches.
      class_indices: int [classes], in the order of the result.
      max_detections: number of detections of a class in an image, best scores first.

    Returns:
      float64 [thresholds, classes]; NaN for classes without objects that count.
    """
    rows = np.flatnonzero(matcher.ranks < max_detections)
    classes = matcher.detections.class_indices[rows]
    length = class_indices.max(initial=-1) + 1
    hits = np.array(
        [np.bincount(classes[hit], minlength=length) for hit in matches.is_true_positive(rows)]
    )[:, class_indices]
    objects = count_objects(matcher, matches, class_indices)
    return np.divide(hits, objects, out=np.full(hits.shape, np.nan), where=objects > 0)


def count_objects(matcher: Matcher, matches: Matches, class_indices: np.ndarray) -> np.ndarray:
    """Count the objects of each class that count: int64 [classes]."""
    classes = matcher.truth.class_indices[matches.counted_objects]
    return np.bincount(classes, minlength=class_indices.max(initial=-1) + 1)[class_indices]


def mean_average_precision(
    matcher: Matcher, num_classes: int, thresholds: np.ndarray = IOU_THRESHOLDS
) -> float:
    """Compute AP, mean over classes and IoU thresholds.

    Args:
      matcher: detections and objects.
      num_classes: number of classes.
      thresholds: float [thresholds], IoU thresholds. Default: 0.50 to 0.95, as in COCO.

    Returns:
      AP, 0..1; NaN without objects that count.
    """
    curves = precision_curves(matcher, matcher.match(thresholds), np.arange(num_classes))
    defined = curves[~np.isnan(curves)]
    return float(defined.mean()) if len(defined) else float("nan")
