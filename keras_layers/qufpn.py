"""QuFPN: quad feature pyramid network.

A contribution to the published implementation of EfficientDet,
https://github.com/google/automl/pull/580.
"""

from typing import Any

import tf_keras as keras

from keras_layers.fusion_graph import FusionGraph, Node, NodeTable


@keras.utils.register_keras_serializable("efficientdet")
class QuFPN(FusionGraph):
    """Quad feature pyramid network: a BiFPN cell, its mirror image, and their fusion.

    Four paths over the same inputs: top-down then bottom-up, as in BiFPN, and bottom-up then
    top-down. A last node, always "fast", fuses the two results of each level.

    Args:
      num_filters: width C of every level of the output. Default 64.
      num_repeats: number of cells, each with weights of its own. Default 3.
      fusion: fusion method of the four paths, one of `METHODS` of
        `keras_layers.feature_network`. Default "fast".
      conv_block: convolution block, see `ConvBlock.from_value`. Default: the profile "light".

    Raises:
      ValueError: if a value is invalid; the message begins with the field's name.
    """

    projects_per_edge = True

    def __init__(
        self,
        *,
        num_filters: int = 64,
        num_repeats: int = 3,
        fusion: str = "fast",
        conv_block: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_filters=num_filters,
            num_repeats=num_repeats,
            fusion=fusion,
            conv_block=conv_block,
            **kwargs,
        )

    def make_nodes(self, levels: list[int]) -> list[Node]:
        table = NodeTable(levels)
        down_up = _add_two_paths(table, levels[::-1])
        up_down = _add_two_paths(table, levels)
        for level in reversed(levels):
            table.add(level, down_up[level], up_down[level], fusion="fast")
        return table.nodes


def _add_two_paths(table: NodeTable, levels: list[int]) -> dict[int, int]:
    """Add a path from the first level to the last and back; return {level: id}."""
    first, *others = levels
    newest = {first: table.inputs[first]}
    for previous, level in zip(levels, others):
        newest[level] = table.add(level, table.inputs[level], newest[previous])
    back = levels[::-1]
    for previous, level in zip(back, back[1:]):
        own = dict.fromkeys((table.inputs[level], newest[level]))
        newest[level] = table.add(level, *own, newest[previous])
    return newest
