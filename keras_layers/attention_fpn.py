"""Pyramid attention network as a feature network (attention pooling).

Li, Xiong, An, Wang, "Pyramid Attention Network for Semantic Segmentation", BMVC 2018,
https://arxiv.org/abs/1805.10180.
"""

import dataclasses
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_layers.attended_fusion import AttendedFusion
from keras_layers.averages import average
from keras_layers.conv_block import ConvBlock
from keras_layers.feature_network import TOP_LEVEL
from keras_layers.feature_network_layer import FeatureNetwork
from keras_layers.network_graph import UPSAMPLE, Edge, NetworkGraph, Operation
from keras_layers.options import check_bool, check_choice
from keras_layers.pooled_gate import PooledGate
from keras_layers.resample import Projection, upsample_to

CONTEXTS = ("fpa", "none")
ATTENTIONS = ("gau", "se", "spatial")
# For smaller maps, the coarsest of the three context maps is a single pixel.
MIN_CONTEXT_SIZE = 8


@keras.utils.register_keras_serializable("efficientdet")
class AttentionFPN(FeatureNetwork):
    """Top-down path whose lateral maps are weighted by the pooled coarser level.

    With the projected input Pin, of which level 5 is refined by `FeaturePyramidAttention`:

        Q_7 = Pin_7;  Q_l = ReLU(Up(Q_l+1) + ReLU(BN(Conv1x1(GlobalAvgPool(Q_l+1))))
                                 * BN(Conv3x3(Pin_l)));  Pout_l = Conv(Q_l)

    The paper calls the step from Q_l+1 to Q_l global attention upsample, GAU.

    Args:
      num_filters: width C of every level of the output; with `context` a multiple of 4.
        Default 64.
      num_repeats: number of top-down paths, each with weights of its own. Default 1.
      fusion: fusion method of a GAU, one of `keras_layers.feature_network.METHODS`.
        Default "sum".
      conv_block: convolution block, see `ConvBlock.from_value`. Default: the profile "light".
      context: "fpa", feature pyramid attention at level 5, which needs 8x8 positions there;
        or "none". Default "fpa".
      attention: fusion of two levels: "gau", the paper's; or as controls "se",
        squeeze-and-excitation of both maps before their sum, or "spatial", weights of the
        pixels of the sum, see `AttendedFusion`. Default "gau".
      attention_norm: whether BatchNorm follows the convolution of the pooled map of "gau";
        its statistics are over one position per image. Default True.

    Raises:
      ValueError: if a value is invalid; the message begins with the field's name.
    """

    def __init__(
        self,
        *,
        num_filters: int = 64,
        num_repeats: int = 1,
        fusion: str = "sum",
        conv_block: Any = None,
        context: str = "fpa",
        attention: str = "gau",
        attention_norm: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_filters=num_filters,
            num_repeats=num_repeats,
            fusion=fusion,
            conv_block=conv_block,
            **kwargs,
        )
        check_choice("context", context, CONTEXTS)
        if context == "fpa" and num_filters % 4:
            raise ValueError(f"num_filters: {num_filters} is no multiple of 4, as context needs")
        check_choice("attention", attention, ATTENTIONS)
        self.context = context
        self.attention = attention
        check_bool("attention_norm", attention_norm)
        self.attention_norm = attention_norm

    def build(self, input_shapes: Any) -> None:
        super().build(input_shapes)
        self.projections = [
            Projection(self.num_filters, self.conv_block, name=f"projection_{level}")
            for level in self.levels
        ]
        self.fpa = None
        if self.context == "fpa":
            _, height, width, _ = input_shapes[TOP_LEVEL]
            if min(height, width) < MIN_CONTEXT_SIZE:
                raise ValueError(
                    f"context: fpa needs {MIN_CONTEXT_SIZE}x{MIN_CONTEXT_SIZE} positions of level "
                    f"{TOP_LEVEL}, not {height}x{width}; set none, or a larger image"
                )
            self.fpa = FeaturePyramidAttention(self.num_filters, self.conv_block, name="fpa")
        # Flat lists over all cells: Keras' weights files omit layers in nested lists.
        finer = self.levels[-2::-1]
        cells = range(self.num_repeats)
        self.gates = [
            self._make_gate(f"cell_{cell}_{self.attention}_{level}")
            for cell in cells
            for level in finer
        ]
        self.outputs = [
            self.conv_block.build(self.num_filters, name=f"cell_{cell}_output_{level}")
            for cell in cells
            for level in self.levels
        ]

    def _make_gate(self, name: str) -> keras.layers.Layer:
        if self.attention == "gau":
            gate = (self.num_filters, self.fusion, self.conv_block, self.attention_norm)
            return PooledGate(*gate, name=name)
        attended = (self.num_filters, self.attention, self.fusion, self.conv_block)
        return AttendedFusion(*attended, name=name)

    def extend_graph(self, graph: NetworkGraph) -> None:
        for level, projection in zip(self.levels, self.projections):
            projection.add_to_graph(graph, level)
        if self.fpa is not None:
            graph.begin_stage("context")
            meaning = "feature pyramid attention: weights for each pixel, plus the global average"
            context = Operation("FPA", meaning)
            graph.add(TOP_LEVEL, [context], [Edge(graph.newest[TOP_LEVEL])], [self.fpa])
        is_gau = self.attention == "gau"
        graph.begin_stage("GAU" if is_gau else "top-down", self.num_repeats)
        up = f"{UPSAMPLE}; its global average is the gate" if is_gau else UPSAMPLE
        finer = self.levels[-2::-1]
        for index, level in enumerate(finer):
            gates = self.gates[index :: len(finer)]
            lateral = gates[0].lateral.conv_block.describe()
            edges = [
                Edge(graph.newest[level + 1], up),
                Edge(graph.newest[level], lateral + ", gated" * is_gau),
            ]
            fusions = [gate.fusion for gate in gates]
            graph.add(level, gates[0].operations(), edges, gates, fusions)
        for index, level in enumerate(self.levels):
            convs = self.outputs[index :: len(self.levels)]
            graph.add(level, [self.conv_block.operation()], [Edge(graph.newest[level])], convs)

    def call(
        self,
        features: dict[int, tf.Tensor],
        training: bool | None = None,
        return_attention: bool = False,
    ) -> dict[int, tf.Tensor] | tuple[dict[int, tf.Tensor], tf.Tensor | None]:
        """Fuse; see `FusionGraph.call`.

        Args:
          features: dict {level: float [B, H_l, W_l, c_l]}, contiguous levels.
          return_attention: whether to also return the attention map of the context.
            Default False.

        Returns:
          Dict {level: float [B, H_l, W_l, C]}, or that and float [B, H_5, W_5, C].
        """
        features = {level: features[level] for level in self.levels}
        for level, project in zip(self.levels, self.projections):
            features[level] = project(features[level], training=training)
        attention = None
        if self.fpa is not None:
            attention = self.fpa.attention(features[TOP_LEVEL], training)
            features[TOP_LEVEL] = self.fpa(features[TOP_LEVEL], attention, training=training)
        count = len(self.levels)
        for cell in range(self.num_repeats):
            high = features[self.levels[-1]]
            for level, gate in zip(self.levels[-2::-1], self.gates[cell * (count - 1) :]):
                low = features[level]
                upsampled = upsample_to(high, *low.shape[1:3])
                high = features[level] = gate((high, upsampled, low), training=training)
            outputs = self.outputs[cell * count :]
            features = {
                level: convolve(features[level], training=training)
                for level, convolve in zip(self.levels, outputs)
            }
        return (features, attention) if return_attention else features

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "context": self.context,
            "attention": self.attention,
            "attention_norm": self.attention_norm,
        }


@keras.utils.register_keras_serializable("efficientdet")
class FeaturePyramidAttention(keras.layers.Layer):
    """Feature pyramid attention (FPA): per-pixel weights from a small pyramid, plus global average.

    With m = C / 4, three maps v of half the size each, by kernels of 7, 5 and 3 pixels:

        u_3 = BN(Conv(v_3));  u_i = ReLU(BN(Conv(v_i)) + Up(u_i+1));  A = Conv1x1(Up(u_1))
        FPA(x) = BN(Conv1x1(x)) * A + BN(Conv1x1(GlobalAvgPool(x)))

    Args:
      num_filters: width C, a multiple of 4.
      conv_block: convolution block of all convolutions. Default: the profile "light".
    """

    def __init__(self, num_filters: int, conv_block: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_filters = num_filters
        self.conv_block = ConvBlock.from_value(conv_block)
        plain = dataclasses.replace(self.conv_block, activation=None)
        relu = dataclasses.replace(plain, activation="relu", order="conv_bn_act")
        kernels, width = (7, 5, 3), num_filters // 4

        def make(
            block: ConvBlock, filters: int, kernel_size: int, name: str, strides: int = 1
        ) -> keras.layers.Layer:
            block = dataclasses.replace(block, kernel_size=kernel_size)
            return block.build(filters, strides=strides, name=name)

        self.downs = [make(relu, width, k, f"down_{k}", strides=2) for k in kernels]
        self.laterals = [make(plain, width, k, f"lateral_{k}") for k in kernels]
        self.map_conv = make(self.conv_block, num_filters, 1, "map")
        self.main = make(plain, num_filters, 1, "main")
        self.average = make(plain, num_filters, 1, "average")

    def attention(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Return the attention map A of float [B, H, W, C], of the same shape."""
        size = tuple(x.shape[1:3])
        laterals = []
        for down, lateral in zip(self.downs, self.laterals):
            x = down(x, training=training)
            laterals.append(lateral(x, training=training))
        u = laterals[2]
        for y in laterals[1::-1]:
            u = tf.nn.relu(y + upsample_to(u, *y.shape[1:3]))
        return self.map_conv(upsample_to(u, *size), training=training)

    def call(self, x: tf.Tensor, attention: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Map float [B, H, W, C] and its attention map to the same shape."""
        context = self.average(average(x), training=training)
        return self.main(x, training=training) * attention + context

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_filters": self.num_filters,
            "conv_block": self.conv_block.to_dict(),
        }
