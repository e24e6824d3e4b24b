"""BiFPN: bidirectional feature pyramid network.

Tan, Pang, Le, "EfficientDet: Scalable and Efficient Object Detection", CVPR 2020,
https://arxiv.org/abs/1911.09070, section 3.
"""

import dataclasses
from typing import Any

import tf_keras as keras

from keras_layers.conv_block import ConvBlock
from keras_layers.fusion_graph import FusionGraph, Node, NodeTable
from keras_layers.options import check_bool


def bifpn_nodes(levels: list[int]) -> list[Node]:
    """Return the nodes of a BiFPN cell: a top-down path, then a bottom-up path.

    Inputs of a node are in the published order: the input of its level, the top-down
    node of its level, then the neighbour.

    Examples:
      >>> tuple(node[:2] for node in bifpn_nodes([3, 4, 5]))
      ((4, (1, 2)), (3, (0, 3)), (4, (1, 3, 4)), (5, (2, 5)))

    Args:
      levels: levels of the cell, ascending.
    """
    table = NodeTable(levels)
    for level in reversed(levels[:-1]):
        table.add(level, table.inputs[level], table.newest[level + 1])
    for level in levels[1:]:
        own = dict.fromkeys((table.inputs[level], table.newest[level]))
        table.add(level, *own, table.newest[level - 1])
    return table.nodes


@keras.utils.register_keras_serializable("efficientdet")
class BiFPN(FusionGraph):
    """Bidirectional feature pyramid network.

    Examples:
      >>> levels = {3: tf.ones([1, 8, 8, 40]), 4: tf.ones([1, 4, 4, 112])}
      >>> BiFPN(num_filters=64, num_repeats=2)(levels)[4].shape
      TensorShape([1, 4, 4, 64])

    Args:
      num_filters: width C of every level of the output. Default 64.
      num_repeats: number of cells, each with weights of its own. Default 3.
      fusion: fusion method, one of `keras_layers.feature_network.METHODS`. Default "fast".
      conv_block: convolution block, see `ConvBlock.from_value`. Default: the profile "light".
      conv_after_downsample: whether the level above the backbone's coarsest one is pooled
        before it is projected, which is cheaper. Default False.
      projection_norm: whether BatchNorm follows the 1x1 convolutions of the inputs, if
        `conv_block` has BatchNorm. Default True.

    Raises:
      ValueError: if a value is invalid; the message begins with the field's name.
    """

    # As published: levels 4 and 5 are projected twice, for their two nodes.
    projects_per_edge = True

    def __init__(
        self,
        *,
        num_filters: int = 64,
        num_repeats: int = 3,
        fusion: str = "fast",
        conv_block: Any = None,
        conv_after_downsample: bool = False,
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
        check_bool("conv_after_downsample", conv_after_downsample)
        self.conv_after_downsample = conv_after_downsample
        check_bool("projection_norm", projection_norm)
        self.projection_norm = projection_norm

    def make_nodes(self, levels: list[int]) -> list[Node]:
        return bifpn_nodes(levels)

    def projection_block(self) -> ConvBlock:
        norm = self.conv_block.norm and self.projection_norm
        return dataclasses.replace(self.conv_block, norm=norm)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "conv_after_downsample": self.conv_after_downsample,
            "projection_norm": self.projection_norm,
        }
