"""SGDW, RectifiedAdam and Lookahead, of Keras' legacy optimizer class."""

from collections.abc import Callable

import tf_keras as keras

from efficientdet_tf.addons.loading import load_tensorflow_addons
from efficientdet_tf.config import OptimizerConfig


def build_rule(
    config: OptimizerConfig,
    schedule: keras.optimizers.schedules.LearningRateSchedule,
    adapted: Callable[[type], type],
) -> keras.optimizers.legacy.Optimizer:
    """Build the optimizer "radam" or "sgdw".

    - "radam", Liu et al., https://arxiv.org/abs/1908.03265: Adam that starts
      without its second moment while that is unreliable.
    - "sgdw", Loshchilov and Hutter, https://arxiv.org/abs/1711.05101: SGD with
      momentum and decoupled weight decay.

    Args:
      config: optimizer settings.
      schedule: learning rate by step.
      adapted: makes a subclass whose variables another optimizer owns.

    Raises:
      ConfigError: where tensorflow-addons is not installed.
    """
    optimizers = load_tensorflow_addons(f"optimizer.name: {config.name}").optimizers
    if config.name == "radam":
        # Its own weight decay would apply to all variables.
        decayed = optimizers.extend_with_decoupled_weight_decay(optimizers.RectifiedAdam)
        rule = adapted(decayed)(0.0, learning_rate=schedule, beta_1=config.momentum)
    else:
        rule = adapted(optimizers.SGDW)(0.0, schedule, config.momentum)
    rule.weight_decay = lambda: config.weight_decay * schedule(rule.iterations)
    return rule


def build_lookahead(
    rule: keras.optimizers.legacy.Optimizer, period: int, adapted: Callable[[type], type]
) -> keras.optimizers.legacy.Optimizer:
    """Build Lookahead, Zhang et al., https://arxiv.org/abs/1907.08610, around an optimizer.

    Args:
      rule: optimizer of the fast weights.
      period: steps between updates of the slow weights, half way to the fast ones.
      adapted: see `build_rule`.

    Raises:
      ConfigError: where tensorflow-addons is not installed.
    """
    optimizers = load_tensorflow_addons(f"optimizer.lookahead: {period}").optimizers
    return adapted(optimizers.Lookahead)(rule, sync_period=period)
