"""Fusion of two maps with attention from the maps themselves."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_layers.averages import average
from keras_layers.conv_block import ConvBlock
from keras_layers.fusion import WeightedFusion, fusion_operation
from keras_layers.mlfpn import ScaleAggregation
from keras_layers.network_graph import Operation

# Side of the kernel of `spatial`, in pixels.
KERNEL_SIZE = 7

_MEANINGS = {
    "se": "squeeze-and-excitation of each input: factors of the channels from its global average",
    "spatial": "the fused map is weighted per pixel, by a 7x7 convolution of its mean and maximum",
}


@keras.utils.register_keras_serializable("efficientdet")
class AttendedFusion(keras.layers.Layer):
    """Fusion of a coarser and a finer map with attention, as a control for `PooledGate`.

    With x the resized coarser map and y = BN(Conv3x3(finer map)):

    - `se`: ReLU(SE(x) + SE(y)), SE: squeeze-and-excitation; Hu, Shen, Sun,
      "Squeeze-and-Excitation Networks", CVPR 2018, https://arxiv.org/abs/1709.01507.
    - `spatial`: z * sigmoid(Conv7x7(Concat(mean, maximum over channels of z))),
      z = ReLU(x + y); Woo, Park, Lee, Kweon, "CBAM", ECCV 2018,
      https://arxiv.org/abs/1807.06521, section 3.1.

    Args:
      num_filters: width C.
      attention: "se" or "spatial".
      fusion: fusion method, one of `keras_layers.feature_network.METHODS`. Default "sum".
      conv_block: convolution block of the finer map. Default: the profile "light".
    """

    def __init__(
        self,
        num_filters: int,
        attention: str,
        fusion: str = "sum",
        conv_block: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_filters = num_filters
        self.attention = attention
        self.method = fusion
        self.conv_block = ConvBlock.from_value(conv_block)
        block = dataclasses.replace(self.conv_block, activation=None)
        self.lateral = block.build(num_filters, name="lateral")
        self.fusion = WeightedFusion(fusion, name="fusion")
        self.excitations: list[keras.layers.Layer] = []
        self.map_conv = None
        if attention == "se":
            self.excitations = [ScaleAggregation(name=f"se_{i}") for i in range(2)]
        else:
            self.map_conv = keras.layers.Conv2D(1, KERNEL_SIZE, padding="same", name="map")

    def operations(self) -> list[Operation]:
        """Return the attention and the fusion as operations of a network's graph."""
        attention = Operation(self.attention, _MEANINGS[self.attention])
        fusion = fusion_operation(self.method)
        return [attention, fusion] if self.excitations else [fusion, attention]

    def call(self, inputs: Sequence[tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Fuse; see `PooledGate.call`."""
        _, resized, target = inputs
        maps = [resized, self.lateral(target, training=training)]
        if self.excitations:
            maps = [excite(x) for excite, x in zip(self.excitations, maps)]
        x = tf.nn.relu(self.fusion(maps))
        if self.map_conv is None:
            return x
        pooled = [f(x, axis=-1, keepdims=True) for f in (average, tf.reduce_max)]
        return x * tf.sigmoid(self.map_conv(tf.concat(pooled, axis=-1)))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_filters": self.num_filters,
            "attention": self.attention,
            "fusion": self.method,
            "conv_block": self.conv_block.to_dict(),
        }
