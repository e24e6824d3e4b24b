"""BFP: balanced feature pyramid.

Pang, Chen, Shi, Feng, Ouyang, Lin, "Libra R-CNN: Towards Balanced Learning for Object
Detection", CVPR 2019, https://arxiv.org/abs/1904.02701.
"""

import functools
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras as keras
from absl import logging

from keras_layers.attention import attend, products, to_positions
from keras_layers.feature_network_layer import NestedFeatureNetwork
from keras_layers.fusion import fusion_operation
from keras_layers.network_graph import Edge, NetworkGraph, Operation, resampling
from keras_layers.options import check_bool, check_choice
from keras_layers.resample import adaptive_max_pool_to, upsample_to

REFINEMENTS = ("non_local", "conv", "none")
# With more positions, attention needs more than 64 MiB per image.
MANY_POSITIONS = 4096

_POOL = "adaptively max-pooled"
_NON_LOCAL = "non-local block: every position attends to all positions"


@keras.utils.register_keras_serializable("efficientdet")
class BFP(NestedFeatureNetwork):
    """Balanced feature pyramid: the mean of all levels, refined, is added to each level.

    With the base pyramid x and the integration level m:

        b = mean over l of Resize(x_l to m);  Pout_l = x_l + Resize(Refine(b) to l)

    Resize is adaptive max pooling to coarser levels, nearest-neighbour to finer ones.

    Args:
      num_filters: width C of every level of the output. Default 64.
      num_repeats: number of cells of the base. Default 1.
      fusion: fusion method of the base, one of `METHODS` of
        `keras_layers.feature_network`. Default "sum".
      conv_block: convolution block, see `ConvBlock.from_value`. Default: the profile "light".
      base: name of the feature network of the base pyramid. Default "fpn".
      base_options: options of the base. Default none.
      level: the integration level m. Default 4.
      refine: "non_local" attention, a "conv" block, or "none". Default "non_local".
      embedded: whether queries and keys of "non_local" are convolved. Default True.
      scale_logits: whether the logits of "non_local" are divided by sqrt(C). Default False.

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
        base: str = "fpn",
        base_options: Mapping[str, Any] | None = None,
        level: int = 4,
        refine: str = "non_local",
        embedded: bool = True,
        scale_logits: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_filters=num_filters,
            num_repeats=num_repeats,
            fusion=fusion,
            conv_block=conv_block,
            base=base,
            base_options=base_options,
            **kwargs,
        )
        check_choice("refine", refine, REFINEMENTS)
        self.level = level
        self.refine = refine
        check_bool("embedded", embedded)
        self.embedded = embedded
        check_bool("scale_logits", scale_logits)
        self.scale_logits = scale_logits
        self.refinement = None
        if refine == "non_local":
            self.refinement = NonLocal(num_filters, embedded, scale_logits, name="refine")
        elif refine == "conv":
            self.refinement = self.conv_block.build(num_filters, name="refine")

    def build(self, input_shapes: Any) -> None:
        super().build(input_shapes)
        check_choice("level", self.level, self.levels)

    def extend_graph(self, graph: NetworkGraph) -> None:
        self.pyramid.extend_graph(graph)
        graph.begin_stage("BFP")
        newest = dict(graph.newest)
        edges = [
            Edge(source, resampling(level, self.level, _POOL)) for level, source in newest.items()
        ]
        mean = Operation("mean", "mean of the inputs")
        balanced = graph.add(self.level, [mean], edges)
        if self.refinement is not None:
            operation = Operation("non-local", _NON_LOCAL)
            if self.refine == "conv":
                operation = self.conv_block.operation()
            balanced = graph.add(self.level, [operation], [Edge(balanced)], [self.refinement])
        for level, source in newest.items():
            resized = Edge(balanced, resampling(self.level, level, _POOL))
            graph.add(level, [fusion_operation("sum")], [Edge(source), resized])

    def call(
        self, features: dict[int, tf.Tensor], training: bool | None = None
    ) -> dict[int, tf.Tensor]:
        """Fuse; see `FusionGraph.call`."""
        features = self.pyramid(features, training=training)
        size = tuple(features[self.level].shape[1:3])
        if self.refine == "non_local" and size[0] * size[1] > MANY_POSITIONS:
            logging.log_first_n(
                logging.WARNING,
                "bfp: attention over %d x %d positions of level %d; choose a higher level to save "
                "memory",
                1,
                *size,
                self.level,
            )
        balanced = functools.reduce(tf.add, [_resize(x, *size) for x in features.values()])
        balanced /= len(features)
        if self.refinement is not None:
            balanced = self.refinement(balanced, training=training)
        return {level: x + _resize(balanced, *x.shape[1:3]) for level, x in features.items()}

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "level": self.level,
            "refine": self.refine,
            "embedded": self.embedded,
            "scale_logits": self.scale_logits,
        }


def _resize(x: tf.Tensor, height: int, width: int) -> tf.Tensor:
    is_coarser = x.shape[1] < height or x.shape[2] < width
    return upsample_to(x, height, width) if is_coarser else adaptive_max_pool_to(x, height, width)


@keras.utils.register_keras_serializable("efficientdet")
class NonLocal(keras.layers.Layer):
    """Gaussian non-local block: every position attends to all positions.

    x + Conv1x1(softmax(theta(x) phi(x)^T) g(x)); the last convolution is initially zero.
    Wang, Girshick, Gupta, He, "Non-local Neural Networks", CVPR 2018,
    https://arxiv.org/abs/1711.07971.

    Args:
      num_filters: width C.
      embedded: whether theta and phi are 1x1 convolutions, or the identity. Default True.
      scale_logits: whether logits are divided by sqrt(C). Default False.
    """

    def __init__(
        self, num_filters: int, embedded: bool = True, scale_logits: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_filters = num_filters
        self.embedded = bool(embedded)
        self.scale_logits = bool(scale_logits)
        self.theta = keras.layers.Conv2D(num_filters, 1, name="theta") if embedded else None
        self.phi = keras.layers.Conv2D(num_filters, 1, name="phi") if embedded else None
        self.g = keras.layers.Conv2D(num_filters, 1, name="g")
        self.output_conv = keras.layers.Conv2D(
            num_filters, 1, kernel_initializer="zeros", name="output"
        )

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Map float [B, H, W, C] to the same shape, in training and inference."""
        del training
        return x + self.output_conv(attend(self.attention(x), to_positions(self.g(x)), like=x))

    def attention(self, x: tf.Tensor) -> tf.Tensor:
        """Compute attention weights between positions: float32 [B, H * W, H * W]."""
        queries = self.theta(x) if self.theta is not None else x
        keys = self.phi(x) if self.phi is not None else x
        logits = products(to_positions(queries), to_positions(keys))
        return tf.nn.softmax(logits / self.num_filters**0.5 if self.scale_logits else logits)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_filters": self.num_filters,
            "embedded": self.embedded,
            "scale_logits": self.scale_logits,
        }
