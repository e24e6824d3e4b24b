"""Keras model with the detection training step."""

import contextlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.config import Config
from efficientdet_tf.metrics_history import TRAINING_METRICS
from efficientdet_tf.model import build
from efficientdet_tf.training.accumulation import sum_over_micro_batches
from efficientdet_tf.training.optimizers import (
    MovingAverage,
    clip_gradients,
    l2_regularization,
)
from keras_layers.stochastic_depth import draws_from


@keras.utils.register_keras_serializable("efficientdet")
class EfficientDet(keras.Model):
    """Keras model with the detection training step; built by `EfficientDet.create(config)`.

    `compile` and `fit` are Keras'. A training batch is (images float32
    [B, H, W, 3] on the 0..255 scale, targets), where targets is a dict of
    `class_targets` int32 [B, N], `box_targets` float32 [B, N, 4] and
    `num_positives` float32 [B], in the order of anchors.
    """

    @classmethod
    def create(cls, config: Config) -> "EfficientDet":
        """Build the untrained network of a config, see `efficientdet_tf.model.build`."""
        return build(config, cls)

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer,
        loss: Callable,
        weight_decay: float = 4e-5,
        clip_norm: float = 10.0,
        ema_decay: float = 0.9998,
        gradient_accumulation_steps: int = 1,
        seed: int = 0,
        distillation: Callable | None = None,
        **kwargs: Any,
    ) -> None:
        """Configure training.

        Args:
          optimizer: tf_keras optimizer, or one of its legacy class, without gradient clipping.
          loss: `efficientdet_tf.losses.DetectionLoss` or similar: called with
            (targets, outputs, normalizer), returns a dict of scalars of which
            `detection_loss` is minimised.
          weight_decay: factor of half the squared kernels in the loss. Default 4e-5.
          clip_norm: L2 norm to which each gradient, then all together, are clipped;
            0 is off. Default 10.
          ema_decay: decay of the moving average of the weights; 0 is off. Default 0.9998.
          gradient_accumulation_steps: number of sequential micro-batches of a replica's
            batch, whose size is a multiple of it in all steps: `fit` fails at another; the step
            is that of the whole batch, except that BatchNorm sees micro-batches. Default 1.
          seed: random seed of stochastic depth. Default 0.
          distillation: `training.distillation.Distillation` or similar: called with (images,
            outputs), returns a scalar, the mean over the images, that is added to the loss. It
            is no part of the model's weights. Default None.
          **kwargs: further arguments of `keras.Model.compile`.
        """
        super().compile(optimizer=optimizer, **kwargs)
        # Every replica returns metrics over all replicas.
        self.distribute_reduction_method = "first"
        self.detection_loss = loss
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.moving_average = MovingAverage(self, ema_decay) if ema_decay else None
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.seed = seed
        self.distillation = distillation
        self._make_trackers()

    # Untracked, or Keras would count the metrics among the weights and save them.
    @tf.__internal__.tracking.no_automatic_dependency_tracking
    def _make_trackers(self) -> None:
        self.trackers = {name: keras.metrics.Mean(name) for name in TRAINING_METRICS}

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Means over the epoch, reset by Keras between epochs."""
        return [*super().metrics, *getattr(self, "trackers", {}).values()]

    def averaged_weights(self) -> contextlib.AbstractContextManager:
        """Return a context in which the weights are their moving average, if enabled."""
        if self.moving_average is None:
            return contextlib.nullcontext()
        return self.moving_average.averaged()

    def make_train_function(self, force: bool = False) -> Callable:
        """Make the function of `fit` after building the optimizer: one trace, not two."""
        # The legacy class makes its variables in the first step.
        if not self._has_legacy_optimizer:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        return super().make_train_function(force)

    # There is no Python control flow on tensors, and AutoGraph's search for it takes seconds.
    @tf.autograph.experimental.do_not_convert
    def train_step(self, data: tuple[tf.Tensor, dict[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
        """Run one step on one replica's share of the global batch."""
        losses, gradients = self._losses_and_gradients(*data)
        # Summed before clipping, so that the step does not depend on the number of replicas.
        gradients = _sum_over_replicas(gradients)
        if self._scales_loss:
            gradients = self.optimizer.get_unscaled_gradients(gradients)
        gradients, norm = clip_gradients(gradients, self.clip_norm)
        updates = zip(gradients, self.trainable_variables, strict=True)
        if self._has_legacy_optimizer:
            self.optimizer.apply_gradients(updates, experimental_aggregate_gradients=False)
        else:
            self.optimizer.apply_gradients(updates, skip_gradients_aggregation=True)
        if self.moving_average is not None:
            self.moving_average.update(self.optimizer.iterations)
        # Not finite when the loss scale was too large: such a step changes no weight.
        norm = tf.where(tf.math.is_finite(norm), norm, 0.0)
        return self._track({**losses, "gradient_norm": norm})

    def test_step(self, data: tuple[tf.Tensor, dict[str, tf.Tensor]]) -> dict[str, tf.Tensor]:
        """Compute the losses of a batch in inference mode."""
        images, targets = data
        outputs = self(images, training=False)
        return self._track(self._loss_terms(targets, outputs, self._normalizer(targets), 1))

    def _losses_and_gradients(
        self, images: tf.Tensor, targets: dict[str, tf.Tensor]
    ) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
        """Compute this replica's terms of the global loss and of its (scaled) gradient."""
        normalizer = self._normalizer(targets)
        variables = self.trainable_variables

        def compute_micro_batch(
            index: tf.Tensor, micro_batch: tuple[tf.Tensor, dict[str, tf.Tensor]]
        ) -> tuple[dict[str, tf.Tensor], list[tf.Tensor]]:
            images, targets = micro_batch
            with tf.GradientTape() as tape, draws_from(self._step_seed(index)):
                outputs = self(images, training=True)
                losses = self._loss_terms(
                    targets, outputs, normalizer, self.gradient_accumulation_steps
                )
                losses |= self._distillation_terms(images, outputs, losses["loss"])
                loss = losses["loss"]
                if self._scales_loss:
                    loss = self.optimizer.get_scaled_loss(loss)
            return losses, tape.gradient(loss, variables)

        return sum_over_micro_batches(
            compute_micro_batch, (images, targets), self.gradient_accumulation_steps
        )

    def _normalizer(self, targets: dict[str, tf.Tensor]) -> tf.Tensor:
        """Return the divisor of the losses: positive anchors of the global batch, plus 1."""
        return _sum_over_replicas(tf.reduce_sum(targets["num_positives"])) + 1.0

    def _loss_terms(
        self,
        targets: dict[str, tf.Tensor],
        outputs: dict[str, tf.Tensor],
        normalizer: tf.Tensor,
        num_micro_batches: int,
    ) -> dict[str, tf.Tensor]:
        """Compute terms of the global loss, their sum over micro-batches and replicas."""
        losses = dict(self.detection_loss(targets, outputs, normalizer=normalizer))
        shares = _num_replicas() * num_micro_batches
        losses["l2_loss"] = l2_regularization(self, self.weight_decay) / shares
        losses["loss"] = losses["detection_loss"] + losses["l2_loss"]
        return losses

    def _distillation_terms(
        self, images: tf.Tensor, outputs: dict[str, tf.Tensor], loss: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Compute a micro-batch's term of the distillation loss, and the loss with it."""
        if self.distillation is None:
            return {}
        shares = _num_replicas() * self.gradient_accumulation_steps
        distillation_loss = self.distillation(images, outputs) / shares
        return {"distillation_loss": distillation_loss, "loss": loss + distillation_loss}

    @property
    def _has_legacy_optimizer(self) -> bool:
        return isinstance(self.optimizer, keras.optimizers.legacy.Optimizer)

    @property
    def _scales_loss(self) -> bool:
        return isinstance(self.optimizer, keras.mixed_precision.LossScaleOptimizer)

    def _step_seed(self, micro_batch: tf.Tensor) -> tf.Tensor:
        """Return the seed, int32 [2], of a micro-batch of this step on this replica."""
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        step = tf.cast(self.optimizer.iterations, tf.int32)
        seed = tf.random.fold_in(tf.stack([self.seed, step]), micro_batch)
        return tf.random.fold_in(seed, replica)

    def _track(self, values: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        for name, value in values.items():
            # Metrics average over replicas; these values are summed over them.
            factor = 1 if name == "gradient_norm" else _num_replicas()
            self.trackers[name].update_state(value * factor)
        return {name: self.trackers[name].result() for name in values}


def _num_replicas() -> int:
    return tf.distribute.get_strategy().num_replicas_in_sync


def _sum_over_replicas(values: Any) -> Any:
    if _num_replicas() == 1:
        return values
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, values)
