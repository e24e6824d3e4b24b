"""Fusion of two maps, one of them weighted per channel by the pooled other."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_layers.averages import average
from keras_layers.conv_block import ConvBlock
from keras_layers.fusion import WeightedFusion, fusion_operation
from keras_layers.network_graph import Operation


@keras.utils.register_keras_serializable("efficientdet")
class PooledGate(keras.layers.Layer):
    """Fusion ReLU(Resize(source) + ReLU(BN(Conv1x1(GlobalAvgPool(source)))) * BN(Conv3x3(target))).

    Args:
      num_filters: width C.
      fusion: fusion method, one of `keras_layers.feature_network.METHODS`. Default "sum".
      conv_block: convolution block of all convolutions. Default: the profile "light".
      gate_norm: whether BatchNorm follows the convolution of the pooled map. Default True.
    """

    def __init__(
        self,
        num_filters: int,
        fusion: str = "sum",
        conv_block: Any = None,
        gate_norm: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_filters = num_filters
        self.method = fusion
        self.conv_block = ConvBlock.from_value(conv_block)
        self.gate_norm = bool(gate_norm)
        block = dataclasses.replace(self.conv_block, activation=None)
        gate = dataclasses.replace(block, kernel_size=1, norm=block.norm and self.gate_norm)
        self.gate = gate.build(num_filters, name="gate")
        self.lateral = block.build(num_filters, name="lateral")
        self.fusion = WeightedFusion(fusion, name="fusion")

    def operations(self) -> list[Operation]:
        """Return the gate and the fusion as operations of a network's graph."""
        meaning = "the finer map is weighted by relu(conv of the coarser's global average), ReLU"
        return [Operation("GAU", meaning), fusion_operation(self.method)]

    def call(self, inputs: Sequence[tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Fuse.

        Args:
          inputs: the source, float [B, h, w, C]; the source resized to the target's size, and
            the target, both float [B, H, W, C].

        Returns:
          Float [B, H, W, C].
        """
        source, resized, target = inputs
        pooled = average(source)
        weights = tf.nn.relu(self.gate(pooled, training=training))
        lateral = weights * self.lateral(target, training=training)
        return tf.nn.relu(self.fusion([resized, lateral]))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_filters": self.num_filters,
            "fusion": self.method,
            "conv_block": self.conv_block.to_dict(),
            "gate_norm": self.gate_norm,
        }
