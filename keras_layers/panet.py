"""PAFPN: an FPN with bottom-up path augmentation; and the simplified PANet.

Liu, Qi, Qin, Shi, Jia, "Path Aggregation Network for Instance Segmentation", CVPR 2018,
https://arxiv.org/abs/1803.01534.
"""

import dataclasses
from typing import Any

import tf_keras as keras

from keras_layers.conv_block import ConvBlock
from keras_layers.fpn import add_top_down
from keras_layers.fusion_graph import FusionGraph, Node, NodeTable
from keras_layers.options import check_choice

DOWNSAMPLES = ("pool", "conv")
CHAINS = ("post", "pre")


@keras.utils.register_keras_serializable("efficientdet")
class PAFPN(FusionGraph):
    """Path aggregation network: a top-down path, then a bottom-up path.

    Args:
      num_filters: width C of every level of the output. Default 64.
      num_repeats: number of cells, each with weights of its own. Default 1.
      fusion: fusion method, one of `keras_layers.feature_network.METHODS`. Default "sum".
      conv_block: convolution block, see `ConvBlock.from_value`. Default: the profile "light".
      downsample: "conv" is the paper's cell: FPN's "lin2017" top-down path, then a bottom-up
        path with 3x3 convolutions of stride 2, with a ReLU after each convolution. "pool"
        is the cell repeated in EfficientDet's paper: FPN's "repeatable" top-down path, then
        max pooling, with the same blocks everywhere. Default "pool".
      chain: maps passed up in the bottom-up path: after ("post") or before ("pre") the
        convolution of the output. Default "post".

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
        downsample: str = "pool",
        chain: str = "post",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_filters=num_filters,
            num_repeats=num_repeats,
            fusion=fusion,
            conv_block=conv_block,
            **kwargs,
        )
        check_choice("downsample", downsample, DOWNSAMPLES)
        check_choice("chain", chain, CHAINS)
        self.downsample = downsample
        self.chain = chain

    def make_nodes(self, levels: list[int]) -> list[Node]:
        table = NodeTable(levels)
        is_paper = self.downsample == "conv"
        add_top_down(table, "lin2017" if is_paper else "repeatable")
        fields = {"downsample": "bottom_up"} if is_paper else {}
        block = "bottom_up" if is_paper else "main"
        finest, *others = levels
        below = table.newest[finest]
        # In the paper the finest output is the top-down path's.
        if not is_paper:
            output = table.add(finest, below)
            below = output if self.chain == "post" else below
        for level in others:
            if self.chain == "post":
                below = table.add(level, table.newest[level], below, block=block, **fields)
            else:
                below = table.add(level, table.newest[level], below, block=None, **fields)
                table.add(level, below, block=block)
        return table.nodes

    def conv_blocks(self) -> dict[str, ConvBlock]:
        bottom_up = dataclasses.replace(self.conv_block, activation="relu", order="conv_bn_act")
        return {"main": self.conv_block, "bottom_up": bottom_up}

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "downsample": self.downsample, "chain": self.chain}


@keras.utils.register_keras_serializable("efficientdet")
class SimplifiedPANet(FusionGraph):
    """Simplified PANet: PAFPN without nodes of a single input.

    Equal to BiFPN without the edges from the input to the output of the same level; Tan,
    Pang, Le, "EfficientDet", first version, https://arxiv.org/abs/1911.09070v1, figure 2.

    Args:
      num_filters: width C of every level of the output. Default 64.
      num_repeats: number of cells, each with weights of its own. Default 3.
      fusion: fusion method, one of `keras_layers.feature_network.METHODS`. Default "sum".
      conv_block: convolution block, see `ConvBlock.from_value`. Default: the profile "light".

    Raises:
      ValueError: if a value is invalid; the message begins with the field's name.
    """

    def __init__(
        self,
        *,
        num_filters: int = 64,
        num_repeats: int = 3,
        fusion: str = "sum",
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
        for level in reversed(levels[:-1]):
            table.add(level, table.inputs[level], table.newest[level + 1])
        for level in levels[1:]:
            table.add(level, table.newest[level], table.newest[level - 1])
        return table.nodes
