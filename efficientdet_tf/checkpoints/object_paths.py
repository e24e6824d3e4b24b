"""Mapping of object paths in published TF2 checkpoints to our variable names.

Such a checkpoint names a variable by its attribute path from the Keras model, e.g.
`backbone/_blocks/3/_se/_se_reduce/bias`.
"""

import re

# Suffixes of the keys of a variable and of its moving average, a slot of the
# averaging optimizer.
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
AVERAGE = "/.OPTIMIZER_SLOT/optimizer/average" + SUFFIX

# Prefixes of a checkpoint's keys that do not belong to the network.
_BOOKKEEPING = ("optimizer/", "save_counter/", "keras_api/", "loss_tracker/")

_LAYERS = {
    "_conv_stem": "stem_conv",
    "_bn": "stem_bn",
    "_expand_conv": "expand_conv",
    "_bn0": "expand_bn",
    "_depthwise_conv": "depthwise_conv",
    "_bn1": "depthwise_bn",
    "_se/_se_reduce": "se/reduce",
    "_se/_se_expand": "se/expand",
    "_project_conv": "project_conv",
    "_bn2": "project_bn",
    "conv2d": "conv",
    "conv_op": "conv",
    "bn": "bn",
}

_BLOCK_LAYER = "_expand_conv|_depthwise_conv|_project_conv|_bn[012]|_se/_se_reduce|_se/_se_expand"
_NODE = r"fpn_cells/cells/(?P<cell>\d+)/fnodes/(?P<node>\d+)"
_OUR_NODE = "feature_network/cell_{cell}_node_{node}"
_VARIABLE = r"(?P<variable>\w+)"
_RULES = (
    (rf"backbone/_stem/(?P<layer>_conv_stem|_bn)/{_VARIABLE}", "backbone/{layer}/{variable}"),
    (
        rf"backbone/_blocks/(?P<block>\d+)/(?P<layer>{_BLOCK_LAYER})/{_VARIABLE}",
        "backbone/block_{block}/{layer}/{variable}",
    ),
    # Higher levels are pooled from this one, without variables.
    (
        rf"resample_layers/0/(?P<layer>conv2d|bn)/{_VARIABLE}",
        "extra_levels/projection/{layer}/{variable}",
    ),
    (rf"{_NODE}/WSM", f"{_OUR_NODE}/fusion/weight_0"),
    (rf"{_NODE}/WSM_(?P<edge>\d+)", f"{_OUR_NODE}/fusion/weight_{{edge}}"),
    (
        rf"{_NODE}/resample_layers/(?P<edge>\d+)/(?P<layer>conv2d|bn)/{_VARIABLE}",
        f"{_OUR_NODE}/projection_{{edge}}/{{layer}}/{{variable}}",
    ),
    (
        rf"{_NODE}/op_after_combine/(?P<layer>conv_op|bn)/{_VARIABLE}",
        f"{_OUR_NODE}/block/{{layer}}/{{variable}}",
    ),
    (
        rf"(?P<head>class|box)_net/bns/(?P<repeat>\d+)/(?P<level>\d+)/{_VARIABLE}",
        "{head}_head/bn_{repeat}_level_{level}/{variable}",
    ),
    (
        rf"(?P<head>class|box)_net/conv_ops/(?P<repeat>\d+)/{_VARIABLE}",
        "{head}_head/conv_{repeat}/{variable}",
    ),
    (rf"(?P<head>class)_net/classes/{_VARIABLE}", "{head}_head/predict/{variable}"),
    (rf"(?P<head>box)_net/boxes/{_VARIABLE}", "{head}_head/predict/{variable}"),
)


def is_bookkeeping(key: str) -> bool:
    """Tell whether a checkpoint's key is no variable of the network.

    Such keys are the object graph, optimizers and their slots, counters and metrics.
    """
    return not key.endswith(SUFFIX) or "/.OPTIMIZER_SLOT/" in key or key.startswith(_BOOKKEEPING)


def our_name(key: str, min_level: int) -> str | None:
    """Map a checkpoint's key to our name of the variable.

    Args:
      key: key of a variable, e.g. `box_net/bns/0/1/beta/.ATTRIBUTES/VARIABLE_VALUE`.
      min_level: lowest level of the model, the first one in the heads.

    Returns:
      Our name, e.g. `box_head/bn_0_level_4/beta`; None if no published model has it.
    """
    path = key.removesuffix(SUFFIX)
    for pattern, template in _RULES:
        if match := re.fullmatch(pattern, path):
            fields = match.groupdict()
            if "layer" in fields:
                fields["layer"] = _LAYERS[fields["layer"]]
            if "level" in fields:
                fields["level"] = min_level + int(fields["level"])
            return template.format(**fields)
    return None
