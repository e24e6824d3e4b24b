"""Layers that keep the values they have."""

import re

import tf_keras as keras

from efficientdet_tf.config import ConfigError


def freeze(model: keras.Model, pattern: str) -> int:
    """Freezes the layers whose variables match.

    A frozen BatchNorm works in inference mode: it uses its moving statistics
    and leaves them as they are.

    Args:
      model: of `efficientdet_tf.model.build`, before `compile`.
      pattern: regular expression for whole names of variables, e.g.
        "backbone/.*" or "backbone/(stem|block_[0-4]/).*"; "" freezes nothing.

    Returns:
      The number of variables that are frozen.

    Raises:
      ConfigError: when it matches nothing, a part of a layer, or everything.
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
            f"model.freeze: no variable matches {pattern!r}; names are such as {name}"
        )
    if not model.trainable_variables:
        raise ConfigError(f"model.freeze: {pattern!r} leaves nothing to train")
    return count


def _own_variables(layer: keras.layers.Layer) -> list:
    """Variables of a layer without layers in it; those of other layers are counted there."""
    is_leaf = not any(True for _ in layer._flatten_layers(include_self=False))
    return layer.weights if is_leaf else []
