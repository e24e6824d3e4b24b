"""Registry of the backbones: layers, and requirements of their weights.

A backbone is a Keras layer: called with float [B, H, W, 3], normalised images, and `training`,
it returns {level: float [B, H_l, W_l, c_l]} up to level 5, sizes rounded up. Its attribute
`recompute` is set, and enables gradient checkpointing. Its attribute `feedback_widths`, if it has
one, is {level: width} of the maps accepted as the argument `feedback`, each added to the output of
the level's first block.

A backbone of the user's own has no line here: its name is the import path of its class, see
`find`.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

from keras_layers.import_path import load_object

if TYPE_CHECKING:
    import tf_keras as keras


# Height and width of the input that a backbone of the user's own is tried with, in pixels.
_TRIED_SIZE = 128


class Backbone(NamedTuple):
    """Entry of `BACKBONES`.

    Args:
      layer: import path of the layer's class, "module:class"; its first argument is the name.
      imagenet: import path of the reader of ImageNet weights, "module:function". Called with
        the name and a source, it returns {name within the backbone: array}.
      pixel_mean, pixel_std: RGB statistics on the 0..255 scale that the weights require.
      survival_prob: survival probability of the last residual block in training, 0..1; 1 is
        no stochastic depth. Default 1.
      is_scalable: whether the layer takes `survival_prob`, `width` and `depth`. Default False.
      min_level: the finest level of the layer's outputs. Default 1.
    """

    layer: str
    imagenet: str
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    survival_prob: float = 1.0
    is_scalable: bool = False
    min_level: int = 1


_EFFICIENTNET = Backbone(
    "efficientdet_tf.backbones.efficientnet:EfficientNet",
    "efficientdet_tf.checkpoints.imagenet:read_efficientnet",
    survival_prob=0.8,
    is_scalable=True,
)
_LITE = _EFFICIENTNET._replace(
    imagenet="efficientdet_tf.checkpoints.imagenet:read_efficientnet_lite",
    pixel_mean=(127.0, 127.0, 127.0),
    pixel_std=(128.0, 128.0, 128.0),
)
_RESNET = Backbone(
    "efficientdet_tf.backbones.resnet:ResNet",
    "efficientdet_tf.checkpoints.imagenet:read_resnet",
    pixel_mean=(123.68, 116.779, 103.939),
    pixel_std=(1.0, 1.0, 1.0),
    min_level=2,
)

BACKBONES = {
    # Published backbones have a survival probability of 0.8, except B0.
    "efficientnet-b0": _EFFICIENTNET._replace(survival_prob=1.0),
    **{f"efficientnet-b{i}": _EFFICIENTNET for i in range(1, 8)},
    **{f"efficientnet-lite{i}": _LITE for i in range(5)},
    "resnet50": _RESNET,
    "resnet101": _RESNET,
}


def find(name: str) -> Backbone:
    """Return the entry of a backbone.

    Args:
      name: a key of `BACKBONES`, or the import path "module:class" of a layer of the user's
        own, which is called with the name of the Keras layer only. It has levels 1 to 5, a
        fixed size and the pixel statistics of ImageNet.
    """
    return BACKBONES.get(name) or Backbone(name, imagenet="")


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
      name: see `find`.
      survival_prob: survival probability of the last residual block in training, 0..1.
        Default 1, no stochastic depth.
      width, depth: factors of the published width and depth. Default 1.
      layer_name: name of the Keras layer. Default "backbone".

    Raises:
      ValueError: if the backbone does not support an argument, whose name the message begins
        with, or the import path leads nowhere.
    """
    scale = {"survival_prob": survival_prob, "width": width, "depth": depth}
    check_scale(name, **scale)
    backbone = find(name)
    layer = load_object(backbone.layer)
    if name not in BACKBONES:
        return _build_own(name, layer, layer_name)
    return layer(name, name=layer_name, **(scale if backbone.is_scalable else {}))


def _build_own(path: str, layer: Any, layer_name: str) -> "keras.layers.Layer":
    if not isinstance(layer, type):
        raise ValueError(f"{path} is no class of a Keras layer")
    try:
        made = layer(name=layer_name)
    except TypeError as error:
        raise ValueError(f"{path}: cannot be made with a name only: {error}") from error
    _check_levels(path, made)
    return made


def _check_levels(path: str, layer: "keras.layers.Layer") -> None:
    """Raise ValueError if a layer does not return levels, or they have other sizes."""
    import tf_keras as keras

    maps = layer(keras.Input([_TRIED_SIZE, _TRIED_SIZE, 3]))
    if not isinstance(maps, dict):
        raise ValueError(f"{path}: returns {type(maps).__name__}; return a dict {{level: map}}")
    for level, features in maps.items():
        shape, side = tuple(features.shape), -(-_TRIED_SIZE // 2 ** int(level))
        if len(shape) != 4 or shape[1:3] != (side, side):
            raise ValueError(
                f"{path}: level {level} of {_TRIED_SIZE} x {_TRIED_SIZE} pixels has the shape "
                f"{shape}, not {side} x {side} positions"
            )


def check_scale(name: str, **scale: float) -> None:
    """Raise ValueError for a factor other than 1 of a backbone of fixed size."""
    for argument, value in scale.items():
        if value != 1 and not find(name).is_scalable:
            raise ValueError(f"{argument}: {name} has a fixed size; set 1, not {value:g}")
