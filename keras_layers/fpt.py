"""FPT: feature pyramid transformer.

Zhang, Zhang, Tang, Wang, Hua, Sun, "Feature Pyramid Transformer", ECCV 2020,
https://arxiv.org/abs/2007.09451.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from keras_layers.attention import MixtureOfSoftmaxes, attend, products, to_positions
from keras_layers.batch_norm import batch_norm
from keras_layers.feature_network_layer import FeatureNetwork
from keras_layers.network_graph import Edge, NetworkGraph, Operation
from keras_layers.options import check_choice, check_integer, check_rate
from keras_layers.pooled_gate import PooledGate
from keras_layers.resample import Projection, pool_between
from keras_layers.stochastic_depth import DropBlock, Dropout

SIMILARITIES = ("euclidean", "dot")
# Positions of the largest map: level 3 of an image of 1024 x 1024 pixels.
MAX_QUERIES = 16_384

# As parts of a network's graph.
_SELF_TRANSFORMER = Operation("ST", "self-transformer: attention within the level")
_CONCATENATION = Operation("concat", "concatenation of the inputs")
_GROUNDING = "grounding transformer: attention of the finer level to the coarser one"
_RENDERING = "rendering transformer: the coarser level weighted by the reduced finer one"


@keras.utils.register_keras_serializable("efficientdet")
class FPT(FeatureNetwork):
    """Feature pyramid transformer: attention within levels and between them.

    With the projected input X:

        Pout_l = Conv(Concat(ST(X_l), GT(X_l, X_h) of all h > l, RT(X_l, X_f) of all f < l, X_l))

    ST is self-attention (`SelfTransformer`), GT is attention from a level to a coarser one
    (`GroundingTransformer`), RT weights a level by a finer one (`PooledGate`). The cost of
    attention grows with the fourth power of the image's side.

    Args:
      num_filters: width C of every level of the output; a multiple of twice `num_parts`.
        Default 64.
      num_repeats: 1, as the network is not repeated.
      fusion: unused, as maps are concatenated. Default "sum".
      conv_block: convolution block, see `ConvBlock.from_value`. Default: the profile "light".
      num_parts: number of softmaxes in the mixture of attention. Default 2.
      similarity: similarity of GT: "euclidean", the paper's, or "dot", the scalar product
        divided by the number of keys, without softmax, as in the published code.
        Default "euclidean".
      dropout: dropout rate of ST's attention weights, 0 or more, below 1. Default 0.1.
      local_window: side of the square of keys visible to a query of GT, in positions, odd; 0 is
        all keys. Default 0.
      max_positions: largest number of keys; larger maps are pooled to it. Default 4096.
      dropblock: DropBlock rate of the outputs, with squares of 3 pixels, 0 or more, below 1;
        the paper trains with 0.2. Default 0.

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
        num_parts: int = 2,
        similarity: str = "euclidean",
        dropout: float = 0.1,
        local_window: int = 0,
        max_positions: int = 4096,
        dropblock: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            num_filters=num_filters,
            num_repeats=num_repeats,
            fusion=fusion,
            conv_block=conv_block,
            **kwargs,
        )
        if num_repeats > 1:
            raise ValueError(f"num_repeats: {num_repeats} is above 1, and fpt is not repeated")
        check_choice("similarity", similarity, SIMILARITIES)
        for field, value in (("num_parts", num_parts), ("max_positions", max_positions)):
            check_integer(field, value)
        if num_filters % (2 * num_parts):
            raise ValueError(
                f"num_filters: {num_filters} is no multiple of twice num_parts, {2 * num_parts}"
            )
        for field, rate in (("dropout", dropout), ("dropblock", dropblock)):
            check_rate(field, rate)
        check_integer("local_window", local_window, least=0)
        if local_window and local_window % 2 == 0:
            raise ValueError(
                f"local_window: {local_window} is even; set an odd number, or 0 for all keys"
            )
        self.num_parts = num_parts
        self.similarity = similarity
        self.dropout = dropout
        self.local_window = local_window
        self.max_positions = max_positions
        self.dropblock = dropblock

    def build(self, input_shapes: Any) -> None:
        super().build(input_shapes)
        _check_queries(input_shapes)
        width, block = self.num_filters, self.conv_block
        pairs = list(itertools.combinations(self.levels, 2))
        self.projections = [
            Projection(width, block, name=f"projection_{level}") for level in self.levels
        ]
        self.self_transformers = [
            SelfTransformer(
                *(width, self.num_parts, self.dropout, self.max_positions), name=f"self_{level}"
            )
            for level in self.levels
        ]
        grounding = (width, self.num_parts, self.similarity, self.local_window)
        self.grounding_transformers = [
            GroundingTransformer(*(*grounding, self.max_positions), name=f"ground_{fine}_{coarse}")
            for fine, coarse in pairs
        ]
        self.reductions = [
            block.build(width, strides=2, name=f"reduce_{fine}_{coarse}") for fine, coarse in pairs
        ]
        self.rendering_transformers = [
            PooledGate(width, conv_block=block, name=f"render_{fine}_{coarse}")
            for fine, coarse in pairs
        ]
        self.outputs = [block.build(width, name=f"output_{level}") for level in self.levels]
        self.drops = [
            DropBlock(self.dropblock, name=f"{self.name}_dropblock_{level}")
            for level in self.levels
        ]

    def extend_graph(self, graph: NetworkGraph) -> None:
        for level, projection in zip(self.levels, self.projections):
            projection.add_to_graph(graph, level)
        graph.begin_stage("FPT")
        x = dict(graph.newest)
        edges: dict[int, list[Edge]] = {}
        layers: dict[int, list[keras.layers.Layer]] = {}
        for level, transform in zip(self.levels, self.self_transformers):
            own = graph.add(level, [_SELF_TRANSFORMER], [Edge(x[level])], [transform])
            edges[level], layers[level] = [Edge(own)], []
        for index, (fine, coarse) in enumerate(itertools.combinations(self.levels, 2)):
            edges[fine].append(Edge(x[coarse], _GROUNDING))
            layers[fine].append(self.grounding_transformers[index])
            edges[coarse].append(Edge(x[fine], _RENDERING))
            layers[coarse] += [self.reductions[index], self.rendering_transformers[index]]
        for level, convolve in zip(self.levels, self.outputs):
            operations = [_CONCATENATION, convolve.conv_block.operation()]
            inputs, parts = [*edges[level], Edge(x[level])], [*layers[level], convolve]
            graph.add(level, operations, inputs, parts)

    def call(
        self, features: dict[int, tf.Tensor], training: bool | None = None
    ) -> dict[int, tf.Tensor]:
        """Fuse, as `FusionGraph.call`."""
        x = {
            level: project(features[level], training=training)
            for level, project in zip(self.levels, self.projections)
        }
        parts = {
            level: [transform(x[level], training=training)]
            for level, transform in zip(self.levels, self.self_transformers)
        }
        for index, (fine, coarse) in enumerate(itertools.combinations(self.levels, 2)):
            ground = self.grounding_transformers[index]
            parts[fine].append(ground((x[fine], x[coarse]), training=training))
            reduced = pool_between(x[fine], x, fine, coarse)
            reduced = self.reductions[index](reduced, training=training)
            render = self.rendering_transformers[index]
            parts[coarse].append(render((x[fine], reduced, x[coarse]), training=training))
        outputs = {}
        for level, convolve, drop in zip(self.levels, self.outputs, self.drops):
            fused = convolve(tf.concat([*parts[level], x[level]], axis=-1), training=training)
            outputs[level] = drop(fused, training=training)
        return outputs

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_parts": self.num_parts,
            "similarity": self.similarity,
            "dropout": self.dropout,
            "local_window": self.local_window,
            "max_positions": self.max_positions,
            "dropblock": self.dropblock,
        }


def _check_queries(input_shapes: dict[int, tf.TensorShape]) -> None:
    for level, shape in input_shapes.items():
        if shape[1] * shape[2] > MAX_QUERIES:
            raise ValueError(
                f"features: level {level} has {shape[1]}x{shape[2]} positions, more than the "
                f"{MAX_QUERIES} that attention supports; set a smaller image"
            )


@keras.utils.register_keras_serializable("efficientdet")
class SelfTransformer(keras.layers.Layer):
    """Self-transformer (ST): x + BN(W_o(A W_v(Pool(x)))), A: attention of W_q(x) to W_q(Pool(x)).

    Pool is 3x3 average pooling with stride 2.

    Args:
      num_filters: width C.
      num_parts: number of softmaxes.
      dropout: dropout rate of A.
      max_positions: largest number of keys; larger maps are pooled to it.
    """

    def __init__(
        self, num_filters: int, num_parts: int, dropout: float, max_positions: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.num_filters = num_filters
        self.num_parts = num_parts
        self.dropout = dropout
        self.max_positions = max_positions
        self.query_conv = keras.layers.Conv2D(num_filters, 1, name="query")
        self.value_conv = keras.layers.Conv2D(num_filters, 1, name="value")
        self.output_conv = keras.layers.Conv2D(num_filters, 1, use_bias=False, name="output")
        self.norm = batch_norm("bn")
        self.mixture = MixtureOfSoftmaxes(num_parts, "scaled_dot", name="mixture")
        self.drop = Dropout(dropout, name=f"{self.name}_dropout")

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Map float [B, H, W, C] to the same shape."""
        pooled = _pool_keys(_halve(x), self.max_positions)
        queries, keys = self.query_conv(x), self.query_conv(pooled)
        attention = self.mixture([to_positions(queries), to_positions(keys)])
        attention = self.drop(attention, training=training)
        values = attend(attention, to_positions(self.value_conv(pooled)), like=x)
        return x + self.norm(self.output_conv(values), training=training)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_filters": self.num_filters,
            "num_parts": self.num_parts,
            "dropout": self.dropout,
            "max_positions": self.max_positions,
        }


@keras.utils.register_keras_serializable("efficientdet")
class GroundingTransformer(keras.layers.Layer):
    """Grounding transformer (GT): BN(W_z(A g(coarse))), A: attention of theta(fine) to phi(coarse).

    The scale of the BatchNorm, and thus the output, is initially zero.

    Args:
      num_filters: width C of both maps and the output; that of queries and keys is C/2.
      num_parts: number of softmaxes.
      similarity: one of `SIMILARITIES`.
      local_window: side of the square of keys visible to a query; 0 is all keys.
      max_positions: largest number of keys; larger maps are pooled to it.
    """

    def __init__(
        self,
        num_filters: int,
        num_parts: int,
        similarity: str,
        local_window: int,
        max_positions: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_filters = num_filters
        self.num_parts = num_parts
        self.similarity = similarity
        self.local_window = local_window
        self.max_positions = max_positions
        self.theta, self.phi, self.g = (
            keras.layers.Conv2D(num_filters // 2, 1, name=name) for name in ("theta", "phi", "g")
        )
        self.output_conv = keras.layers.Conv2D(num_filters, 1, name="output")
        self.norm = batch_norm("bn", gamma_initializer="zeros")
        self.mixture = None
        if similarity == "euclidean":
            self.mixture = MixtureOfSoftmaxes(num_parts, "euclidean", name="mixture")

    def call(self, inputs: Sequence[tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Map (float [B, H, W, C], coarser float [B, h, w, C]) to float [B, H, W, C]."""
        fine, coarse = inputs
        coarse = _pool_keys(coarse, self.max_positions)
        is_seen = None
        if self.local_window:
            is_seen = local_windows(fine.shape[1:3], coarse.shape[1:3], self.local_window)
        queries, keys = to_positions(self.theta(fine)), to_positions(self.phi(coarse))
        if self.mixture is not None:
            attention = self.mixture([queries, keys], is_seen=is_seen)
        else:
            attention = products(queries, keys) / keys.shape[1]
            attention *= 1.0 if is_seen is None else tf.cast(is_seen, tf.float32)
        values = attend(attention, to_positions(self.g(coarse)), like=fine)
        return self.norm(self.output_conv(values), training=training)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_filters": self.num_filters,
            "num_parts": self.num_parts,
            "similarity": self.similarity,
            "local_window": self.local_window,
            "max_positions": self.max_positions,
        }


def local_windows(queries: tuple[int, int], keys: tuple[int, int], side: int) -> np.ndarray:
    """Return the mask of keys near the projection of a query to their map.

    Args:
      queries, keys: (height, width) of the maps, in positions.
      side: side of the square of keys around the projection, in positions, odd.

    Returns:
      Bool [height * width of the queries, height * width of the keys].
    """
    near = []
    for num_queries, num_keys in zip(queries, keys):
        centers = np.arange(num_queries) * num_keys // num_queries
        near.append(abs(centers[:, None] - np.arange(num_keys)) <= side // 2)
    rows, columns = near
    both = rows[:, None, :, None] & columns[None, :, None, :]
    return both.reshape(rows.shape[0] * columns.shape[0], -1)


def _halve(x: tf.Tensor) -> tf.Tensor:
    return tf.nn.avg_pool2d(x, 3, 2, "SAME")


def _pool_keys(x: tf.Tensor, max_positions: int) -> tf.Tensor:
    while x.shape[1] * x.shape[2] > max_positions:
        x = _halve(x)
    return x
