"""Optimizers, gradient clipping, L2 regularisation and moving average of the weights."""

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.config import OptimizerConfig
from efficientdet_tf.training.schedules import WarmupDecay

# Optimizers whose steps are proportional to the gradients.
SGD = ("sgd", "sgdw")
# Names of decayed variables and of their copies on other replicas. Biases, BatchNorm and
# fusion weights are not decayed.
_KERNEL = re.compile(r"(^|/)(depthwise_|pointwise_)?kernel(/replica_\d+)?(:\d+)?$")


def build(
    config: OptimizerConfig, total_steps: int, steps_per_epoch: int, batch_size: int
) -> keras.optimizers.Optimizer:
    """Build the optimizer of a run with its learning-rate schedule.

    Args:
      config: optimizer settings; the learning rate is scaled by `batch_factor`, and `momentum` is
        also Adam's beta_1.
      total_steps: steps of the whole training.
      steps_per_epoch: steps of one epoch, the unit of `warmup_epochs`.
      batch_size: images per step over all replicas.
    """
    schedule = learning_rates(config, total_steps, steps_per_epoch, batch_size)
    return build_with_schedule(config, schedule)


def build_with_schedule(
    config: OptimizerConfig, schedule: keras.optimizers.schedules.LearningRateSchedule
) -> keras.optimizers.Optimizer:
    """Build the optimizer of a config with a learning rate by step."""
    if config.lookahead or decays_kernels(config):
        # Late: it imports this module, and its own imports take seconds.
        from efficientdet_tf.training import legacy_optimizers

        return legacy_optimizers.build(config, schedule)
    if config.name == "adam":
        return _Adam(config.backbone_factor, schedule, beta_1=config.momentum)
    return _SGD(config.backbone_factor, schedule, momentum=config.momentum)


def learning_rates(
    config: OptimizerConfig, total_steps: int, steps_per_epoch: int, batch_size: int
) -> WarmupDecay:
    """Build the learning-rate schedule of a run; arguments as in `build`."""
    peak = config.learning_rate * batch_factor(config, batch_size)
    return WarmupDecay(
        config.schedule,
        peak=peak,
        start=config.warmup_fraction * peak,
        # The learning rate of a training of one epoch has to fall, too.
        warmup_steps=min(int(config.warmup_epochs * steps_per_epoch), total_steps // 2),
        total_steps=total_steps,
    )


def schedule_of(optimizer: keras.optimizers.Optimizer) -> Any:
    """Return the learning-rate schedule that an optimizer was built with, or the constant rate."""
    return getattr(optimizer, "inner_optimizer", optimizer)._learning_rate


def batch_factor(config: OptimizerConfig, batch_size: int) -> float:
    """Return the factor of the learning rate for a batch.

    batch_size / reference_batch_size for SGD, as published; its square root for the others, whose
    steps do not grow with the gradients (Malladi et al. 2022, https://arxiv.org/abs/2205.10287).

    Args:
      config: optimizer settings.
      batch_size: images per step over all replicas.
    """
    ratio = batch_size / config.reference_batch_size
    return ratio if config.name in SGD else math.sqrt(ratio)


class _ScaledBackboneSteps(keras.optimizers.Optimizer):
    """Optimizer mixin that scales the steps of backbone variables.

    Args:
      factor: factor of a step; slot variables are those of the unscaled step, so it
        acts as a factor of the learning rate.
    """

    def __init__(self, factor: float, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._factor = factor

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Apply one step to one variable."""
        if self._factor == 1 or not variable.name.startswith("backbone/"):
            return super().update_step(gradient, variable)
        before = tf.identity(variable)
        super().update_step(gradient, variable)
        variable.assign(before + self._factor * (variable - before))


# Keras computes the same with an operation for each sum and product: for each variable of Adam the
# graph has 36 operations, and 14 here; of SGD 11, and 4 here.
class _FusedAdam(keras.optimizers.Adam):
    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        index = self._index_dict[self._var_key(variable)]
        step = tf.cast(self.iterations + 1, variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].handle,
            v=self._velocities[index].handle,
            beta1_power=tf.cast(self.beta_1, variable.dtype) ** step,
            beta2_power=tf.cast(self.beta_2, variable.dtype) ** step,
            lr=tf.cast(self.learning_rate, variable.dtype),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )


class _FusedSGD(keras.optimizers.SGD):
    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        tf.raw_ops.ResourceApplyKerasMomentum(
            var=variable.handle,
            accum=self.momentums[self._index_dict[self._var_key(variable)]].handle,
            lr=tf.cast(self.learning_rate, variable.dtype),
            grad=gradient,
            momentum=self.momentum,
        )


class _Adam(_ScaledBackboneSteps, _FusedAdam):
    pass


class _SGD(_ScaledBackboneSteps, _FusedSGD):
    pass


def decays_kernels(config: OptimizerConfig) -> bool:
    """Whether the optimizer applies decoupled weight decay to kernels.

    The loss then has no L2 term; see `loss_decay`.
    """
    return config.name in ("lamb", "sgdw", "radam")


def loss_decay(config: OptimizerConfig) -> float:
    """Return the factor of half the squared kernels in the loss; 0 with decoupled decay."""
    return 0.0 if decays_kernels(config) else config.weight_decay


def clip_gradients(
    gradients: Sequence[tf.Tensor], norm: float
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Clip every gradient to an L2 norm, then all of them together to the same norm.

    Unlike with `tf.clip_by_norm` and then `tf.clip_by_global_norm`, both are one product for each
    gradient, and its norm is computed once.

    Args:
      gradients: float32 tensors.
      norm: the largest L2 norm; 0 is no clipping.

    Returns:
      The gradients, and their global norm, float32 scalar. All are NaN when a gradient has a value
      that is not finite.
    """
    norms = tf.sqrt(2.0 * tf.stack([tf.nn.l2_loss(gradient) for gradient in gradients]))
    if not norm:
        return list(gradients), tf.norm(norms)
    factors = norm / tf.maximum(norms, norm)
    total = tf.norm(norms * factors)
    factor = norm / tf.maximum(total, norm)
    factors = tf.unstack(factors * factor)
    return [gradient * scale for gradient, scale in zip(gradients, factors)], total * factor


def is_kernel(name: str) -> bool:
    """Whether a variable of this name is the kernel of a convolution."""
    return _KERNEL.search(name) is not None


def l2_regularization(model: keras.Model, decay: float) -> tf.Tensor:
    """Compute `decay` times half the squared L2 norm of all convolution kernels.

    Returns:
      float32 scalar.
    """
    kernels = [variable for variable in model.trainable_variables if is_kernel(variable.name)]
    if not kernels:
        return tf.zeros([])
    return decay * tf.add_n([tf.nn.l2_loss(kernel) for kernel in kernels])


# Not a tf.Module: Keras would count the averages among the weights of the model.
class MovingAverage(tf.__internal__.tracking.AutoTrackable):
    """Exponential moving average of all variables of a model.

    The average starts at the variables' values, and its decay grows with the
    steps: min(decay, (1 + n) / (10 + n)) in step n, counted from 0, so that
    short trainings are averaged, too. BatchNorm's moving statistics are averaged
    with the weights they belong to, as in the published checkpoints.

    `ExponentialMovingAverage` of tf-models-official is not used here: its
    averages start at zero, and it swaps by adding and subtracting, which does
    not restore the weights exactly.

    Create it in the strategy scope of the model; then each replica averages its
    own copies, without communication.

    Args:
      model: built model.
      decay: decay of the average, 0..1.
    """

    def __init__(self, model: keras.Model, decay: float) -> None:
        self._decay = decay
        self._strategy = tf.distribute.get_strategy()
        self._variables = [v for v in model.variables if v.dtype.is_floating]
        self.averages = [_make_average(variable) for variable in self._variables]

    def update(self, steps_done: tf.Tensor) -> None:
        """Update the average, in the replica context of a step.

        Args:
          steps_done: int scalar, the optimizer's count after this step, from 1.
        """
        steps_done = tf.cast(steps_done, tf.float32)
        rate = 1.0 - tf.minimum(self._decay, steps_done / (9.0 + steps_done))
        for average, variable in zip(self.averages, self._variables):
            average.assign_sub(tf.cast(rate, average.dtype) * (average - variable))

    def restart(self) -> None:
        """Reset the average to the variables' values, after other weights were loaded."""
        with self._strategy.scope():
            for average, variable in zip(self.averages, self._variables):
                self._strategy.extended.update(variable, _copy, args=(average,))

    def swap(self) -> None:
        """Swap variables and averages bit for bit; a second call restores both."""
        with self._strategy.scope():
            for average, variable in zip(self.averages, self._variables):
                self._strategy.extended.update(variable, _exchange, args=(average,))

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Return a context in which the model's variables are their averages."""
        self.swap()
        try:
            yield
        finally:
            self.swap()


def _make_average(variable: tf.Variable) -> tf.Variable:
    is_mirrored = variable.synchronization != tf.VariableSynchronization.ON_READ
    return tf.Variable(
        tf.convert_to_tensor(variable),
        trainable=False,
        name=f"{variable.name.split(':')[0]}/average",
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=(
            tf.VariableAggregation.ONLY_FIRST_REPLICA
            if is_mirrored
            else tf.VariableAggregation.MEAN
        ),
    )


def _copy(variable: tf.Variable, average: tf.Variable) -> None:
    average.assign(variable)


def _exchange(variable: tf.Variable, average: tf.Variable) -> None:
    value = tf.identity(variable)
    variable.assign(average)
    average.assign(value)
