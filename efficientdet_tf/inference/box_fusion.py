"""Weighted box fusion (WBF): one set of detections from several.

Solovyev et al., https://arxiv.org/abs/1910.13302. NMS keeps the best of the boxes that overlap and
drops the others; WBF averages them.
"""

from collections.abc import Sequence

import numpy as np

from efficientdet_tf.boxes import pairwise_overlaps
from efficientdet_tf.inference.detections import Detections

# As in the paper.
IOU_THRESHOLD = 0.55


def weighted_box_fusion(
    sets: Sequence[Detections], iou_threshold: float = IOU_THRESHOLD
) -> Detections:
    """Fuse sets of detections of one image, for example of several models.

    By decreasing score, each box joins the cluster of its class whose fused box it overlaps most,
    if their IoU is above the threshold; else it starts a cluster. The fused box is the mean of
    the cluster's boxes so far, weighted by score. Its score is the sum of the best score of each
    set in the cluster, divided by the number of sets: it is lower where only some of the sets
    have a box. The order of the sets does not matter.

    If no boxes of a set overlap, this is the paper's mean score of the cluster, times
    min(boxes, sets) / sets. But soft-NMS leaves weak boxes around each good one, which would lower
    the paper's mean, and with it AP; see docs/results.md.

    Args:
      sets: detections in pixels of the same image, with the same classes; at least one set.
      iou_threshold: IoU with the fused box above which a box joins its cluster, 0..1. Default
        0.55.

    Returns:
      The fused detections, best first.
    """
    boxes = np.concatenate([found.boxes for found in sets]).astype(np.float64)
    scores = np.concatenate([found.scores for found in sets]).astype(np.float64)
    classes = np.concatenate([found.class_indices for found in sets])
    owners = np.repeat(np.arange(len(sets)), [len(found) for found in sets])
    # Equal scores are ordered by their boxes, not by their sets.
    order = np.lexsort((*boxes.T, classes, -scores))
    classes = classes[order]
    fused, clusters = _cluster(boxes[order], scores[order], classes, iou_threshold)
    best = np.zeros((len(fused), len(sets)))
    np.maximum.at(best, (clusters, owners[order]), scores[order])
    # Sorted, so that the sum does not depend on the order of the sets.
    fused_scores = np.sort(best, axis=1).sum(axis=1) / len(sets)
    # The first box of a cluster stands for its class.
    first = np.unique(clusters, return_index=True)[1]
    best_first = np.argsort(-fused_scores, kind="stable")
    return Detections(
        fused[best_first].astype(np.float32),
        fused_scores[best_first].astype(np.float32),
        classes[first][best_first].astype(np.int32),
    )


def _cluster(
    boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, iou_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Cluster n boxes in the given order.

    Returns:
      The fused box of each cluster, float64 [m, 4]; the cluster of each box, int64 [n].
    """
    fused, fused_classes = np.zeros_like(boxes), np.zeros_like(classes)
    weights, clusters = np.zeros_like(scores), np.zeros(len(scores), np.int64)
    size = 0
    for i, (box, score, index) in enumerate(zip(boxes, scores, classes)):
        ious = pairwise_overlaps(box[None], fused[:size])[0][0]
        ious[fused_classes[:size] != index] = 0
        place = int(ious.argmax()) if size else 0
        if not size or ious[place] <= iou_threshold:
            place, size = size, size + 1
            fused[place], fused_classes[place] = box, index
        clusters[i] = place
        weights[place] += score
        if weights[place]:
            fused[place] += score / weights[place] * (box - fused[place])
    return fused[:size], clusters
