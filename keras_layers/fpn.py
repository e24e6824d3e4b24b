"""FPN: feature pyramid network.

Lin, Dollár, Girshick, He, Hariharan, Belongie, "Feature Pyramid Networks for Object
Detection", CVPR 2017, https://arxiv.org/abs/1612.03144.
"""

import dataclasses
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_layers.conv_block import ConvBlock
from keras_layers.feature_network import TOP_LEVEL
from keras_layers.fusion_graph import FusionGraph, Node, NodeTable
from keras_layers.network_graph import Edge, NetworkGraph
from keras_layers.options import check_bool, check_choice

VARIANTS = ("repeatable", "lin2017")
COARSE_LEVELS = ("pooled", "strided")
SOURCES = ("output", "input")


def add_top_down(table: NodeTable, variant: str) -> None:
    """Add a top-down path, from the coarsest level to the finest.

    Args:
      table: table of a cell, without nodes.
      variant: "repeatable" passes convolved maps down; "lin2017" passes the sums, and
        convolves them afterwards.
    """
    levels = sorted(table.inputs)
    top = levels[-1]
    if variant == "repeatable":
        table.add(top, table.inputs[top])
        for level in reversed(levels[:-1]):
            table.add(level, table.inputs[level], table.newest[level + 1])
        return
    for level in reversed(levels[:-1]):
        table.add(level, table.inputs[level], table.newest[level + 1], block=None)
    for level in levels:
        table.add(level, table.newest[level])


@keras.utils.register_keras_serializable("efficientdet")
class FPN(FusionGraph):
    """Feature pyramid network: one top-down path.

    The published network is `num_repeats=1, fusion="sum", variant="lin2017"` with
    `conv_block={"separable": False, "norm": False, "activation": None}`; RetinaNet's has
    `coarse_levels="strided"` besides.

    Args:
      num_filters: width C of every level of the output. Default 64.
      num_repeats: number of cells, each with weights of its own. Default 1.
      fusion: fusion method, one of `keras_layers.feature_network.METHODS`. Default "sum".
      conv_block: convolution block, see `ConvBlock.from_value`. Default: the profile "light".
      variant: "repeatable" passes convolved maps down; "lin2017" passes the sums.
        Default "repeatable".
      coarse_levels: "pooled" fuses the given levels above 5; "strided" computes them from
        level 5 by 3x3 convolutions with stride 2, and the path begins at level 5.
        Default "pooled".
      source: source of "strided" levels: the "output" or the "input" of level 5.
        Default "output".
      projection_norm: whether BatchNorm follows the 1x1 convolutions of the inputs, if
        `conv_block` has BatchNorm. Default True.

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
        variant: str = "repeatable",
        coarse_levels: str = "pooled",
        source: str = "output",
        projection_norm: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_filters=num_filters,
            num_repeats=num_repeats,
            fusion=fusion,
            conv_block=conv_block,
            **kwargs,
        )
        check_choice("variant", variant, VARIANTS)
        check_choice("coarse_levels", coarse_levels, COARSE_LEVELS)
        check_choice("source", source, SOURCES)
        self.variant = variant
        self.coarse_levels = coarse_levels
        self.source = source
        check_bool("projection_norm", projection_norm)
        self.projection_norm = projection_norm

    @property
    def reads_extra_levels(self) -> bool:  # type: ignore[override]
        return self.coarse_levels == "pooled"

    def make_nodes(self, levels: list[int]) -> list[Node]:
        table = NodeTable(levels)
        add_top_down(table, self.variant)
        return table.nodes

    def projection_block(self) -> ConvBlock:
        norm = self.conv_block.norm and self.projection_norm
        return dataclasses.replace(self.conv_block, norm=norm)

    def fused_levels(self) -> list[int]:
        if self.reads_extra_levels:
            return self.levels
        return [level for level in self.levels if level <= TOP_LEVEL]

    def build(self, input_shapes: dict[int, tf.TensorShape]) -> None:
        super().build(input_shapes)
        # RetinaNet's convolutions are preceded only by the ReLU in `call`.
        block = dataclasses.replace(self.conv_block, activation=None)
        self.coarse_convs = [
            block.build(self.num_filters, strides=2, name=f"coarse_{level}")
            for level in self.levels
            if level not in self.fused_levels()
        ]

    def extend_graph(self, graph: NetworkGraph) -> None:
        top = self.fused_levels()[-1]
        source = graph.newest[top]
        super().extend_graph(graph)
        if self.source == "output":
            source = graph.newest[top]
        if self.coarse_convs:
            graph.begin_stage("coarse levels")
        for number, conv in enumerate(self.coarse_convs):
            operation = conv.conv_block.operation()
            meaning = conv.conv_block.describe(strides=2)
            edge = Edge(source, "downsampled by the convolution" + (", after ReLU" * bool(number)))
            source = graph.add(
                top + 1 + number, [operation._replace(meaning=meaning)], [edge], [conv]
            )

    def call(
        self, features: dict[int, tf.Tensor], training: bool | None = None
    ) -> dict[int, tf.Tensor]:
        """Fuse; see `FusionGraph.call`."""
        outputs = super().call(features, training=training)
        level = max(outputs)
        x = outputs[level] if self.source == "output" else features[level]
        for number, conv in enumerate(self.coarse_convs):
            x = conv(tf.nn.relu(x) if number else x, training=training)
            outputs[level + 1 + number] = x
        return outputs

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "variant": self.variant,
            "coarse_levels": self.coarse_levels,
            "source": self.source,
            "projection_norm": self.projection_norm,
        }
