"""Optimizers written for Keras' legacy optimizer class: LAMB, SGDW, RectifiedAdam, Lookahead.

LAMB comes from tf-models-official, the others from tensorflow-addons. Keras' legacy class has
neither `build` nor `skip_gradients_aggregation` and keeps its state differently. Here a legacy
optimizer is the update rule of a `LegacyOptimizer`, a subclass of the current class, which owns
variables, step count and checkpoints.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras
from official.modeling.optimization import lamb

from efficientdet_tf.config import OptimizerConfig
from efficientdet_tf.training.optimizers import is_kernel


def build(
    config: OptimizerConfig, schedule: keras.optimizers.schedules.LearningRateSchedule
) -> "LegacyOptimizer":
    """Build an optimizer of the legacy class from a config.

    "lamb", You et al., https://arxiv.org/abs/1904.00962, for very large batches: the norm of a
    kernel's update is the learning rate times the norm of the kernel. For "radam", "sgdw" and
    `lookahead` see `addons.optimizers`. "lamb", "radam" and "sgdw" apply decoupled weight decay
    to kernels, `weight_decay` times the learning rate; see `optimizers.loss_decay`.

    Args:
      config: optimizer settings.
      schedule: learning rate by step.

    Raises:
      ConfigError: where tensorflow-addons is not installed and the config needs it.
    """
    legacy = keras.optimizers.legacy
    moments = {"learning_rate": schedule, "beta_1": config.momentum}
    if config.name == "sgd":
        rule = _adapted(legacy.SGD)(schedule, config.momentum)
    elif config.name == "adam":
        rule = _adapted(legacy.Adam)(**moments)
    elif config.name == "lamb":
        rule = _adapted(lamb.LAMB)(weight_decay_rate=config.weight_decay, **moments)
    else:
        # Late: it needs tensorflow-addons, as Lookahead does.
        from efficientdet_tf.addons import optimizers as addon_optimizers

        rule = addon_optimizers.build_rule(config, schedule, _adapted)
    rule.step_factor = config.backbone_factor
    lookahead = None
    if config.lookahead:
        from efficientdet_tf.addons import optimizers as addon_optimizers

        lookahead = addon_optimizers.build_lookahead(rule, config.lookahead, _adapted)
    return LegacyOptimizer(config.name, schedule, rule, lookahead)


class LegacyOptimizer(keras.optimizers.Optimizer):
    """A tf_keras optimizer whose update rule is a legacy optimizer.

    Args:
      name: name of the optimizer.
      learning_rate: learning-rate schedule, the same as that of `rule`.
      rule: optimizer of a class made by `_adapted`; updates a variable by its gradient.
      lookahead: `tensorflow_addons.optimizers.Lookahead` of the rule, or None.
    """

    def __init__(
        self,
        name: str,
        learning_rate: keras.optimizers.schedules.LearningRateSchedule,
        rule: keras.optimizers.legacy.Optimizer,
        lookahead: keras.optimizers.legacy.Optimizer | None = None,
    ) -> None:
        # Compiled with the training step if at all.
        super().__init__(name, weight_decay=None, jit_compile=False)
        self._learning_rate = self._build_learning_rate(learning_rate)
        # Not tracked: this class owns their state in checkpoints.
        self._rule = self._no_dependency(lookahead or rule)
        self._slots = self._no_dependency({})
        self._coefficients = self._no_dependency({})
        for part in filter(None, (rule, lookahead)):
            part.keeper = self
            part.iterations = self.iterations

    def build(self, var_list: Sequence[tf.Variable]) -> None:
        """Create the slot variables of the rule."""
        super().build(var_list)
        if not getattr(self, "_built", False):
            self._rule._create_all_weights(var_list)
            self._built = True

    def _distributed_apply_gradients_fn(
        self,
        distribution: tf.distribute.Strategy,
        grads_and_vars: Sequence[tuple[tf.Tensor, tf.Variable]],
        **kwargs: Any,
    ) -> tf.Tensor:
        # Once per step: once per variable, tracing would take a minute.
        coefficients = self._rule._prepare([variable for _, variable in grads_and_vars])
        self._coefficients = self._no_dependency(coefficients)
        return super()._distributed_apply_gradients_fn(distribution, grads_and_vars, **kwargs)

    def update_step(self, gradient: tf.Tensor, variable: tf.Variable) -> None:
        """Apply one step to one variable."""
        self._rule._resource_apply_dense(gradient, variable)

    def add_slot(
        self, variable: tf.Variable, name: str, initial_value: tf.Tensor | None = None
    ) -> tf.Variable:
        """Create the slot variable `name` of the rule, shaped like `variable`."""
        slot = self.add_variable_from_reference(variable, name, initial_value=initial_value)
        self._slots[name, self._var_key(variable)] = slot
        return slot

    def slot(self, variable: tf.Variable, name: str) -> tf.Variable:
        """Return a slot variable of `add_slot`; `variable` may be one replica's copy."""
        return self._slots[name, self._var_key(variable)]

    def coefficients(self, device: str, dtype: tf.DType) -> dict[str, tf.Tensor]:
        """Return the per-step coefficients of the rule for the variables of a device and dtype."""
        return self._coefficients[device, dtype]


def _adapted(optimizer_class: type) -> type:
    """Return a subclass whose variables a `LegacyOptimizer`, its `keeper`, owns."""
    return type(optimizer_class.__name__, (_Kept, optimizer_class), {})


class _Kept(keras.optimizers.legacy.Optimizer):
    keeper: LegacyOptimizer
    step_factor = 1.0

    def add_slot(
        self,
        var: tf.Variable,
        slot_name: str,
        initializer: str | tf.Tensor = "zeros",
        shape: tf.TensorShape | None = None,
    ) -> tf.Variable:
        # The name of an initializer, always zeros, or the initial value.
        initial_value = None if isinstance(initializer, str) else initializer
        return self.keeper.add_slot(var, slot_name, initial_value)

    def get_slot(self, var: tf.Variable, slot_name: str) -> tf.Variable:
        return self.keeper.slot(var, slot_name)

    def _fallback_apply_state(self, var_device: str, var_dtype: tf.DType) -> dict[str, tf.Tensor]:
        return self.keeper.coefficients(var_device, var_dtype)

    def _do_use_weight_decay(self, variable: tf.Variable | str) -> bool:
        # LAMB passes the name alone.
        return is_kernel(getattr(variable, "name", variable))

    _do_layer_adaptation = _do_use_weight_decay

    def _resource_apply_dense(
        self, grad: tf.Tensor, var: tf.Variable, *args: Any, **kwargs: Any
    ) -> tf.Operation:
        if self.step_factor == 1 or not var.name.startswith("backbone/"):
            return super()._resource_apply_dense(grad, var, *args, **kwargs)
        before = tf.identity(var)
        super()._resource_apply_dense(grad, var, *args, **kwargs)
        return var.assign(before + self.step_factor * (var - before))
