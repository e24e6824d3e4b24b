"""Fully-connected feature network: every output level fuses all input levels.

A baseline of Tan, Pang, Le, "EfficientDet: Scalable and Efficient Object Detection", CVPR 2020,
https://arxiv.org/abs/1911.09070, table 5.
"""

from typing import Any

import tf_keras as keras

from keras_layers.fusion_graph import FusionGraph, Node, NodeTable
from keras_layers.options import check_bool


@keras.utils.register_keras_serializable("efficientdet")
class FullyConnected(FusionGraph):
    """Fully-connected feature network: Pout_l = Conv(sum over k of Resize(Pin_k to l)).

    Args:
      num_filters: width C of every level of the output. Default 64.
      num_repeats: number of cells, each with weights of its own. Default 1.
      fusion: fusion method, one of `keras_layers.feature_network.METHODS`. Default "sum".
      conv_block: convolution block, see `ConvBlock.from_value`. Default: the profile "light".
      conv_after_downsample: whether maps are pooled before they are projected, which is
        cheaper. Default False.

    Raises:
      ValueError: if a value is invalid; the message begins with the field's name.
    """

    projects_per_edge = True

    def __init__(
        self,
        *,
        num_filters: int = 64,
        num_repeats: int = 1,
        fusion: str = "sum",
        conv_block: Any = None,
        conv_after_downsample: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_filters=num_filters,
            num_repeats=num_repeats,
            fusion=fusion,
            conv_block=conv_block,
            **kwargs,
        )
        check_bool("conv_after_downsample", conv_after_downsample)
        self.conv_after_downsample = conv_after_downsample

    def make_nodes(self, levels: list[int]) -> list[Node]:
        table = NodeTable(levels)
        for level in levels:
            table.add(level, *table.inputs.values())
        return table.nodes

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "conv_after_downsample": self.conv_after_downsample}
