"""What training minimises: focal loss for classes, Huber and IoU losses for boxes.

Everything is computed in float32, whatever the network's outputs are.
"""

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf

from efficientdet_tf import anchors as anchor_grid
from efficientdet_tf import targets as target_maps
from efficientdet_tf.boxes import decode, intersection_and_union, sizes
from efficientdet_tf.config import Config, ConfigError, LossConfig
from keras_layers.level_maps import by_anchor


def focal_loss(
    class_targets: tf.Tensor,
    logits: tf.Tensor,
    alpha: float,
    gamma: float,
    label_smoothing: float = 0.0,
) -> tf.Tensor:
    """Focal loss of every anchor and class (Lin et al. 2017, equation 5), not normalised.

    Value and gradient stay finite for any finite logit. The gradient is written
    out: it is then the only tensor kept for the backward pass, instead of some
    ten, each the largest of the training step.

    Args:
      class_targets: int32 [...], class indices from 0; a negative one is of no class.
      logits: float [..., classes].
      alpha: weight of the object's class; the others weigh 1 - alpha.
      gamma: how much less an easy example counts, at least 0.
      label_smoothing: 1 and 0 become 1 - half of it and half of it in the cross
        entropy; the modulating factor keeps the sharp labels.

    Returns:
      float32 [..., classes].
    """
    # A comparison: a quarter of the memory of a one-hot in float32.
    is_class = class_targets[..., tf.newaxis] == tf.range(tf.shape(logits)[-1])

    @tf.custom_gradient
    def loss(logits: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        # Logit of the correct label, whose probability is sigmoid(signed_logit).
        signed_logit = tf.where(is_class, logits, -logits)
        cross_entropy = tf.nn.softplus(-signed_logit)
        probability = tf.exp(-cross_entropy)
        smoothed = cross_entropy
        if label_smoothing:
            smoothed += label_smoothing / 2 * signed_logit
        # (1 - probability) ** gamma, without a power of a number close to zero.
        modulating_factor = tf.exp(-gamma * (cross_entropy + signed_logit))
        weight = tf.where(is_class, alpha, 1.0 - alpha) * modulating_factor
        slope = probability - 1.0 + label_smoothing / 2 - gamma * probability * smoothed
        slope *= weight
        gradient = tf.where(is_class, slope, -slope)
        return weight * smoothed, lambda upstream: upstream * gradient

    return loss(tf.cast(logits, tf.float32))


def huber_loss(targets: tf.Tensor, outputs: tf.Tensor, delta: float) -> tf.Tensor:
    """Huber loss of every coordinate: quadratic up to `delta`, then linear.

    As published, a coordinate whose target is exactly zero does not count: that
    leaves out the background, and now and then a coordinate of a positive
    anchor with it.

    Args:
      targets: float32 [..., 4], (ty, tx, th, tw), zero for the background.
      outputs: float [..., 4], the same of the network.
      delta: where the line begins; its slope is `delta`.

    Returns:
      float32 [..., 4].
    """
    error = tf.abs(tf.cast(outputs, tf.float32) - targets)
    quadratic = tf.minimum(error, delta)
    return quadratic * (error - 0.5 * quadratic) * _mask(targets)


def iou_loss(targets: tf.Tensor, boxes: tf.Tensor, kind: str) -> tf.Tensor:
    """One minus the overlap of each box with its target, in one of four senses.

    "iou" is plain; "giou" (Rezatofighi et al. 2019) subtracts the share of the
    enclosing box that neither fills; "diou" (Zheng et al. 2020) the squared
    distance of the centres over that of the enclosing box's corners; "ciou"
    (there too) a penalty for another aspect ratio on top.

    Args:
      targets: float32 [..., 4], ymin, xmin, ymax, xmax in pixels.
      boxes: float32 [..., 4], the same of the prediction.
      kind: "iou", "giou", "diou" or "ciou".

    Returns:
      float32 [...], in 0..2 ("ciou" up to 3); zero where the target is empty.
    """
    intersection, union = intersection_and_union(boxes, targets)
    overlap = tf.math.divide_no_nan(intersection, union)
    loss = 1.0 - overlap + _iou_penalty(kind, targets, boxes, union, overlap)
    return tf.where(tf.reduce_all(sizes(targets) > 0, axis=-1), loss, 0.0)


def box_iou_loss(
    targets: tf.Tensor, outputs: tf.Tensor, anchors: tf.Tensor, kind: str
) -> tf.Tensor:
    """`iou_loss` of boxes that are given relative to their anchors.

    As published, a side of both boxes becomes zero where the coordinate of the
    same place in `targets` is exactly zero.

    Args:
      targets: float32 [..., N, 4], (ty, tx, th, tw), zero for the background.
      outputs: float [..., N, 4], the same of the network.
      anchors: float32 [N, 4], ymin, xmin, ymax, xmax in pixels.
      kind: see `iou_loss`.

    Returns:
      float32 [..., N], zero for the background.
    """
    mask = _mask(targets)
    boxes = decode(tf.cast(outputs, tf.float32), anchors)
    return iou_loss(decode(targets, anchors) * mask, boxes * mask, kind)


@dataclasses.dataclass(frozen=True)
class DetectionLoss:
    """The loss of a batch: class_loss + box_weight * box_loss + iou_weight * box_iou_loss.

    Examples:
      loss = DetectionLoss.from_config(config)
      loss(targets, model(images, training=True))["detection_loss"]

    One deliberate difference from the published implementation: its IoU losses
    decode the boxes of a batch of several images by anchors in another order.
    Overlap is the same by any anchor; the penalties of "diou" and "ciou" are not.

    With `config.class_weight_values` every class has a weight, which its positive
    and its negative terms are multiplied by. An anchor of the background has no
    class whose weight it could take (as in Cui et al. 2019, where every example has
    a label), and with both weighted alike a weight says how much is learned of a
    class, but not how sure the network is of it: only positive terms weighted would
    be another `focal_alpha`, and rare classes would be seen everywhere. The box loss
    has no weights.

    Attributes:
      config: weights and shapes of the losses.
      anchors: float32 [N, 4], ymin, xmin, ymax, xmax in network pixels, as of
        `anchors.generate`; only the IoU losses read it.
    """

    config: LossConfig
    anchors: tf.Tensor

    @classmethod
    def from_config(cls, config: Config) -> "DetectionLoss":
        """The loss of a configured model.

        Raises:
          ConfigError: when class weights are missing, or are not one for each class.
        """
        weights, classes = config.loss.class_weight_values, config.model.num_classes
        if config.loss.class_weights != "none" and not weights:
            raise ConfigError(
                "loss.class_weights: needs the training set; override the config with "
                "class_weights.settings(config.loss, data) first"
            )
        if weights and len(weights) != classes:
            raise ConfigError(
                f"loss.class_weight_values: has {len(weights)} weights for {classes} classes"
            )
        return cls(config.loss, anchor_grid.from_config(config))

    def __call__(
        self,
        targets: dict[str, tf.Tensor],
        outputs: dict[str, tf.Tensor],
        normalizer: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """The losses of a batch.

        Args:
          targets: "class_targets" int32 [B, N], class indices, -1 for background, -2 for
            anchors left out of the class loss; "box_targets" float32 [B, N, 4]; and
            "num_positives" float32 [B].
          outputs: for each level L "cls_L" float [B, h, w, A * classes], logits,
            and "box_L" float [B, h, w, A * 4].
          normalizer: what the sums are divided by. By default the positive
            anchors of the batch plus one; with the batch spread over replicas
            the caller knows their number in all of it.

        Returns:
          float32 scalars "class_loss", "box_loss", "box_iou_loss" (0 when off)
          and "detection_loss", the weighted sum.
        """
        if normalizer is None:
            normalizer = tf.reduce_sum(targets["num_positives"]) + 1.0
        logits, deltas = by_anchor(outputs)
        # Level by level: joined, the logits would be in memory twice.
        class_targets = tf.split(
            targets["class_targets"], [level.shape[1] for level in logits], axis=1
        )
        class_loss = tf.add_n(list(map(self._class_loss, class_targets, logits)))
        box_loss, box_iou_loss = self._box_losses(targets["box_targets"], tf.concat(deltas, axis=1))
        # A box has four coordinates; the IoU loss is published with the same divisor.
        losses = {
            "class_loss": class_loss / normalizer,
            "box_loss": box_loss / (4.0 * normalizer),
            "box_iou_loss": box_iou_loss / (4.0 * normalizer),
        }
        losses["detection_loss"] = (
            losses["class_loss"]
            + self.config.box_weight * losses["box_loss"]
            + self.config.iou_weight * losses["box_iou_loss"]
        )
        return losses

    def _class_loss(self, class_targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """Sum over one level."""
        config = self.config
        losses = focal_loss(
            class_targets, logits, config.focal_alpha, config.focal_gamma, config.label_smoothing
        )
        if config.class_weight_values:
            losses *= tf.constant(config.class_weight_values, tf.float32)
        counted = tf.cast(class_targets != target_maps.IGNORED, tf.float32)
        return tf.reduce_sum(tf.reduce_sum(losses, axis=-1) * counted)

    def _box_losses(self, targets: tf.Tensor, deltas: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Sums over all anchors: Huber, and IoU."""
        config = self.config
        huber = tf.reduce_sum(huber_loss(targets, deltas, config.huber_delta))
        if config.iou_loss == "none":
            return huber, tf.zeros([])
        losses = box_iou_loss(targets, deltas, self.anchors, config.iou_loss)
        return huber, tf.reduce_sum(losses)


def _iou_penalty(
    kind: str, targets: tf.Tensor, boxes: tf.Tensor, union: tf.Tensor, overlap: tf.Tensor
) -> tf.Tensor:
    """What `kind` adds to the loss of plain overlap: float32 [...]."""
    if kind == "iou":
        return tf.zeros_like(overlap)
    enclosing = tf.maximum(boxes[..., 2:], targets[..., 2:]) - tf.minimum(
        boxes[..., :2], targets[..., :2]
    )
    if kind == "giou":
        area = tf.reduce_prod(enclosing, axis=-1)
        return tf.math.divide_no_nan(area - union, area)
    offset = (boxes[..., :2] + boxes[..., 2:] - targets[..., :2] - targets[..., 2:]) / 2
    distance = tf.math.divide_no_nan(
        tf.reduce_sum(offset**2, axis=-1), tf.reduce_sum(enclosing**2, axis=-1)
    )
    if kind == "diou":
        return distance
    difference = _aspect_difference(tf.nn.relu(sizes(targets)), tf.nn.relu(sizes(boxes)))
    return distance + difference * tf.math.divide_no_nan(difference, 1.0 - overlap + difference)


def _aspect_difference(target_size: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """How much two aspect ratios differ, in 0..1 (Zheng et al. 2020, equation 9).

    The gradient is written out so that it is zero, and not undefined, for a box
    without size.
    """
    target_angle = tf.atan(tf.math.divide_no_nan(target_size[..., 1], target_size[..., 0]))

    @tf.custom_gradient
    def difference(size: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        height, width = size[..., 0], size[..., 1]
        angle = target_angle - tf.atan(tf.math.divide_no_nan(width, height))

        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            slope = tf.math.divide_no_nan(8 / math.pi**2 * angle, height**2 + width**2)
            common = slope * upstream
            return tf.stack([common * width, -common * height], axis=-1)

        return 4 / math.pi**2 * angle**2, gradient

    return difference(size)


def _mask(box_targets: tf.Tensor) -> tf.Tensor:
    return tf.cast(box_targets != 0, tf.float32)
