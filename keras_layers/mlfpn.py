"""MLFPN: multi-level feature pyramid network.

Zhao, Sheng, Wang, Tang, Chen, Cai, Ling, "M2Det: A Single-Shot Object Detector Based on
Multi-Level Feature Pyramid Network", AAAI 2019, https://arxiv.org/abs/1811.04533.
"""

import dataclasses
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_layers.averages import average
from keras_layers.conv_block import ConvBlock
from keras_layers.feature_network import TOP_LEVEL
from keras_layers.feature_network_layer import FeatureNetwork
from keras_layers.fusion import WeightedFusion, fusion_operation
from keras_layers.network_graph import UPSAMPLE, Edge, NetworkGraph, Operation
from keras_layers.options import check_choice
from keras_layers.resample import upsample_to

# Reduction ratio of the hidden layer of `ScaleAggregation`.
REDUCTION = 16


def relu_block(conv_block: ConvBlock, kernel_size: int) -> ConvBlock:
    """Return the paper's block with a kernel size: convolution, BatchNorm, ReLU."""
    return dataclasses.replace(
        conv_block, kernel_size=kernel_size, activation="relu", order="conv_bn_act"
    )


@keras.utils.register_keras_serializable("efficientdet")
class MLFPN(FeatureNetwork):
    """Multi-level feature pyramid network: a sequence of U-shaped modules.

    Only the finest level and `deep_level` of the input are used:

        base = Concat(Conv3x3(C3 to C), Up(Conv1x1(C5 to 2C)))
        d^t = TUM_t(Concat(Conv1x1(base to C/2), d^t-1_3)), without d for the first
        Pout_l = Conv1x1(SFAM_l(Concat over t of d^t_l))

    The paper has one map of stride 8 for the two; the last convolution is ours, as the heads
    have the width C.

    Args:
      num_filters: width C of every level of the output, even. Default 64.
      num_repeats: number T of modules. Default 4; the paper has 8.
      fusion: fusion method within the modules, one of `METHODS` of
        `keras_layers.feature_network`. Default "sum".
      conv_block: convolution block, see `ConvBlock.from_value`; BatchNorm and ReLU follow
        each convolution. Default: the profile "light".
      deep_level: level of the deep input map, 5 or 4. Default 5.

    Raises:
      ValueError: if a value is invalid; the message begins with the field's name.
    """

    reads_extra_levels = False

    def __init__(
        self,
        *,
        num_filters: int = 64,
        num_repeats: int = 4,
        fusion: str = "sum",
        conv_block: Any = None,
        deep_level: int = TOP_LEVEL,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_filters=num_filters,
            num_repeats=num_repeats,
            fusion=fusion,
            conv_block=conv_block,
            **kwargs,
        )
        if num_filters % 2:
            raise ValueError(f"num_filters: {num_filters} is odd")
        check_choice("deep_level", deep_level, (TOP_LEVEL, TOP_LEVEL - 1))
        self.deep_level = deep_level

    def build(self, input_shapes: Any) -> None:
        super().build(input_shapes)
        check_choice("deep_level", self.deep_level, self.levels)
        width = self.num_filters
        one, three = (relu_block(self.conv_block, size) for size in (1, 3))
        self.shallow_conv = three.build(width, name="shallow")
        self.deep_conv = one.build(2 * width, name="deep")
        modules = range(self.num_repeats)
        self.thin_convs = [one.build(width // 2, name=f"thin_{t}") for t in modules]
        self.modules = [
            ThinnedUShape(len(self.levels), width, self.fusion, self.conv_block, name=f"tum_{t}")
            for t in modules
        ]
        self.aggregations = [ScaleAggregation(name=f"sfam_{level}") for level in self.levels]
        self.outputs = [one.build(width, name=f"output_{level}") for level in self.levels]

    def extend_graph(self, graph: NetworkGraph) -> None:
        finest = self.levels[0]
        concat = Operation("concat", "concatenation of the inputs")
        shallow, deep = (conv.conv_block.describe() for conv in (self.shallow_conv, self.deep_conv))
        graph.begin_stage("base")
        edges = [
            Edge(graph.newest[finest], shallow),
            Edge(graph.newest[self.deep_level], f"{deep}, {UPSAMPLE}"),
        ]
        base = graph.add(finest, [concat], edges, [self.shallow_conv, self.deep_conv])
        pyramids: list[dict[int, Edge]] = []
        for number, (thin, module) in enumerate(zip(self.thin_convs, self.modules)):
            graph.begin_stage(f"TUM {number + 1}")
            edges = [Edge(base, thin.conv_block.describe())]
            if pyramids:
                edges.append(pyramids[-1][finest])
            operations = [concat] if pyramids else [thin.conv_block.operation()]
            graph.add(finest, operations, edges, [thin])
            pyramids.append(module.extend_graph(graph, self.levels))
        graph.begin_stage("SFAM")
        attention = Operation("SFAM", "concatenation, weighted per channel by its global average")
        for index, level in enumerate(self.levels):
            conv = self.outputs[index]
            graph.add(
                level,
                [attention, conv.conv_block.operation()],
                [pyramid[level] for pyramid in pyramids],
                [self.aggregations[index], conv],
            )

    def call(
        self, features: dict[int, tf.Tensor], training: bool | None = None
    ) -> dict[int, tf.Tensor]:
        """Fuse, as `FusionGraph.call`."""
        sizes = [tuple(features[level].shape[1:3]) for level in self.levels]
        shallow = self.shallow_conv(features[self.levels[0]], training=training)
        deep = self.deep_conv(features[self.deep_level], training=training)
        base = tf.concat([shallow, upsample_to(deep, *sizes[0])], axis=-1)
        pyramids: list[list[tf.Tensor]] = []
        for thin, module in zip(self.thin_convs, self.modules):
            x = thin(base, training=training)
            if pyramids:
                x = tf.concat([x, pyramids[-1][0]], axis=-1)
            pyramids.append(module(x, training=training))
        outputs = {}
        for index, level in enumerate(self.levels):
            maps = tf.concat([pyramid[index] for pyramid in pyramids], axis=-1)
            x = self.aggregations[index](maps)
            outputs[level] = self.outputs[index](x, training=training)
        return outputs

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "deep_level": self.deep_level}


@keras.utils.register_keras_serializable("efficientdet")
class ThinnedUShape(keras.layers.Layer):
    """Thinned U-shape module (TUM): an encoder of strided convolutions and a decoder of sums.

        e_3 = x;  e_l = Conv3x3(e_l-1, stride 2)
        d_7 = u_7 = Conv1x1(e_7);  u_l = Conv3x3(e_l) + Up(u_l+1);  d_l = Conv1x1(u_l)

    Args:
      num_levels: number of levels, at least 2.
      num_filters: width C.
      fusion: fusion method of the decoder. Default "sum".
      conv_block: convolution block of all convolutions. Default: the profile "light".
    """

    def __init__(
        self,
        num_levels: int,
        num_filters: int,
        fusion: str = "sum",
        conv_block: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_levels = num_levels
        self.num_filters = num_filters
        self.method = fusion
        self.conv_block = ConvBlock.from_value(conv_block)
        one, three = (relu_block(self.conv_block, size) for size in (1, 3))
        finer = range(num_levels - 1)
        self.encoders = [three.build(num_filters, strides=2, name=f"encode_{i + 1}") for i in finer]
        self.decoders = [three.build(num_filters, name=f"decode_{i}") for i in finer]
        self.smooths = [one.build(num_filters, name=f"smooth_{i}") for i in range(num_levels)]
        self.fusions = [WeightedFusion(fusion, name=f"fusion_{i}") for i in finer]

    def extend_graph(self, graph: NetworkGraph, levels: list[int]) -> dict[int, Edge]:
        """Append the nodes to a graph.

        Args:
          graph: graph whose newest map of the finest level is the input.
          levels: levels of the module.

        Returns:
          {level: edge from the node that the module's map of the level is computed from}.
        """
        encoded = {levels[0]: graph.newest[levels[0]]}
        for level, encode in zip(levels[1:], self.encoders):
            operation = encode.conv_block.operation()
            meaning = encode.conv_block.describe(strides=2)
            edge = Edge(encoded[level - 1], "downsampled by the convolution")
            encoded[level] = graph.add(
                level, [operation._replace(meaning=meaning)], [edge], [encode]
            )
        smooth = self.smooths[-1].conv_block
        top = levels[-1]
        u = graph.add(top, [smooth.operation()], [Edge(encoded[top])], [self.smooths[-1]])
        edges = {top: Edge(u)}
        for index in reversed(range(self.num_levels - 1)):
            decode, fusion = self.decoders[index], self.fusions[index]
            u = graph.add(
                levels[index],
                [fusion_operation(self.method)],
                [Edge(encoded[levels[index]], decode.conv_block.describe()), Edge(u, UPSAMPLE)],
                [decode, self.smooths[index]],
                [fusion],
            )
            edges[levels[index]] = Edge(u, smooth.describe())
        return edges

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Map float [B, H, W, any] to a list of float [B, H_l, W_l, C], from the finest."""
        encoded = [x]
        for encode in self.encoders:
            encoded.append(encode(encoded[-1], training=training))
        u = self.smooths[-1](encoded[-1], training=training)
        maps = [u]
        for index in reversed(range(self.num_levels - 1)):
            lateral = self.decoders[index](encoded[index], training=training)
            u = self.fusions[index]([lateral, upsample_to(u, *lateral.shape[1:3])])
            maps.append(self.smooths[index](u, training=training))
        return maps[::-1]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_levels": self.num_levels,
            "num_filters": self.num_filters,
            "fusion": self.method,
            "conv_block": self.conv_block.to_dict(),
        }


@keras.utils.register_keras_serializable("efficientdet")
class ScaleAggregation(keras.layers.Layer):
    """Squeeze-and-excitation, SFAM's attention: x * sigmoid(W_2 ReLU(W_1 GlobalAvgPool(x)))."""

    def build(self, input_shape: Any) -> None:
        width = input_shape[-1]
        self.reduce = keras.layers.Conv2D(max(1, width // REDUCTION), 1, name="reduce")
        self.expand = keras.layers.Conv2D(width, 1, name="expand")
        super().build(input_shape)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Map float [B, H, W, C] to the same shape."""
        return x * self.scales(x)

    def scales(self, x: tf.Tensor) -> tf.Tensor:
        """Return the factors of the channels of float [B, H, W, C]: float [B, 1, 1, C]."""
        pooled = average(x)
        return tf.sigmoid(self.expand(tf.nn.relu(self.reduce(pooled))))
