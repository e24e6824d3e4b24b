"""EFM: exact fusion model.

Wang, Liao, Yeh, Wu, Chen, Hsieh, "CSPNet: A New Backbone that can Enhance Learning Capability
of CNN", CVPR Workshops 2020, https://arxiv.org/abs/1911.11929. No implementation is public:
widths and the grouping of Maxout are ours.
"""

from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_layers.feature_network import TOP_LEVEL
from keras_layers.fusion import COMPRESSIONS
from keras_layers.fusion_graph import FusionGraph, Node, NodeTable
from keras_layers.network_graph import Edge, NetworkGraph, Operation
from keras_layers.options import check_bool, check_choice
from keras_layers.resample import Projection

# Kernel sizes of `spp`.
SPP_KERNELS = (5, 9, 13)


@keras.utils.register_keras_serializable("efficientdet")
class EFM(FusionGraph):
    """Exact fusion model: Maxout fusion of each level and its two neighbours.

        Pout_l = Conv(Maxout(Concat over k in {l - 1, l, l + 1} of Resize(Pin_k to l)))

    Args:
      num_filters: width C of every level of the output. Default 64.
      num_repeats: number of cells; each extends the reach by one level. Default 1.
      fusion: unused, see `compress`. Default "sum".
      conv_block: convolution block, see `ConvBlock.from_value`. Default: the profile "light".
      compress: compression of the concatenation to width C, one of
        `keras_layers.fusion.COMPRESSIONS`. Default "maxout".
      spp: whether level 5 is first concatenated with its max pools of 5x5, 9x9 and 13x13
        pixels, and projected to width C. Default False.

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
        compress: str = "maxout",
        spp: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_filters=num_filters,
            num_repeats=num_repeats,
            fusion=fusion,
            conv_block=conv_block,
            **kwargs,
        )
        check_choice("compress", compress, COMPRESSIONS)
        self.compress = compress
        check_bool("spp", spp)
        self.spp = spp
        self.spp_projection = None
        if spp:
            self.spp_projection = Projection(num_filters, self.conv_block, name="spp")

    def make_nodes(self, levels: list[int]) -> list[Node]:
        table = NodeTable(levels)
        for level in levels:
            near = [i for other, i in table.inputs.items() if abs(other - level) <= 1]
            table.add(level, *near, fusion=self.compress)
        return table.nodes

    def extend_with_inputs(self, graph: NetworkGraph) -> None:
        super().extend_with_inputs(graph)
        if self.spp_projection is not None:
            meaning = "concatenation with max pools of 5, 9 and 13 pixels, 1x1 convolution"
            graph.begin_stage("SPP")
            edge = Edge(graph.newest[TOP_LEVEL])
            graph.add(TOP_LEVEL, [Operation("SPP", meaning)], [edge], [self.spp_projection])

    def project(
        self, features: dict[int, tf.Tensor], training: bool | None = None
    ) -> dict[int, tf.Tensor]:
        """Return the inputs of the first cell."""
        features = super().project(features, training)
        if self.spp_projection is not None:
            x = features[TOP_LEVEL]
            pools = [tf.nn.max_pool2d(x, kernel, 1, "SAME") for kernel in SPP_KERNELS]
            x = self.spp_projection(tf.concat([x, *pools], axis=-1), training=training)
            features[TOP_LEVEL] = x
        return features

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "compress": self.compress, "spp": self.spp}
