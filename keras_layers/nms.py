"""NMS of one image's boxes: hard NMS or soft-NMS, per class or global."""

import dataclasses

import tensorflow as tf

METHODS = ("hard", "gaussian")
SCOPES = ("global", "per_class")


@dataclasses.dataclass(frozen=True)
class NonMaxSuppression:
    """Non-maximum suppression (NMS), hard or soft.

    Attributes:
      method: "hard" drops a box that overlaps one of higher score; "gaussian" multiplies
        its score by exp(-IoU^2 / sigma) (Soft-NMS paper, section 3).
      scope: "global" over all classes or "per_class".
      iou_threshold: IoU above which "hard" drops the box of lower score, 0..1; unused by
        "gaussian" unless its sigma is 0, which makes it "hard".
      sigma: width of the Gaussian; unused by "hard".
      score_threshold: lower bound of the scores, also after soft-NMS, 0..1.
      max_detections: largest number of boxes kept.
    """

    method: str = "gaussian"
    scope: str = "per_class"
    iou_threshold: float = 0.5
    sigma: float = 0.5
    score_threshold: float = 0.001
    max_detections: int = 100

    def __post_init__(self):
        if self.method not in METHODS:
            raise ValueError(f"method: {self.method!r} is not one of {', '.join(METHODS)}")
        if self.scope not in SCOPES:
            raise ValueError(f"scope: {self.scope!r} is not one of {', '.join(SCOPES)}")

    def __call__(
        self, boxes: tf.Tensor, scores: tf.Tensor, classes: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Select boxes, in descending order of score.

        Args:
          boxes: float32 [n, 4], ymin, xmin, ymax, xmax in any unit.
          scores: float32 [n], 0..1.
          classes: int32 [n], class indices.

        Returns:
          int32 [max_detections], indices of the kept boxes, padded with 0; float32
          [max_detections], their scores, padded with 0; int32 scalar, the number of
          kept boxes.
        """
        if self.scope == "global":
            return self._suppress(boxes, scores)
        return self._suppress_per_class(boxes, scores, classes)

    def _suppress(self, boxes: tf.Tensor, scores: tf.Tensor) -> tuple[tf.Tensor, ...]:
        # The op's Gaussian is exp(-IoU^2 / (2 sigma)); a sigma of 0 makes it hard.
        kept = tf.raw_ops.NonMaxSuppressionV5(
            boxes=boxes,
            scores=scores,
            max_output_size=self.max_detections,
            iou_threshold=self.iou_threshold,
            score_threshold=self.score_threshold,
            soft_nms_sigma=self.sigma / 2 if self.method == "gaussian" else 0.0,
            pad_to_max_output_size=True,
        )
        return tuple(kept)

    def _suppress_per_class(
        self, boxes: tf.Tensor, scores: tf.Tensor, classes: tf.Tensor
    ) -> tuple[tf.Tensor, ...]:
        """Apply NMS to each class that occurs; a class is a slice of the sorted boxes."""
        order = tf.argsort(classes, stable=True)
        boxes, scores = tf.gather(boxes, order), tf.gather(scores, order)
        _, _, sizes = tf.unique_with_counts(tf.gather(classes, order))
        starts = tf.cumsum(sizes, exclusive=True)
        size = self.max_detections
        # A minimal body: with many classes its overhead dominates.
        kept, scores, counts = tf.map_fn(
            lambda at: self._suppress(boxes[at[0] : at[0] + at[1]], scores[at[0] : at[0] + at[1]]),
            (starts, sizes),
            fn_output_signature=(
                tf.TensorSpec([size], tf.int32),
                tf.TensorSpec([size], tf.float32),
                tf.TensorSpec([], tf.int32),
            ),
        )
        scores = tf.where(tf.sequence_mask(counts, size), scores, -1.0)
        # Padded so that top-k always has enough elements.
        kept = tf.pad(tf.reshape(kept + starts[:, None], [-1]), [[0, size]])
        scores = tf.pad(tf.reshape(scores, [-1]), [[0, size]], constant_values=-1.0)
        scores, best = tf.math.top_k(scores, size)
        count = tf.math.count_nonzero(scores >= 0.0, dtype=tf.int32)
        is_kept = tf.range(size) < count
        kept = tf.where(is_kept, tf.gather(kept, best), 0)
        kept = tf.where(is_kept, tf.gather(tf.pad(order, [[0, 1]]), kept), 0)
        return kept, tf.where(is_kept, scores, 0.0), count
