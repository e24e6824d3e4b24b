"""ASFF: adaptively spatial feature fusion.

Liu, Huang, Wang, "Learning Spatial Fusion for Single-Shot Object Detection", 2019,
https://arxiv.org/abs/1911.09516, for any number of levels of equal width.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_layers.conv_block import ConvBlock
from keras_layers.feature_network_layer import NestedFeatureNetwork
from keras_layers.network_graph import Edge, NetworkGraph, Operation, resampling
from keras_layers.options import check_choice, check_integer
from keras_layers.resample import pool_between, upsample_to

SOURCES = ("all", "adjacent")


@keras.utils.register_keras_serializable("efficientdet")
class ASFF(NestedFeatureNetwork):
    """Adaptively spatial feature fusion: per-pixel weighted sum of all levels.

    With the base pyramid x, and r_n the map of level n at the size of the target level l:

        w = softmax over n of Conv1x1(Concat over n of Conv1x1(r_n)), for each pixel
        Pout_l = Conv(sum over n of w_n r_n)

    Coarser maps are upsampled. Finer maps are max-pooled level by level to the level below the
    target, then convolved with stride 2.

    Args:
      num_filters: width C of every level of the output. Default 64.
      num_repeats: number of cells of the base. Default 1.
      fusion: fusion method of the base, one of `METHODS` of
        `keras_layers.feature_network`. Default "sum".
      conv_block: convolution block, see `ConvBlock.from_value`. Default: the profile "light".
      base: name of the feature network of the base pyramid. Default "fpn".
      base_options: options of the base. Default none.
      sources: levels fused at a level: "all", or itself and the "adjacent" ones.
        Default "all".
      weight_filters: width of the maps from which the weights are computed. Default 16.

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
        sources: str = "all",
        weight_filters: int = 16,
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
        check_choice("sources", sources, SOURCES)
        check_integer("weight_filters", weight_filters)
        self.sources = sources
        self.weight_filters = weight_filters

    def build(self, input_shapes: Any) -> None:
        super().build(input_shapes)
        reach = 1 if self.sources == "adjacent" else len(self.levels)
        self.fusions = [
            SpatialFusion(
                level,
                [source for source in self.levels if abs(source - level) <= reach],
                self.num_filters,
                self.weight_filters,
                self.conv_block,
                name=f"level_{level}",
            )
            for level in self.levels
        ]

    def extend_graph(self, graph: NetworkGraph) -> None:
        self.pyramid.extend_graph(graph)
        graph.begin_stage("ASFF")
        newest = dict(graph.newest)
        for fuse in self.fusions:
            edges = [Edge(newest[source], fuse.edge_operation(source)) for source in fuse.sources]
            graph.add(fuse.level, fuse.operations(), edges, [fuse])

    def call(
        self, features: dict[int, tf.Tensor], training: bool | None = None
    ) -> dict[int, tf.Tensor]:
        """Fuse; see `FusionGraph.call`."""
        features = self.pyramid(features, training=training)
        return {
            level: fuse(features, training=training) for level, fuse in zip(features, self.fusions)
        }

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "sources": self.sources,
            "weight_filters": self.weight_filters,
        }


@keras.utils.register_keras_serializable("efficientdet")
class SpatialFusion(keras.layers.Layer):
    """Fusion at one level of `ASFF`.

    Args:
      level: the target level.
      sources: the fused levels, including the target.
      num_filters: width C.
      weight_filters: width of the maps from which the weights are computed. Default 16.
      conv_block: convolution block, see `ConvBlock.from_value`. Default: the profile "light".
    """

    def __init__(
        self,
        level: int,
        sources: list[int],
        num_filters: int,
        weight_filters: int = 16,
        conv_block: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.level = level
        self.sources = tuple(sources)
        self.num_filters = num_filters
        self.weight_filters = weight_filters
        self.conv_block = ConvBlock.from_value(conv_block)
        pointwise = dataclasses.replace(self.conv_block, kernel_size=1)
        self.reductions = [
            self.conv_block.build(num_filters, strides=2, name=f"reduce_{source}")
            for source in self.sources
            if source < level
        ]
        self.weight_convs = [
            pointwise.build(weight_filters, name=f"weight_{source}") for source in self.sources
        ]
        self.mix = keras.layers.Conv2D(len(self.sources), 1, name="mix")
        self.output_block = self.conv_block.build(num_filters, name="output")

    def operations(self) -> list[Operation]:
        """Return the operations of the node in a network's graph."""
        meaning = "sum of softmax(w) x, with a weight w of each input x and pixel"
        return [Operation("per pixel", meaning), self.conv_block.operation()]

    def edge_operation(self, source: int) -> str:
        """Return what brings a level to the size of the target, in one line."""
        down = self.conv_block.describe(strides=2)
        if self.level - source > 1:
            down = f"max-pooled level by level to level {self.level - 1}, then {down}"
        return resampling(source, self.level, down)

    def resized(
        self, features: dict[int, tf.Tensor], training: bool | None = None
    ) -> list[tf.Tensor]:
        """Return the maps of the sources at the size of the target."""
        maps = []
        for index, source in enumerate(self.sources):
            x = features[source]
            if source < self.level:
                x = pool_between(x, features, source, self.level)
                x = self.reductions[index](x, training=training)
            elif source > self.level:
                x = upsample_to(x, *features[self.level].shape[1:3])
            maps.append(x)
        return maps

    def weights_of(self, maps: list[tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Return the weights of resized maps for each pixel: float32 [B, H, W, sources]."""
        parts = [conv(x, training=training) for conv, x in zip(self.weight_convs, maps)]
        return tf.nn.softmax(tf.cast(self.mix(tf.concat(parts, axis=-1)), tf.float32))

    def call(
        self, features: dict[int, tf.Tensor], training: bool | None = None
    ) -> dict[int, tf.Tensor]:
        """Fuse {level: float [B, H_l, W_l, C]} to float [B, H, W, C] of the target."""
        maps = self.resized(features, training)
        weights = tf.cast(self.weights_of(maps, training), maps[0].dtype)
        weighted = [x * weights[..., i : i + 1] for i, x in enumerate(maps)]
        return self.output_block(functools.reduce(tf.add, weighted), training=training)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "level": self.level,
            "sources": self.sources,
            "num_filters": self.num_filters,
            "weight_filters": self.weight_filters,
            "conv_block": self.conv_block.to_dict(),
        }
