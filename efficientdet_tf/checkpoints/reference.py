"""Names of the published implementation's variables for ours, in one place.

The published names are those of a Keras model, e.g.
`efficientnet-b0/blocks_3/se/conv2d_1/bias`; published TF1 checkpoints use the
same ones. Trailing `:0` is not part of a name here.
"""

import re
from collections.abc import Mapping

import numpy as np
import tf_keras as keras

from efficientdet_tf.backbones.efficientnet import scaled_stages
from efficientdet_tf.config import ModelConfig
from keras_layers.bifpn import bifpn_nodes


def reference_name(name: str, config: ModelConfig) -> str:
    """The published name of the variable that we call `name`.

    Args:
      name: e.g. `backbone/block_3/se/expand/bias`, with or without `:0`.
      config: the model's.

    Raises:
      ValueError: for a name that no published model has.
    """
    part, _, rest = name.removesuffix(":0").partition("/")
    if part == "backbone":
        return f"{config.backbone}/{_backbone(rest, config.backbone)}"
    if part == "extra_levels":
        return f"resample_p6/{_projection(rest.removeprefix('projection/'))}"
    if part == "feature_network":
        return f"fpn_cells/{_feature_network(rest, config)}"
    if part == "class_head":
        return f"class_net/{_head(rest, 'class')}"
    if part == "box_head":
        return f"box_net/{_head(rest, 'box')}"
    raise ValueError(f"variable {name!r} has no published counterpart")


def load_reference_weights(
    model: keras.Model, weights: Mapping[str, np.ndarray], config: ModelConfig
) -> None:
    """Puts published weights into a model.

    Args:
      model: of `efficientdet_tf.model.build`.
      weights: {published name, with or without `:0`: array}.
      config: the model's.

    Raises:
      ValueError: naming the variables that are missing, left over, or of
        another shape; the model is unchanged then.
    """
    weights = {name.removesuffix(":0"): value for name, value in weights.items()}
    wanted = {reference_name(variable.name, config): variable for variable in model.weights}
    problems = [f"{name} is missing" for name in wanted.keys() - weights.keys()]
    problems += [f"{name} is not used" for name in weights.keys() - wanted.keys()]
    problems += [
        f"{name} has shape {weights[name].shape}, not {tuple(wanted[name].shape)}"
        for name in wanted.keys() & weights.keys()
        if tuple(weights[name].shape) != tuple(wanted[name].shape)
    ]
    if problems:
        raise ValueError(f"weights do not fit {config.name}: {'; '.join(sorted(problems))}")
    for name, variable in wanted.items():
        variable.assign(weights[name])


# Published layers are numbered by kind in order of creation; those of a block
# without expansion move up by one.
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
    **_BLOCK_LAYERS,
    "depthwise_bn": "tpu_batch_normalization",
    "project_conv": "conv2d",
    "project_bn": "tpu_batch_normalization_1",
}


def _backbone(rest: str, backbone: str) -> str:
    layer, variable = rest.rsplit("/", 1)
    if layer.startswith("stem_"):
        kind = {"stem_conv": "conv2d", "stem_bn": "tpu_batch_normalization"}[layer]
        return f"stem/{kind}/{variable}"
    block, _, layer = layer.partition("/")
    index = int(block.removeprefix("block_"))
    first_stage = scaled_stages(backbone)[0]
    expands = first_stage.expand_ratio != 1 or index >= first_stage.repeats
    layers = _BLOCK_LAYERS if expands else _BLOCK_LAYERS_WITHOUT_EXPANSION
    return f"blocks_{index}/{layers[layer]}/{variable}"


def _projection(rest: str) -> str:
    return rest.replace("conv/", "conv2d/", 1) if rest.startswith("conv/") else rest


def _feature_network(rest: str, config: ModelConfig) -> str:
    node_name, rest = rest.split("/", 1)
    cell, index = map(int, re.fullmatch(r"cell_(\d+)_node_(\d+)", node_name).groups())
    levels = config.max_level - config.min_level + 1
    prefix = f"cell_{cell}/fnode{index}"
    if rest.startswith("fusion/weight_"):
        edge = int(rest.removeprefix("fusion/weight_"))
        return f"{prefix}/WSM" + (f"_{edge}" if edge else "")
    if rest.startswith("projection_"):
        projection, rest = rest.split("/", 1)
        edge = int(projection.removeprefix("projection_"))
        source = bifpn_nodes(config.min_level, config.max_level)[index].inputs[edge]
        return f"{prefix}/resample_{edge}_{source}_{levels + index}/{_projection(rest)}"
    return f"{prefix}/op_after_combine{levels + index}/{rest}"


def _head(rest: str, name: str) -> str:
    if match := re.fullmatch(r"bn_(\d+)_level_(\d+)/(.*)", rest):
        repeat, level, variable = match.groups()
        return f"{name}-{repeat}-bn-{level}/{variable}"
    return re.sub(r"^conv_(\d+)/", rf"{name}-\1/", re.sub(r"^predict/", f"{name}-predict/", rest))
