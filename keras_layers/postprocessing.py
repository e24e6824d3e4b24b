"""Raw outputs of the network -> detections, in the graph."""

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras as keras
from official.vision.ops import box_ops

from keras_layers.level_maps import by_anchor
from keras_layers.nms import NonMaxSuppression


@keras.utils.register_keras_serializable("efficientdet")
class Postprocessing(keras.layers.Layer):
    """Postprocessing: pre-NMS top-k, box decoding and NMS, as of EfficientDet and RetinaNet.

    The large part of the work is reading the class logits once; whatever cannot
    become a detection is dropped before boxes are decoded or sigmoids taken.

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
      pre_nms_top_k: the best so many (anchor, class) pairs reach NMS; 0
        lets in the best class of every anchor.
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
    ) -> dict[str, tf.Tensor]:
        """Detects.

        Args:
          outputs: dict of `cls_L`, float [B, h, w, A * classes], class logits, and
            `box_L`, float [B, h, w, A * 4], (ty, tx, th, tw), for each level L.
          anchors: float32 [N, 4], ymin, xmin, ymax, xmax in network pixels, in
            order of level, row, column, and the A of a cell.
          scale_to_original: float32 [B], original pixels in one network pixel.
          original_size: int [B, 2], height and width of the original images, to
            which boxes are clipped; None leaves them as predicted.

        Returns:
          Dict of `boxes` float32 [B, max_detections, 4], ymin, xmin, ymax, xmax in
          original pixels, `scores` float32 [B, max_detections] in 0..1, best
          first, `classes` int32 [B, max_detections], class indices from 0, and
          `num_detections` int32 [B]. Rows from there on are zero.
        """
        logits, deltas = by_anchor(outputs)
        maxima = [tf.reduce_max(level, axis=-1) for level in logits]
        floors = self._logit_floors(tf.concat(maxima, axis=1))
        anchors = tf.split(tf.convert_to_tensor(anchors), [level.shape[1] for level in logits])

        def detect_one(index: tf.Tensor) -> tuple[tf.Tensor, ...]:
            candidates = self._candidates(index, logits, maxima, floors[index])
            return self._detect(index, candidates, deltas, anchors)

        found = self._for_each(detect_one, tf.range(tf.shape(scale_to_original)[0]))
        return self._in_original_pixels(found, scale_to_original, original_size)

    def suppress_candidates(
        self,
        candidates: dict[str, tf.Tensor],
        scale_to_original: tf.Tensor,
        original_size: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """The rest of `call`, from what `keras_layers.pre_nms.select` found.

        Args:
          candidates: dict of `boxes`, `logits` and `classes`.
          scale_to_original, original_size: see `call`.

        Returns:
          What `call` does.
        """

        def detect_one(of_image: tuple[tf.Tensor, ...]) -> tuple[tf.Tensor, ...]:
            return self._suppressed(*of_image)

        names = ("boxes", "logits", "classes")
        found = self._for_each(detect_one, tuple(candidates[name] for name in names))
        return self._in_original_pixels(found, scale_to_original, original_size)

    def _for_each(self, detect_one: Callable, elements: Any) -> tuple[tf.Tensor, ...]:
        """Boxes, scores, classes and their number of every image."""
        size = self.suppress.max_detections
        return tf.map_fn(
            detect_one,
            elements,
            fn_output_signature=(
                tf.TensorSpec([size, 4], tf.float32),
                tf.TensorSpec([size], tf.float32),
                tf.TensorSpec([size], tf.int32),
                tf.TensorSpec([], tf.int32),
            ),
        )

    def _in_original_pixels(
        self,
        found: tuple[tf.Tensor, ...],
        scale_to_original: tf.Tensor,
        original_size: tf.Tensor | None,
    ) -> dict[str, tf.Tensor]:
        boxes, scores, classes, counts = found
        boxes *= scale_to_original[:, None, None]
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
        """A bound [B] on the logits of what can be detected, from the best of each anchor.

        Nothing at or above it is missed: not what beats the score threshold, and
        when k pairs are let in, not one of them. The k-th best anchor bounds the
        k-th best pair from below, because each anchor brings a pair of its own.
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
        """What reaches NMS from image `index`.

        Returns:
          A list with the positions int32 [n_L] in each level of the anchors that
          reach the floor; int32 [n], float32 [n] and int32 [n]: position among
          these anchors, logit and class of each candidate.
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
        self, index: tf.Tensor, candidates: tuple, deltas: list[tf.Tensor], anchors: list[tf.Tensor]
    ) -> tuple[tf.Tensor, ...]:
        """Boxes in network pixels, scores, classes and their number, of image `index`."""
        kept, rows, logits, classes = candidates
        deltas = tf.concat([tf.gather(x[index], i) for x, i in zip(deltas, kept)], axis=0)
        anchors = tf.concat([tf.gather(x, i) for x, i in zip(anchors, kept)], axis=0)
        boxes = tf.gather(box_ops.decode_boxes(deltas, anchors), rows)
        return self._suppressed(boxes, logits, classes)

    def _suppressed(
        self, boxes: tf.Tensor, logits: tf.Tensor, classes: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Of one image's candidates: boxes [n, 4] in network pixels, logits [n], classes [n]."""
        best, scores, count = self.suppress(boxes, tf.sigmoid(logits), classes)
        is_kept = tf.range(self.suppress.max_detections) < count
        # One more row, for the padding when there is no candidate at all.
        boxes = tf.gather(tf.pad(boxes, [[0, 1], [0, 0]]), best)
        if self.suppress.scope == "global":
            boxes = tf.clip_by_value(boxes, 0.0, tf.constant(self.image_size * 2, tf.float32))
        classes = tf.gather(tf.pad(classes, [[0, 1]]), best)
        boxes = tf.where(is_kept[:, None], boxes, 0.0)
        return boxes, scores, tf.where(is_kept, classes, 0), count


def _logit(score: float) -> float:
    """The logit of a score, a little lower: the exact comparison is made with scores."""
    if score <= 0.0:
        return -math.inf
    if score >= 1.0:
        return math.inf
    return math.log(score / (1.0 - score)) - 1e-3
