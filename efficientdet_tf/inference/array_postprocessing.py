"""Postprocessing of raw outputs without TensorFlow: pre-NMS top-k, box decoding and NMS.

The detections are those of `keras_layers.postprocessing.Postprocessing`, which does it in graphs.
"""

import numpy as np

from efficientdet_tf import anchors as anchor_grid
from efficientdet_tf.config import Config
from efficientdet_tf.config.sections import DetectionConfig

# Of `keras_layers.box_coder.LARGEST_SIZE_DELTA`.
_LARGEST_SIZE_DELTA = np.log(np.float32(1000 / 16))


class ArrayPostprocessing:
    """Postprocessing of one image's outputs by `config.detection`.

    Args:
      config: `model`, `anchors` and `detection` are read.
    """

    def __init__(self, config: Config) -> None:
        self._detection = config.detection
        self._anchors = anchor_grid.from_config(config)
        self._limit = np.array(config.model.image_size * 2, np.float32)

    def __call__(self, outputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the detections of an image.

        Args:
          outputs: dict of `class_logits`, float32 [1, N, classes], and `box_deltas`, float32
            [1, N, 4], (ty, tx, th, tw), of all anchors.

        Returns:
          Dict of `boxes` float32 [1, n, 4] in pixels of the network's input, `scores` float32
          [1, n], descending, `classes` int32 [1, n], and `num_detections` int32 [1].
        """
        detection = self._detection
        rows, logits, classes = _candidates(outputs["class_logits"][0], detection)
        boxes = _decode(outputs["box_deltas"][0][rows], self._anchors[rows])
        with np.errstate(over="ignore"):
            scores = 1 / (1 + np.exp(-logits))
        kept, scores = suppress(boxes, scores, classes, detection)
        boxes = boxes[kept]
        if detection.nms_scope == "global":
            boxes = np.clip(boxes, 0, self._limit)
        return {
            "boxes": boxes[None],
            "scores": scores[None],
            "classes": classes[kept][None],
            "num_detections": np.array([len(kept)], np.int32),
        }


def _candidates(
    logits: np.ndarray, detection: DetectionConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return anchor, logit and class index of each candidate for NMS, of best logit first.

    All are above the score threshold, up to rounding: NMS compares the scores.
    """
    threshold, top_k = np.float32(detection.score_threshold), detection.pre_nms_top_k
    with np.errstate(divide="ignore"):
        floor = np.log(threshold) - np.log1p(-threshold) - np.float32(1e-3)
    maxima = logits.max(axis=1)
    if 0 < top_k < len(maxima):
        # The k-th best anchor is a lower bound of the k-th best pair of anchor and class.
        floor = max(floor, np.partition(maxima, -top_k)[-top_k])
    rows = np.flatnonzero(maxima >= floor)
    if not top_k:
        classes = logits[rows].argmax(axis=1)
        return rows, maxima[rows], classes.astype(np.int32)
    places, classes = np.nonzero(logits[rows] >= floor)
    values = logits[rows[places], classes]
    best = np.argsort(-values, kind="stable")[:top_k]
    return rows[places[best]], values[best], classes[best].astype(np.int32)


def _decode(deltas: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Decode boxes as `keras_layers.box_coder.decode` does."""
    low, high = anchors[:, :2], anchors[:, 2:]
    anchor_sizes = high - low
    centers = deltas[:, :2] * anchor_sizes + (low + 0.5 * anchor_sizes)
    sizes = np.exp(np.minimum(deltas[:, 2:], _LARGEST_SIZE_DELTA)) * anchor_sizes
    low = centers - 0.5 * sizes
    return np.concatenate([low, low + sizes], axis=1)


def suppress(
    boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, detection: DetectionConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Apply non-maximum suppression (NMS), hard or soft, per class or global.

    Args:
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in any unit.
      scores: float32 [n], 0..1.
      classes: int32 [n], class indices.
      detection: settings of NMS, see `keras_layers.nms.NonMaxSuppression`.

    Returns:
      Indices of the kept boxes, int [m], and their scores, float32 [m], descending.
    """
    if detection.nms_scope == "global":
        classes = np.zeros_like(classes)
    order = np.argsort(-scores, kind="stable")
    order = order[: np.count_nonzero(scores > detection.score_threshold)]
    count = 4 * detection.max_detections
    while True:
        some = order[:count]
        kept, kept_scores = _keep_best(boxes[some], scores[some], classes[some], detection)
        # A box of lower score than all that are kept has no effect on them.
        is_full = len(kept) == detection.max_detections
        if count >= len(order) or is_full and kept_scores[-1] >= scores[order[count]]:
            return some[kept], kept_scores
        count *= 4


def _keep_best(
    boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, detection: DetectionConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Keep the best box, reduce the scores of those that overlap it, and so on."""
    sides = np.ascontiguousarray(boxes.T)
    areas = (sides[2] - sides[0]) * (sides[3] - sides[1])
    kept: list[int] = []
    kept_scores: list[float] = []
    while len(scores) and len(kept) < detection.max_detections:
        best = int(scores.argmax())
        if not scores[best] > detection.score_threshold:
            break
        kept.append(best)
        kept_scores.append(scores[best])
        ymin, xmin, ymax, xmax = sides[:, best]
        heights = np.minimum(sides[2], ymax) - np.maximum(sides[0], ymin)
        widths = np.minimum(sides[3], xmax) - np.maximum(sides[1], xmin)
        common = heights.clip(0) * widths.clip(0) * (classes == classes[best])
        # The smallest number: an empty box overlaps nothing.
        iou = common / np.maximum(areas + areas[best] - common, np.float32(1e-38))
        scores = scores * _weights(iou, detection)
        scores[best] = 0
    return np.array(kept, np.intp), np.array(kept_scores, np.float32)


def _weights(iou: np.ndarray, detection: DetectionConfig) -> np.ndarray:
    """Return the factors of the scores of boxes by their IoU with a better one."""
    if detection.nms == "hard" or not detection.sigma:
        return iou <= detection.iou_threshold
    return np.exp(-(iou**2) / np.float32(detection.sigma))
