"""Fusion methods for feature maps of equal size and width."""

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_layers.averages import average
from keras_layers.feature_network import METHODS
from keras_layers.network_graph import Operation

# Keeps the division of fast fusion finite when every weight is negative.
EPSILON = 1e-4
# Global pooling of a map, per channel.
GLOBAL_POOLS = {"max": tf.reduce_max, "avg": average}

COMPRESSIONS = ("maxout", "maxout_affine", "conv1x1")

# What the methods of `make_fusion` compute, in one line.
_MEANINGS = {
    "sum": "sum of the inputs",
    "unbounded": "sum of w x, with a weight w of each input x",
    "softmax": "sum of softmax(w) x, with a weight w of each input x",
    "fast": "sum of relu(w) x / (1e-4 + sum of relu(w)), with a weight w of each input x",
    "channel_softmax": "sum of softmax(w) x, with a weight w of each input x and channel",
    "channel_fast": (
        "sum of relu(w) x / (1e-4 + sum of relu(w)), with a weight w of each input x and channel"
    ),
    "attention_max": "deep + sigmoid(global maximum of deep) * shallow",
    "attention_avg": "deep + sigmoid(global average of deep) * shallow",
    "maxout": "maximum of the inputs, for each channel",
    "maxout_affine": "1x1 convolution of the concatenation, maximum of adjacent pairs of channels",
    "conv1x1": "1x1 convolution of the concatenation",
}
_LABELS = {"attention_max": "attention", "attention_avg": "attention", "conv1x1": "concat 1x1"}


def fusion_operation(method: str) -> Operation:
    """Return a method of `make_fusion` as an operation of a network's graph."""
    return Operation(_LABELS.get(method, method.replace("_", " ")), _MEANINGS[method])


def make_fusion(method: str, name: str) -> keras.layers.Layer:
    """Build a layer that fuses a list of float [B, H, W, C].

    Args:
      method: one of `keras_layers.feature_network.METHODS`, "attention_max" or
        "attention_avg" for `GlobalAttention` of two maps, or one of `COMPRESSIONS`.
      name: name of the layer.
    """
    kind, _, choice = method.partition("_")
    if kind == "attention":
        return GlobalAttention(choice, name=name)
    if method in COMPRESSIONS:
        return Compression(method, name=name)
    return WeightedFusion(method, name=name)


@keras.utils.register_keras_serializable("efficientdet")
class WeightedFusion(keras.layers.Layer):
    """Weighted sum of feature maps of equal size and width, with learned weights.

    Tan, Pang, Le, "EfficientDet", CVPR 2020, section 3.3.

    Methods, with one scalar weight per input (`channel_*`: one per input and
    channel), initially 1:

    - `sum`: x_1 + ... + x_n, no weights.
    - `unbounded`: sum of w_i x_i.
    - `softmax`: sum of softmax(w)_i x_i.
    - `fast`: sum of relu(w_i) x_i / (1e-4 + sum of relu(w_j)).

    Examples:
      >>> fuse = WeightedFusion("fast")
      >>> fuse([tf.ones([1, 4, 4, 8]), tf.zeros([1, 4, 4, 8])]).shape
      TensorShape([1, 4, 4, 8])

    Args:
      method: one of `keras_layers.feature_network.METHODS`. Default "fast".

    Raises:
      ValueError: if the method is unknown.
    """

    def __init__(self, method: str = "fast", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if method not in METHODS:
            raise ValueError(f"fusion method {method!r} is not one of {', '.join(METHODS)}")
        self.method = method

    def build(self, input_shapes: Sequence[tf.TensorShape]) -> None:
        self.edge_weights = []
        if self.method != "sum":
            shape = [input_shapes[0][-1]] if self.method.startswith("channel_") else []
            self.edge_weights = [
                # Always float32: 1e-4 next to a sum near 2 is lost in half precision.
                self.add_weight(
                    f"weight_{i}", shape, tf.float32, "ones", experimental_autocast=False
                )
                for i in range(len(input_shapes))
            ]
        super().build(input_shapes)

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Fuse the inputs.

        Args:
          inputs: list of float [B, H, W, C].

        Returns:
          Float [B, H, W, C] of the same dtype.
        """
        if self.method != "sum":
            weights = tf.cast(self.normalized_weights(), inputs[0].dtype)
            inputs = [x * weights[i] for i, x in enumerate(inputs)]
        # Pairs, because TFLite's ADD_N has no int8 kernel.
        return functools.reduce(tf.add, inputs)

    def normalized_weights(self) -> tf.Tensor:
        """Return the factors of the inputs: float32 [n] or [n, C]."""
        weights = tf.stack(self.edge_weights)
        if self.method == "unbounded":
            return weights
        if self.method.endswith("softmax"):
            return tf.nn.softmax(weights, axis=0)
        positive = tf.nn.relu(weights)
        return positive / (EPSILON + tf.reduce_sum(positive, axis=0))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "method": self.method}


@keras.utils.register_keras_serializable("efficientdet")
class GlobalAttention(keras.layers.Layer):
    """NAS-FPN's merging cell GP: deep + sigmoid(global pool of deep) * shallow; no weights.

    Args:
      pool: global pooling, one of `GLOBAL_POOLS`. Default "max".
    """

    def __init__(self, pool: str = "max", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pool = pool

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Fuse the list [deep, shallow] of float [B, H, W, C] to the same shape."""
        deep, shallow = inputs
        pooled = GLOBAL_POOLS[self.pool](deep, axis=[1, 2], keepdims=True)
        return deep + tf.sigmoid(pooled) * shallow

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pool": self.pool}


@keras.utils.register_keras_serializable("efficientdet")
class Compression(keras.layers.Layer):
    """Compression of the concatenation of n maps of width C to one map of width C.

    - `maxout`: the maximum of the n maps, for each channel; no weights.
    - `maxout_affine`: a 1x1 convolution to 2 C filters, then the maximum of each adjacent
      pair; Goodfellow et al., "Maxout Networks", https://arxiv.org/abs/1302.4389.
    - `conv1x1`: a 1x1 convolution to C filters.

    Args:
      method: compression method, one of `COMPRESSIONS`. Default "maxout".
    """

    def __init__(self, method: str = "maxout", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.method = method

    def build(self, input_shapes: Any) -> None:
        self.conv = None
        if self.method != "maxout":
            pieces = 2 if self.method == "maxout_affine" else 1
            self.conv = keras.layers.Conv2D(pieces * input_shapes[0][-1], 1, name="conv")
        super().build(input_shapes)

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Fuse a list of float [B, H, W, C] to the same shape."""
        if self.conv is None:
            return functools.reduce(tf.maximum, inputs)
        x = self.conv(tf.concat(inputs, axis=-1))
        return tf.maximum(x[..., ::2], x[..., 1::2]) if self.method == "maxout_affine" else x

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "method": self.method}
