"""Postprocessing of the network's raw outputs to detections, in the graph."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_layers.box_coder import decode
from keras_layers.level_maps import by_anchor
from keras_layers.nms import NonMaxSuppression


@keras.utils.register_keras_serializable("efficientdet")
class Postprocessing(keras.layers.Layer):
    """Postprocessing: pre-NMS top-k, box decoding and NMS, as in EfficientDet and RetinaNet.

    Most of the time is one pass over the class logits; candidates that cannot pass the
    thresholds are dropped before boxes are decoded and sigmoids computed.

    Examples:
      >>> layer = Postprocessing(image_size=(512, 512), method="hard")
      >>> found = layer(network(images), anchors, scale_to_original)
      >>> found["boxes"].shape
      TensorShape([1, 100, 4])

    Args:
      image_size: (height, width) of the network's input in pixels, to which
        scope "global" clips the boxes.
      method, scope, iou_threshold, sigma, score_threshold, max_detections: see
        `keras_layers.nms.NonMaxSuppression`.
      pre_nms_top_k: number of (anchor, class) pairs of highest score passed to NMS; 0
        for the best class of every anchor. Default 5000.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        method: str = "gaussian",
        scope: str = "per_class",
        iou_threshold: float = 0.5,
        sigma: float = 0.5,
        score_threshold: float = 0.001,
        pre_nms_top_k: int = 5000,
        max_detections: int = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_size = tuple(image_size)
        self.pre_nms_top_k = pre_nms_top_k
        self.suppress = NonMaxSuppression(
            method, scope, iou_threshold, sigma, score_threshold, max_detections
        )

    def call(
        self,
        outputs: dict[str, tf.Tensor],
        anchors: tf.Tensor,
        scale_to_original: tf.Tensor,
        original_size: tf.Tensor | None = None,
        with_anchors: bool = False,
    ) -> dict[str, tf.Tensor]:
        """Compute detections.

        Args:
          outputs: dict of `cls_L`, float [B, h, w, A * classes], class logits, and
            `box_L`, float [B, h, w, A * 4], (ty, tx, th, tw), for each level L.
          anchors: float32 [N, 4], ymin, xmin, ymax, xmax in network pixels, in
            order of level, row, column, and the A of a cell.
          scale_to_original: float32 [B, 2], original pixels per network pixel, vertically
            and horizontally.
          original_size: int [B, 2], height and width of the original images in pixels,
            to which boxes are clipped; None for no clipping. Default None.
          with_anchors: whether the anchor of each detection is returned. Default False.

        Returns:
          Dict of `boxes` float32 [B, max_detections, 4], ymin, xmin, ymax, xmax in
          original pixels, `scores` float32 [B, max_detections] in 0..1, descending,
          `classes` int32 [B, max_detections], class indices from 0, and
          `num_detections` int32 [B]; `with_anchors` also `anchors`, int32
          [B, max_detections], indices of `anchors`. Rows after `num_detections` are zero.
        """
        logits, deltas = by_anchor(outputs)
        maxima = [tf.reduce_max(level, axis=-1) for level in logits]
        floors = self._logit_floors(tf.concat(maxima, axis=1))
        anchors = tf.split(tf.convert_to_tensor(anchors), [level.shape[1] for level in logits])

        def detect_one(index: tf.Tensor) -> tuple[tf.Tensor, ...]:
            candidates = self._candidates(index, logits, maxima, floors[index])
            return self._detect(index, candidates, deltas, anchors, with_anchors)

        images = tf.range(tf.shape(scale_to_original)[0])
        found = self._for_each(detect_one, images, with_anchors)
        result = self._in_original_pixels(found[:4], scale_to_original, original_size)
        return {**result, "anchors": found[4]} if with_anchors else result

    def suppress_candidates(
        self,
        candidates: dict[str, tf.Tensor],
        scale_to_original: tf.Tensor,
        original_size: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """Apply NMS to the candidates of `keras_layers.pre_nms.select`.

        Args:
          candidates: dict of `boxes`, `logits` and `classes`.
          scale_to_original, original_size: see `call`.

        Returns:
          The result of `call`.
        """

        def detect_one(image_candidates: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
            return self._suppressed(*image_candidates)

        names = ("boxes", "logits", "classes")
        found = self._for_each(detect_one, tuple(candidates[name] for name in names))
        return self._in_original_pixels(found, scale_to_original, original_size)

    def _for_each(
        self, detect_one: Callable, elements: Any, with_anchors: bool = False
    ) -> tuple[tf.Tensor, ...]:
        """Map each image to its boxes, scores, classes, number of detections, and anchors."""
        size = self.suppress.max_detections
        return tf.map_fn(
            detect_one,
            elements,
            fn_output_signature=(
                tf.TensorSpec([size, 4], tf.float32),
                tf.TensorSpec([size], tf.float32),
                tf.TensorSpec([size], tf.int32),
                tf.TensorSpec([], tf.int32),
                *([tf.TensorSpec([size], tf.int32)] if with_anchors else []),
            ),
        )

    def _in_original_pixels(
        self,
        found: tuple[tf.Tensor, ...],
        scale_to_original: tf.Tensor,
        original_size: tf.Tensor | None,
    ) -> dict[str, tf.Tensor]:
        boxes, scores, classes, counts = found
        boxes *= tf.tile(scale_to_original, [1, 2])[:, None]
        if original_size is not None:
            limit = tf.tile(tf.cast(original_size, tf.float32), [1, 2])[:, None, :]
            boxes = tf.clip_by_value(boxes, 0.0, limit)
        return {"boxes": boxes, "scores": scores, "classes": classes, "num_detections": counts}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "image_size": self.image_size,
            "method": self.suppress.method,
            "scope": self.suppress.scope,
            "iou_threshold": self.suppress.iou_threshold,
            "sigma": self.suppress.sigma,
            "score_threshold": self.suppress.score_threshold,
            "pre_nms_top_k": self.pre_nms_top_k,
            "max_detections": self.suppress.max_detections,
        }

    def _logit_floors(self, maxima: tf.Tensor) -> tf.Tensor:
        """Compute lower bounds [B] of candidate logits from each anchor's maximum.

        All candidates are at or above the bound: those above the score threshold, and,
        for top-k, the k best pairs. The k-th best anchor is a lower bound of the k-th
        best pair, because each anchor contributes at least one pair.
        """
        batch_size, num_anchors = tf.shape(maxima)[0], maxima.shape[1]
        floors = tf.fill([batch_size], _logit(self.suppress.score_threshold))
        if 0 < self.pre_nms_top_k < num_anchors:
            last = self.pre_nms_top_k - 1
            kth_best = tf.raw_ops.NthElement(input=maxima, n=last, reverse=True)
            floors = tf.maximum(floors, kth_best)
        return floors

    def _candidates(
        self, index: tf.Tensor, logits: list[tf.Tensor], maxima: list[tf.Tensor], floor: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor, tf.Tensor]:
        """Select the NMS candidates of image `index`.

        Returns:
          A list by level of the positions int32 [n_L] of the anchors at or above the
          floor; and int32 [n], float32 [n] and int32 [n]: position among these
          anchors, logit and class index of each candidate.
        """
        kept = [tf.where(level[index] >= floor)[:, 0] for level in maxima]
        rows = tf.concat([tf.gather(x[index], i) for x, i in zip(logits, kept)], axis=0)
        if not self.pre_nms_top_k:
            classes = tf.argmax(rows, axis=-1, output_type=tf.int32)
            return kept, tf.range(tf.shape(rows)[0]), tf.reduce_max(rows, axis=-1), classes
        pairs = tf.where(rows >= floor)
        values, best = tf.math.top_k(
            tf.gather_nd(rows, pairs), tf.minimum(self.pre_nms_top_k, tf.shape(pairs)[0])
        )
        pairs = tf.cast(tf.gather(pairs, best), tf.int32)
        return kept, pairs[:, 0], values, pairs[:, 1]

    def _detect(
        self,
        index: tf.Tensor,
        candidates: tuple,
        deltas: list[tf.Tensor],
        anchors: list[tf.Tensor],
        with_anchors: bool,
    ) -> tuple[tf.Tensor, ...]:
        """Decode and suppress the candidates of image `index`; boxes in network pixels."""
        kept, rows, logits, classes = candidates
        deltas = tf.concat([tf.gather(x[index], i) for x, i in zip(deltas, kept)], axis=0)
        kept_anchors = tf.concat([tf.gather(x, i) for x, i in zip(anchors, kept)], axis=0)
        boxes = tf.gather(decode(deltas, kept_anchors), rows)
        if not with_anchors:
            return self._suppressed(boxes, logits, classes)
        starts = itertools.accumulate((level.shape[0] for level in anchors), initial=0)
        numbers = [start + tf.cast(i, tf.int32) for start, i in zip(starts, kept)]
        numbers = tf.gather(tf.concat(numbers, axis=0), rows)
        return self._suppressed(boxes, logits, classes, numbers)

    def _suppressed(
        self, boxes: tf.Tensor, logits: tf.Tensor, classes: tf.Tensor, *anchors: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Apply NMS to the candidates of an image.

        Args:
          boxes: float32 [n, 4] in network pixels.
          logits: float32 [n].
          classes: int32 [n].
          *anchors: int32 [n], indices of their anchors, if the kept ones are to be returned.
        """
        best, scores, count = self.suppress(boxes, tf.sigmoid(logits), classes)
        is_kept = tf.range(self.suppress.max_detections) < count
        # An extra row for the padding if there are no candidates.
        boxes = tf.gather(tf.pad(boxes, [[0, 1], [0, 0]]), best)
        if self.suppress.scope == "global":
            boxes = tf.clip_by_value(boxes, 0.0, tf.constant(self.image_size * 2, tf.float32))
        classes = tf.gather(tf.pad(classes, [[0, 1]]), best)
        boxes = tf.where(is_kept[:, None], boxes, 0.0)
        kept = (tf.where(is_kept, tf.gather(tf.pad(x, [[0, 1]]), best), 0) for x in anchors)
        return boxes, scores, tf.where(is_kept, classes, 0), count, *kept


def _logit(score: float) -> float:
    """Return a logit slightly below that of a score: NMS compares the exact scores."""
    if score <= 0.0:
        return -math.inf
    if score >= 1.0:
        return math.inf
    return math.log(score / (1.0 - score)) - 1e-3
