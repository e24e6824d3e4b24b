"""A Keras model that knows how to learn detection."""

import contextlib
from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.config import Config
from efficientdet_tf.training.optimizers import (
    MovingAverage,
    clip_gradients,
    l2_regularization,
)

# What a training step measures.
TRACKED = (
    "loss",
    "detection_loss",
    "class_loss",
    "box_loss",
    "box_iou_loss",
    "l2_loss",
    "gradient_norm",
)


@keras.utils.register_keras_serializable("efficientdet")
class EfficientDet(keras.Model):
    """The network with its training step; made by `EfficientDet.create(config)`.

    `compile` and `fit` are Keras'. A training batch is (images float32
    [B, H, W, 3] on the 0..255 scale, targets), where targets is a dict of
    `cls_L` int32 [B, h, w, A], `box_L` float32 [B, h, w, A * 4] for each level
    L, and `num_positives` float32 [B].
    """

    @classmethod
    def create(cls, config: Config) -> "EfficientDet":
        """The network of a config, untrained: `efficientdet_tf.model.build`."""
        # Late, because the builder needs this class.
        from efficientdet_tf.model import build

        return build(config)

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer,
        loss: Callable,
        weight_decay: float = 4e-5,
        clip_norm: float = 10.0,
        ema_decay: float = 0.9998,
        **kwargs,
    ):
        """Configures training.

        Args:
          optimizer: of tf_keras, without clipping of its own.
          loss: `efficientdet_tf.losses.DetectionLoss` or alike: called with
            (targets, outputs, normalizer), returns a dict of scalars of which
            `detection_loss` is minimised.
          weight_decay: factor of half the squared kernels in the loss.
          clip_norm: L2 norm that each gradient, then all together, are clipped
            to; 0 is off.
          ema_decay: of the moving average of the weights; 0 is off.
          **kwargs: of `keras.Model.compile`.
        """
        super().compile(optimizer=optimizer, **kwargs)
        self.detection_loss = loss
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.moving_average = MovingAverage(self, ema_decay) if ema_decay else None
        self._make_trackers()

    # Untracked, or Keras would count the metrics among the weights and save them.
    @tf.__internal__.tracking.no_automatic_dependency_tracking
    def _make_trackers(self):
        self.trackers = {name: keras.metrics.Mean(name) for name in TRACKED}

    @property
    def metrics(self):
        """Means over the epoch, reset by Keras between epochs."""
        return [*super().metrics, *getattr(self, "trackers", {}).values()]

    def averaged_weights(self):
        """A context in which the weights are their moving average, if there is one."""
        if self.moving_average is None:
            return contextlib.nullcontext()
        return self.moving_average.averaged()

    def train_step(self, data):
        """One step on one replica's share of the global batch."""
        images, targets = data
        with tf.GradientTape() as tape:
            outputs = self(images, training=True)
            losses = self._loss_terms(targets, outputs)
        variables = self.trainable_variables
        gradients = tape.gradient(losses["loss"], variables)
        # Summed before clipping, so that the step is that of one large batch
        # however many replicas share it.
        gradients = _sum_over_replicas(gradients)
        if self.clip_norm:
            gradients = clip_gradients(gradients, self.clip_norm)
        self.optimizer.apply_gradients(
            zip(gradients, variables, strict=True), skip_gradients_aggregation=True
        )
        if self.moving_average is not None:
            self.moving_average.update(self.optimizer.iterations)
        return self._track({**losses, "gradient_norm": tf.linalg.global_norm(gradients)})

    def test_step(self, data):
        """The losses of a batch, in inference mode."""
        images, targets = data
        return self._track(self._loss_terms(targets, self(images, training=False)))

    def _loss_terms(self, targets, outputs) -> dict[str, tf.Tensor]:
        """This replica's terms of the global loss; they sum to it over replicas."""
        positives = _sum_over_replicas(tf.reduce_sum(targets["num_positives"]))
        losses = dict(self.detection_loss(targets, outputs, normalizer=positives + 1.0))
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        losses["l2_loss"] = l2_regularization(self, self.weight_decay) / replicas
        losses["loss"] = losses["detection_loss"] + losses["l2_loss"]
        return losses

    def _track(self, values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        for name, value in values.items():
            # A metric averages over replicas what is a sum over them here.
            factor = 1 if name == "gradient_norm" else replicas
            self.trackers[name].update_state(value * factor)
        return {name: self.trackers[name].result() for name in values}


def _sum_over_replicas(values):
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        return values
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)
