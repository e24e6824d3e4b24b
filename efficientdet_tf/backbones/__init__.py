"""Registry of the backbones: what builds them, what they give and what their weights need.

A backbone is a Keras layer: called with float [B, H, W, 3], normalised images, and `training`,
it returns {level: float [B, H_l, W_l, c_l]} up to level 5, sizes rounded up. Its attribute
`recompute` turns gradient checkpointing on. Its attribute `feedback_widths` is {level: width} of
the maps that a call may have as `feedback`, each added to the output of the first block of the
level; none if there is no place for them.

A new backbone is its file, a line of `BACKBONES`, and a row of the contract test. This module
imports no TensorFlow, so that a command can check settings before that.
"""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import tf_keras as keras


class Backbone(NamedTuple):
    """A line of `BACKBONES`.

    Args:
      layer: where the layer's class is, "module:class"; its first argument is the name.
      imagenet: where the function is that reads ImageNet weights, "module:function". Called
        with the name and a source, it returns {name within the backbone: array}.
      widths: numbers of filters of the levels 3, 4 and 5.
      pixel_mean, pixel_std: RGB statistics on the 0..255 scale that the weights need.
      survival_prob: of the last residual block in training; 1 is no stochastic depth.
      is_scalable: whether the layer takes `survival_prob`, `width` and `depth`.
    """

    layer: str
    imagenet: str
    widths: tuple[int, int, int]
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    survival_prob: float = 1.0
    is_scalable: bool = False


def _efficientnet(level_3: int, level_4: int, level_5: int, survival_prob: float = 0.8) -> Backbone:
    return Backbone(
        "efficientdet_tf.backbones.efficientnet:EfficientNet",
        "efficientdet_tf.checkpoints.imagenet:read_efficientnet",
        (level_3, level_4, level_5),
        survival_prob=survival_prob,
        is_scalable=True,
    )


def _lite(*widths: int) -> Backbone:
    return _efficientnet(*widths)._replace(
        imagenet="efficientdet_tf.checkpoints.imagenet:read_efficientnet_lite",
        pixel_mean=(127.0, 127.0, 127.0),
        pixel_std=(128.0, 128.0, 128.0),
    )


BACKBONES = {
    # The published backbones keep 0.8 of their blocks, but for B0.
    "efficientnet-b0": _efficientnet(40, 112, 320, survival_prob=1.0),
    "efficientnet-b1": _efficientnet(40, 112, 320),
    "efficientnet-b2": _efficientnet(48, 120, 352),
    "efficientnet-b3": _efficientnet(48, 136, 384),
    "efficientnet-b4": _efficientnet(56, 160, 448),
    "efficientnet-b5": _efficientnet(64, 176, 512),
    "efficientnet-b6": _efficientnet(72, 200, 576),
    "efficientnet-b7": _efficientnet(80, 224, 640),
    "efficientnet-lite0": _lite(40, 112, 320),
    "efficientnet-lite1": _lite(40, 112, 320),
    "efficientnet-lite2": _lite(48, 120, 352),
    "efficientnet-lite3": _lite(48, 136, 384),
    "efficientnet-lite4": _lite(56, 160, 448),
    "resnet50": Backbone(
        "efficientdet_tf.backbones.resnet:ResNet",
        "efficientdet_tf.checkpoints.imagenet:read_resnet",
        (512, 1024, 2048),
        pixel_mean=(123.68, 116.779, 103.939),
        pixel_std=(1.0, 1.0, 1.0),
    ),
}


def build_backbone(
    name: str,
    *,
    survival_prob: float = 1.0,
    width: float = 1.0,
    depth: float = 1.0,
    layer_name: str = "backbone",
) -> "keras.layers.Layer":
    """Build a backbone's layer by its name.

    Args:
      name: a key of `BACKBONES`.
      survival_prob: of the last residual block in training. Default 1, no stochastic depth.
      width, depth: factors of the published ones. Default 1.
      layer_name: of the Keras layer.

    Raises:
      ValueError: naming the argument, for one that the backbone cannot use.
    """
    backbone = BACKBONES[name]
    scale = {"survival_prob": survival_prob, "width": width, "depth": depth}
    if not backbone.is_scalable:
        check_scale(name, **scale)
        scale = {}
    return load(backbone.layer)(name, name=layer_name, **scale)


def check_scale(name: str, **scale: float) -> None:
    """Raise ValueError for a factor other than 1 of a backbone that has one size only."""
    for argument, value in scale.items():
        if value != 1 and not BACKBONES[name].is_scalable:
            raise ValueError(f"{argument}: {name} has no such choice; leave it at 1, not {value:g}")


def load(place: str) -> Callable:
    """Return what is at "module:name"."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
