"""Check whether detections lie on objects of other classes, in a way that suggests wrong labels."""

import numpy as np

from efficientdet_tf.evaluation.matching import Matcher
from efficientdet_tf.evaluation.overlaps import overlaps


def likely_classes(matcher: Matcher, num_classes: int, min_iou: float = 0.5) -> np.ndarray:
    """Find the class of the objects that the detections of each class lie on.

    Each detection votes with its score for the class of the object with the highest IoU. No two
    classes with votes get the same: the pair with most votes first.

    Args:
      matcher: detections and objects.
      num_classes: number of classes.
      min_iou: minimum IoU of a vote. Default 0.5.

    Returns:
      int64 [num_classes], class index of the objects for each class index of detections; its own
      for a class without votes.
    """
    truth, found = matcher.truth, matcher.detections
    pairs = overlaps(truth, found, min_iou)
    pairs = pairs.taken(truth.is_counted[pairs.objects])
    # Ordered by detection, then by IoU: the last of each detection.
    best = pairs.taken(np.flatnonzero(np.diff(pairs.detections, append=-1)))
    votes = np.zeros((num_classes, num_classes))
    classes = found.class_indices[best.detections], truth.class_indices[best.objects]
    np.add.at(votes, classes, found.scores[best.detections])
    # Without votes, a class keeps its own.
    votes += np.eye(num_classes) * np.finfo(float).tiny
    chosen = np.arange(num_classes)
    left = np.ones_like(votes, bool)
    for place in np.argsort(-votes, axis=None, kind="stable")[: np.count_nonzero(votes)]:
        row, column = np.unravel_index(place, votes.shape)
        if left[row, column]:
            chosen[row] = column
            left[row], left[:, column] = False, False
    return chosen
