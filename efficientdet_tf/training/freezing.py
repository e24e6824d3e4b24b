"""Freezing of layers by variable name."""

import re

import tf_keras as keras

from efficientdet_tf.config import ConfigError


def freeze(model: keras.Model, pattern: str) -> int:
    """Freeze the layers whose variable names match a pattern.

    A frozen BatchNorm runs in inference mode: it uses its moving statistics
    and does not update them.

    Args:
      model: model of `efficientdet_tf.model.build`, before `compile`.
      pattern: regular expression matched against full variable names, e.g.
        "backbone/.*" or "backbone/(stem|block_[0-4]/).*"; "" freezes nothing.

    Returns:
      The number of frozen variables.

    Raises:
      ConfigError: when the pattern matches nothing, a part of a layer, or everything.
    """
    if not pattern:
        return 0
    count = 0
    for layer in model._flatten_layers(include_self=False):
        names = [variable.name.removesuffix(":0") for variable in _own_variables(layer)]
        matches = [name for name in names if re.fullmatch(pattern, name)]
        if 0 < len(matches) < len(names):
            (missed, *_) = (name for name in names if name not in matches)
            raise ConfigError(
                f"model.freeze: {pattern!r} matches {matches[0]}, but not {missed} "
                "of the same layer; layers are frozen as a whole"
            )
        if matches:
            layer.trainable = False
            count += len(names)
    if not count:
        name = model.trainable_variables[0].name.removesuffix(":0")
        raise ConfigError(
            f"model.freeze: no variable matches {pattern!r}; use names such as {name}"
        )
    if not model.trainable_variables:
        raise ConfigError(f"model.freeze: {pattern!r} leaves nothing to train")
    return count


def _own_variables(layer: keras.layers.Layer) -> list:
    """Return the variables of a leaf layer; [] for a layer that contains layers."""
    is_leaf = not any(True for _ in layer._flatten_layers(include_self=False))
    return layer.weights if is_leaf else []
