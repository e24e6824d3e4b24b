"""Losses: focal loss for classes, Huber and IoU losses for boxes.

All are computed in float32, whatever the dtype of the network's outputs.
"""

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf

from efficientdet_tf import anchors as anchor_grid
from efficientdet_tf import targets as target_maps
from efficientdet_tf.box_tensors import intersection_and_union
from efficientdet_tf.boxes import sizes
from efficientdet_tf.config import Config, ConfigError, LossConfig
from keras_layers.box_coder import decode
from keras_layers.level_maps import by_anchor


def focal_loss(
    class_targets: tf.Tensor,
    logits: tf.Tensor,
    alpha: float,
    gamma: float,
    label_smoothing: float = 0.0,
) -> tf.Tensor:
    """Compute the focal loss of every anchor and class (Lin et al. 2017, eq. 5), not normalised.

    Value and gradient are finite for any finite logit. The custom gradient is the only
    tensor saved for the backward pass, instead of about ten, each the largest of the
    training step.

    Args:
      class_targets: int32 [...], class indices from 0; negative for no class.
      logits: float [..., classes].
      alpha: weight of the positive class; the others have 1 - alpha.
      gamma: exponent of the modulating factor, at least 0.
      label_smoothing: labels 1 and 0 become 1 - s / 2 and s / 2 in the cross-entropy;
        the modulating factor uses the original labels. Default 0.

    Returns:
      float32 [..., classes].
    """
    # bool: a quarter of the memory of a one-hot in float32.
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
    """Compute the Huber loss of every coordinate: quadratic up to `delta`, then linear.

    As published, coordinates with a target of exactly zero do not count: the background,
    and occasionally a coordinate of a positive anchor.

    Args:
      targets: float32 [..., 4], (ty, tx, th, tw), zero for the background.
      outputs: float [..., 4], predictions of the network.
      delta: start of the linear part, and its slope.

    Returns:
      float32 [..., 4].
    """
    error = tf.abs(tf.cast(outputs, tf.float32) - targets)
    quadratic = tf.minimum(error, delta)
    return quadratic * (error - 0.5 * quadratic) * _mask(targets)


def iou_loss(targets: tf.Tensor, boxes: tf.Tensor, kind: str) -> tf.Tensor:
    """Compute an IoU loss: 1 - IoU of each box with its target, plus a penalty.

    "iou" has no penalty; "giou" (Rezatofighi et al. 2019) the share of the enclosing
    box outside of the union; "diou" (Zheng et al. 2020) the squared centre distance
    over the squared diagonal of the enclosing box; "ciou" (ibid.) in addition the
    difference of the aspect ratios.

    Args:
      targets: float32 [..., 4], ymin, xmin, ymax, xmax in pixels.
      boxes: float32 [..., 4], predicted boxes.
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
    """Compute the `iou_loss` of boxes encoded relative to their anchors.

    As published, a decoded coordinate of both boxes is zero where the coordinate of the
    same index in `targets` is exactly zero.

    Args:
      targets: float32 [..., N, 4], (ty, tx, th, tw), zero for the background.
      outputs: float [..., N, 4], predictions of the network.
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
    """Detection loss of a batch: class_loss + box_weight * box_loss + iou_weight * box_iou_loss.

    Examples:
      loss = DetectionLoss.from_config(config)
      loss(targets, model(images, training=True))["detection_loss"]

    One deliberate difference from the published implementation: for batches of several
    images, its IoU losses decode boxes with anchors in another order. IoU does not depend
    on the anchor; the penalties of "diou" and "ciou" do.

    `config.class_weight_values` multiply both the positive and the negative terms of each
    class. Background anchors have no class whose weight they could take (unlike in Cui et
    al. 2019, where every example has a label), and equal weights of both terms change how
    much is learned of a class without biasing its scores: weights of positive terms only
    would act like `focal_alpha` and cause false positives of rare classes. The box loss is
    not weighted.

    Attributes:
      config: loss settings.
      anchors: float32 [N, 4], ymin, xmin, ymax, xmax in network pixels, from
        `anchors.generate`; used by the IoU losses only.
    """

    config: LossConfig
    anchors: tf.Tensor

    @classmethod
    def from_config(cls, config: Config) -> "DetectionLoss":
        """Build the loss of a config.

        Raises:
          ConfigError: when class weights are missing, or their number is not that of the
            classes.
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
        """Compute the losses of a batch.

        Args:
          targets: "class_targets" int32 [B, N], class indices, -1 for background, -2 for
            anchors excluded from the class loss; "box_targets" float32 [B, N, 4]; and
            "num_positives" float32 [B].
          outputs: for each level L "cls_L" float [B, h, w, A * classes], logits,
            and "box_L" float [B, h, w, A * 4].
          normalizer: divisor of the sums. Default: the positive anchors of the batch
            plus one; with several replicas, pass that of the global batch.

        Returns:
          float32 scalars "class_loss", "box_loss", "box_iou_loss" (0 when off)
          and "detection_loss", the weighted sum.
        """
        if normalizer is None:
            normalizer = tf.reduce_sum(targets["num_positives"]) + 1.0
        logits, deltas = by_anchor(outputs)
        # Level by level: concatenated logits would double the memory.
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
        """Sum the class loss over one level."""
        config = self.config
        losses = focal_loss(
            class_targets, logits, config.focal_alpha, config.focal_gamma, config.label_smoothing
        )
        if config.class_weight_values:
            losses *= tf.constant(config.class_weight_values, tf.float32)
        counted = tf.cast(class_targets != target_maps.IGNORED, tf.float32)
        return tf.reduce_sum(tf.reduce_sum(losses, axis=-1) * counted)

    def _box_losses(self, targets: tf.Tensor, deltas: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Sum the Huber and the IoU loss over all anchors."""
        config = self.config
        huber = tf.reduce_sum(huber_loss(targets, deltas, config.huber_delta))
        if config.iou_loss == "none":
            return huber, tf.zeros([])
        losses = box_iou_loss(targets, deltas, self.anchors, config.iou_loss)
        return huber, tf.reduce_sum(losses)


def _iou_penalty(
    kind: str, targets: tf.Tensor, boxes: tf.Tensor, union: tf.Tensor, overlap: tf.Tensor
) -> tf.Tensor:
    """Compute the penalty that `kind` adds to 1 - IoU: float32 [...]."""
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
    """Compute the difference of aspect ratios, 0..1 (Zheng et al. 2020, equation 9).

    The custom gradient is zero, instead of undefined, for boxes without size.
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
