"""Mapping of our variable names to the published implementation's, and loading by it.

Published names are those of its Keras model and of published TF1 checkpoints, e.g.
`efficientnet-b0/blocks_3/se/conv2d_1/bias`. Names here have no trailing `:0`.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.backbones.efficientnet import SCALES, scaled_stages
from efficientdet_tf.config import Config, ModelConfig
from efficientdet_tf.errors import UserError
from keras_layers.bifpn import bifpn_nodes

# Most names of a kind in a message of one line.
_SHOWN_NAMES = 4


class WeightsMismatch(UserError):
    """Weights of another network than the model's."""


class Loaded(NamedTuple):
    """Result of loading weights into a model.

    Args:
      count: number of variables that were set.
      reinitialised_parts: names of the model's parts that keep their initial values.
    """

    count: int  # type: ignore[assignment]
    reinitialised_parts: tuple[str, ...] = ()


def reference_name(name: str, config: Config) -> str:
    """Return the published name of a variable.

    Args:
      name: our name, e.g. `backbone/block_3/se/expand/bias`, with or without `:0`.
      config: config of the model.

    Raises:
      ValueError: if no published model has the variable.
    """
    part, _, rest = name.removesuffix(":0").partition("/")
    model, neck = config.model, config.neck.name
    if part == "backbone" and model.backbone in SCALES:
        return f"{model.backbone}/{_backbone(rest, model)}"
    if part == "extra_levels":
        return f"resample_p6/{_projection(rest.removeprefix('projection/'))}"
    if part == "feature_network" and neck in _NECKS:
        return _NECKS[neck](rest, model)
    if part == "class_head":
        return f"class_net/{_head(rest, 'class')}"
    if part == "box_head":
        return f"box_net/{_head(rest, 'box')}"
    raise ValueError(f"variable {name!r} has no published counterpart")


def load_reference_weights(
    model: keras.Model,
    weights: Mapping[str, np.ndarray],
    config: Config,
    source: str = "published weights",
    keep: Collection[str] = (),
) -> Loaded:
    """Load published weights into a model.

    All weights must fit if the model's feature network is a published one. Otherwise the
    backbone must fit, and each other part is loaded if it fits.

    Args:
      model: result of `efficientdet_tf.model.build`.
      weights: {published name, with or without `:0`: array}.
      config: config of the model.
      source: name of the weights in messages. Default "published weights".
      keep: our names of variables that keep their values. Default none.

    Returns:
      The number of variables set, and the re-initialised parts.

    Raises:
      WeightsMismatch: if variables are missing, not used, or of another shape; it
        names them, and the model is unchanged.
    """
    if config.model.backbone not in SCALES:
        raise WeightsMismatch(
            f"{source}: weights do not fit {config.model.name}: no published model has the "
            f"backbone {config.model.backbone}; choose one of {', '.join(SCALES)}"
        )
    given = {name.removesuffix(":0"): value for name, value in weights.items()}
    message = f"{source}: weights do not fit {config.model.name}"
    if config.neck.name in _NECKS:
        wanted, given = _counterparts(model.weights, given, config, keep)
        _check_shapes(given, wanted, message)
        reinitialised: tuple[str, ...] = ()
    else:
        wanted, given, reinitialised = _fitting_parts(model, given, config, keep, message)
    for name, variable in wanted.items():
        variable.assign(given[name])
    return Loaded(len(wanted), reinitialised)


def _counterparts(
    variables: Iterable[tf.Variable],
    given: Mapping[str, np.ndarray],
    config: Config,
    keep: Collection[str],
) -> tuple[dict[str, tf.Variable], dict[str, np.ndarray]]:
    """Select {published name: variable} to set, and the arrays without those to keep."""
    wanted = {reference_name(variable.name, config): variable for variable in variables}
    kept = {name for name, variable in wanted.items() if variable.name in keep}
    return (
        {name: variable for name, variable in wanted.items() if name not in kept},
        {name: array for name, array in given.items() if name not in kept},
    )


def _fitting_parts(
    model: keras.Model,
    given: Mapping[str, np.ndarray],
    config: Config,
    keep: Collection[str],
    message: str,
) -> tuple[dict[str, tf.Variable], dict[str, np.ndarray], tuple[str, ...]]:
    """Select as `_counterparts` for the parts that fit; also return those that do not."""
    scopes = {
        "backbone": f"{config.model.backbone}/",
        "extra_levels": "resample_p6/",
        "class_head": "class_net/",
        "box_head": "box_net/",
    }
    fitting: dict[str, tf.Variable] = {}
    reinitialised = ["feature_network"]
    for part, scope in scopes.items():
        variables = [v for v in model.weights if v.name.startswith(f"{part}/")]
        arrays = {name: array for name, array in given.items() if name.startswith(scope)}
        wanted, arrays = _counterparts(variables, arrays, config, keep)
        if not variables:
            continue
        try:
            _check_shapes(arrays, wanted, message)
        except WeightsMismatch:
            if part == "backbone":
                raise
            reinitialised.append(part)
        else:
            fitting |= wanted
    return fitting, dict(given), tuple(reinitialised)


def _check_shapes(given: Mapping[str, np.ndarray], wanted: Mapping, message: str) -> None:
    check_fit(
        {name: tuple(array.shape) for name, array in given.items()},
        {name: tuple(variable.shape) for name, variable in wanted.items()},
        message,
    )


def check_fit(given: Mapping[str, tuple], wanted: Mapping[str, tuple], message: str) -> None:
    """Compare the shapes of weights with those of a model.

    Args:
      given, wanted: {name: shape} of the weights and of the model's variables.
      message: beginning of the error message.

    Raises:
      WeightsMismatch: if variables are missing, not used, or of another shape.
    """
    differing = [
        f"{name} {given[name]} for {wanted[name]}"
        for name in given.keys() & wanted.keys()
        if given[name] != wanted[name]
    ]
    problems = {
        "missing": wanted.keys() - given.keys(),
        "not used": given.keys() - wanted.keys(),
        "of another shape": differing,
    }
    found = [f"{kind}: {_some(names)}" for kind, names in problems.items() if names]
    if found:
        raise WeightsMismatch(f"{message}: {'; '.join(found)}")


def _some(names: Collection[str]) -> str:
    """Format the first names, and the number of the others."""
    shown = sorted(names)[:_SHOWN_NAMES]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


# Published layers are numbered by kind in order of creation; in a block without
# expansion the numbers are lower by one.
_BLOCK_LAYERS = {
    "expand_conv": "conv2d",
    "expand_bn": "tpu_batch_normalization",
    "depthwise_conv": "depthwise_conv2d",
    "depthwise_bn": "tpu_batch_normalization_1",
    "se/reduce": "se/conv2d",
    "se/expand": "se/conv2d_1",
    "project_conv": "conv2d_1",
    "project_bn": "tpu_batch_normalization_2",
}
_BLOCK_LAYERS_WITHOUT_EXPANSION = {
    "depthwise_conv": "depthwise_conv2d",
    "depthwise_bn": "tpu_batch_normalization",
    "se/reduce": "se/conv2d",
    "se/expand": "se/conv2d_1",
    "project_conv": "conv2d",
    "project_bn": "tpu_batch_normalization_1",
}


def _backbone(rest: str, config: ModelConfig) -> str:
    layer, variable = rest.rsplit("/", 1)
    if layer.startswith("stem_"):
        kind = {"stem_conv": "conv2d", "stem_bn": "tpu_batch_normalization"}[layer]
        return f"stem/{kind}/{variable}"
    block, _, layer = layer.partition("/")
    index = int(block.removeprefix("block_"))
    first_stage = scaled_stages(config.backbone, depth=config.backbone_depth)[0]
    expands = first_stage.expand_ratio != 1 or index >= first_stage.repeats
    layers = _BLOCK_LAYERS if expands else _BLOCK_LAYERS_WITHOUT_EXPANSION
    if layer not in layers:
        raise ValueError(f"block {index} of {config.backbone} has no {layer}")
    return f"blocks_{index}/{layers[layer]}/{variable}"


def _projection(rest: str) -> str:
    return rest.replace("conv/", "conv2d/", 1) if rest.startswith("conv/") else rest


def _bifpn(rest: str, config: ModelConfig) -> str:
    node_name, _, rest = rest.partition("/")
    match = re.fullmatch(r"cell_(\d+)_node_(\d+)", node_name)
    if match is None:
        raise ValueError(f"the feature network of {config.name} has no {node_name}")
    cell, index = map(int, match.groups())
    levels = config.max_level - config.min_level + 1
    nodes = bifpn_nodes(list(range(config.min_level, config.max_level + 1)))
    if index >= len(nodes):
        raise ValueError(f"the feature network of {config.name} has no {node_name}")
    prefix = f"fpn_cells/cell_{cell}/fnode{index}"
    if rest.startswith("fusion/weight_"):
        edge = int(rest.removeprefix("fusion/weight_"))
        return f"{prefix}/WSM" + (f"_{edge}" if edge else "")
    if rest.startswith("projection_"):
        projection, rest = rest.split("/", 1)
        edge = int(projection.removeprefix("projection_"))
        if edge >= len(nodes[index].inputs):
            raise ValueError(f"{node_name} of {config.name} has no {projection}")
        source = nodes[index].inputs[edge]
        return f"{prefix}/resample_{edge}_{source}_{levels + index}/{_projection(rest)}"
    return f"{prefix}/op_after_combine{levels + index}/{rest.removeprefix('block/')}"


# Published feature network -> function that maps the names of its variables.
_NECKS = {"bifpn": _bifpn}


def _head(rest: str, name: str) -> str:
    if match := re.fullmatch(r"bn_(\d+)_level_(\d+)/(.*)", rest):
        repeat, level, variable = match.groups()
        return f"{name}-{repeat}-bn-{level}/{variable}"
    return re.sub(r"^conv_(\d+)/", rf"{name}-\1/", re.sub(r"^predict/", f"{name}-predict/", rest))
