"""Registry and contract of the feature networks, the detector's neck.

A feature network is a Keras layer:

- Called with a dict {level: float [B, H_l, W_l, c_l]} of contiguous levels, and `training`,
  it returns a dict of the same levels and sizes at width `num_filters`. Any size is valid.
- All hyper-parameters are keywords, and `get_config` holds them. Every network has those of
  `COMMON`; the others are its own options.
- An invalid value raises a ValueError whose message begins with the field's name.
- `reads_extra_levels` is False for a network that computes the levels above the backbone's
  itself: its inputs of these levels have no weights and only determine the sizes.
- `extend_graph` says its nodes and edges, see `keras_layers.network_graph`; the contract test
  holds them to the dependencies of the outputs and to the weights.
- `from_images` computes the pyramid of images with a backbone:
  `network(levels(backbone(images)))`, unless the network uses the backbone otherwise.

`keras_layers.feature_network_layer.FeatureNetwork` implements the common part;
`keras_layers.fusion_graph.FusionGraph` implements networks given by a table of nodes.

To add a network, write its file, a line of `NETWORKS`, and a row of the contract test. A network
of the user's own is named by the import path of its class, "module:class", instead. This module
imports no TensorFlow, so that a command can check settings before that import.
"""

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from keras_layers.import_path import is_import_path, load_object
from keras_layers.options import did_you_mean

if TYPE_CHECKING:
    from keras_layers.feature_network_layer import FeatureNetwork

# Name -> import path of the class. A class has several names if papers name it differently.
NETWORKS = {
    "bifpn": "keras_layers.bifpn:BiFPN",
    "fpn": "keras_layers.fpn:FPN",
    "nasfpn": "keras_layers.nasfpn:NASFPN",
    "pafpn": "keras_layers.panet:PAFPN",
    "panet": "keras_layers.panet:PAFPN",
    "bottom_up_path_augmentation": "keras_layers.panet:PAFPN",
    "simplified_panet": "keras_layers.panet:SimplifiedPANet",
    "fully_connected": "keras_layers.fully_connected:FullyConnected",
    "qufpn": "keras_layers.qufpn:QuFPN",
    "bfp": "keras_layers.bfp:BFP",
    "efm": "keras_layers.efm:EFM",
    "asff": "keras_layers.asff:ASFF",
    "fpg": "keras_layers.fpg:FPG",
    # A name from a list of feature networks; it fits no other network.
    "feature_pyramid_grouping": "keras_layers.fpg:FPG",
    "attention_fpn": "keras_layers.attention_fpn:AttentionFPN",
    "attention_pooling": "keras_layers.attention_fpn:AttentionFPN",
    "gau_fpn": "keras_layers.attention_fpn:AttentionFPN",
    "mlfpn": "keras_layers.mlfpn:MLFPN",
    "fpt": "keras_layers.fpt:FPT",
    "rfp": "keras_layers.rfp:RFP",
}

# Methods of `keras_layers.fusion.WeightedFusion`.
METHODS = ("sum", "unbounded", "softmax", "fast", "channel_softmax", "channel_fast")

# The coarsest level of backbones.
TOP_LEVEL = 5

# Hyper-parameters of every network.
COMMON = ("num_filters", "num_repeats", "fusion", "conv_block")


def network_class(name: str) -> type:
    """Return the layer class of a network.

    Args:
      name: a key of `NETWORKS`, or the import path "module:class" of the user's own.

    Raises:
      ValueError: if the name is unknown, or the import path leads to no such class.
    """
    if not isinstance(name, str) or not (name in NETWORKS or is_import_path(name)):
        raise ValueError(f"name: {name!r} is not a feature network{did_you_mean(name, NETWORKS)}")
    try:
        found = load_object(NETWORKS.get(name, name))
    except ValueError as error:
        raise ValueError(f"name: {error}") from error
    if not isinstance(found, type) or not hasattr(found, "from_images"):
        raise ValueError(f"name: {name} is no class of a feature network")
    return found


def own_options(name: str) -> list[str]:
    """Return the names of a network's options besides `COMMON`."""
    parameters = inspect.signature(network_class(name)).parameters.values()
    return [
        parameter.name
        for parameter in parameters
        if parameter.kind is not parameter.VAR_KEYWORD and parameter.name not in COMMON
    ]


def build_feature_network(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    num_filters: int,
    num_repeats: int = 1,
    fusion: str = "sum",
    activation: str = "swish",
    layer_name: str = "feature_network",
) -> "FeatureNetwork":
    """Build a feature network by its name.

    Args:
      name: see `network_class`.
      options: the network's own options, and `conv_block`, see `ConvBlock.from_value`.
        Default none.
      num_filters: width C of every level of the output.
      num_repeats: number of cells, 1 or more. Default 1.
      fusion: fusion method, one of `keras_layers.feature_network.METHODS`. Default "sum".
      activation: name of a Keras activation, for a `conv_block` without one.
        Default "swish".
      layer_name: name of the Keras layer. Default "feature_network".

    Raises:
      ValueError: if a value is invalid; the message begins with the field's name,
        `options.<option>` for an option.
    """
    from keras_layers.conv_block import ConvBlock

    cls, options = network_class(name), dict(options or {})
    known = [*own_options(name), "conv_block"]
    for option in options:
        if option not in known:
            raise ValueError(
                f"options.{option}: {name} has no such option{did_you_mean(option, known)}"
            )
    try:
        block = ConvBlock.from_value(options.pop("conv_block", None), activation=activation)
        return cls(
            num_filters=num_filters,
            num_repeats=num_repeats,
            fusion=fusion,
            conv_block=block,
            name=layer_name,
            **options,
        )
    except ValueError as error:
        raise ValueError(name_setting(name, error)) from error
    except TypeError as error:
        if not options:
            raise
        raise ValueError(f"options: {name} cannot use {options}: {error}") from error


def name_setting(name: str, error: ValueError) -> str:
    """Return the text of a network's error, with the prefix `options.` for an option."""
    field = str(error).partition(":")[0].partition(".")[0]
    is_option = field != "name" and field in (*own_options(name), "conv_block")
    return f"options.{error}" if is_option else str(error)


def check_levels(levels: Iterable[int | str]) -> list[int]:
    """Return the levels in ascending order.

    Raises:
      ValueError: if the levels are fewer than two or have gaps.
    """
    ordered = sorted(int(level) for level in levels)
    if len(ordered) < 2 or ordered != list(range(ordered[0], ordered[-1] + 1)):
        raise ValueError(f"features: levels {ordered} are not two or more without a gap")
    return ordered
