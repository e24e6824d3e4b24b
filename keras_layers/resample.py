"""Resampling and projection of feature maps to a level's size and width."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_layers.batch_norm import batch_norm
from keras_layers.conv_block import ConvBlock
from keras_layers.network_graph import NetworkGraph, Operation

POOL_KERNELS = ("s+1", "s")


def max_pool_to(x: tf.Tensor, height: int, width: int, pool_kernel: str = "s+1") -> tf.Tensor:
    """Max-pool float [B, H, W, C] down to (height, width).

    The stride s is the smallest that reaches the size; an axis of that size is unchanged.
    `pool_kernel` is the kernel size, one of `POOL_KERNELS`: "s+1" as in EfficientDet, "s" as
    in NAS-FPN.
    """
    strides = [(x.shape[1] - 1) // height + 1, (x.shape[2] - 1) // width + 1]
    overlap = 1 if pool_kernel == "s+1" else 0
    kernel = [stride + overlap if stride > 1 else 1 for stride in strides]
    return tf.nn.max_pool2d(x, kernel, strides, "SAME")


def pool_between(
    x: tf.Tensor, features: Mapping[int, tf.Tensor], source: int, level: int
) -> tf.Tensor:
    """Max-pool from level `source`, level by level, to the level below `level`."""
    for between in range(source + 1, level):
        x = max_pool_to(x, *features[between].shape[1:3])
    return x


def adaptive_max_pool_to(x: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Adaptively max-pool float [B, H, W, C] down to (height, width).

    Row i is the maximum of rows floor(i * H / height) to ceil((i + 1) * H / height), columns
    likewise: kernel and stride H / height if that is an integer.
    """
    for axis, size in ((1, height), (2, width)):
        if x.shape[axis] != size:
            bins = _bins(x.shape[axis], size)
            x = tf.reduce_max(tf.gather(x, bins, axis=axis), axis=axis + 1)
    return x


def _bins(source_size: int, size: int) -> list[list[int]]:
    """Return the source positions of each of `size` bins, padded by repeating the last."""
    starts = [index * source_size // size for index in range(size)]
    ends = [-(-(index + 1) * source_size // size) for index in range(size)]
    longest = max(end - start for start, end in zip(starts, ends))
    return [[min(start + i, end - 1) for i in range(longest)] for start, end in zip(starts, ends)]


def upsample_to(x: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Upsample float [B, H, W, C] to (height, width) by nearest neighbour.

    Source row = floor(row * H / height), columns likewise: without the
    half-pixel shift of newer image operations.
    """
    shape = x.shape

    @tf.custom_gradient
    def upsample(x: tf.Tensor) -> tf.Tensor:
        # XLA cannot compile the operation's own gradient.
        y = tf.raw_ops.ResizeNearestNeighbor(images=x, size=[height, width])
        return y, lambda upstream: _sum_copies(upstream, shape[1], shape[2])

    return upsample(x)


def _sum_copies(y: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Sum the copies of each source pixel: float [B, H, W, C] down to (height, width)."""
    if y.shape[1] % height == 0 and y.shape[2] % width == 0:
        rows, columns = y.shape[1] // height, y.shape[2] // width
        y = tf.reshape(y, [-1, height, rows, width, columns, y.shape[3]])
        return tf.reduce_sum(y, axis=[2, 4])
    rows, columns = _sources(y.shape[1], height), _sources(y.shape[2], width)
    rows = tf.one_hot(rows, height, dtype=y.dtype)
    columns = tf.one_hot(columns, width, dtype=y.dtype)
    return tf.einsum("bhwc,hi,wj->bijc", y, rows, columns)


def _sources(size: int, source_size: int) -> list[int]:
    """Return the source position of each of `size` positions."""
    return [index * source_size // size for index in range(size)]


def shrink_to(x: tf.Tensor, height: int, width: int, pool_kernel: str = "s+1") -> tf.Tensor:
    """Max-pool axes that shrink, see `max_pool_to`; other axes are unchanged."""
    if x.shape[1] > height or x.shape[2] > width:
        x = max_pool_to(x, min(height, x.shape[1]), min(width, x.shape[2]), pool_kernel)
    return x


def resize_to(x: tf.Tensor, height: int, width: int, pool_kernel: str = "s+1") -> tf.Tensor:
    """Max-pool axes that shrink, then upsample axes that grow."""
    x = shrink_to(x, height, width, pool_kernel)
    if x.shape[1] < height or x.shape[2] < width:
        x = upsample_to(x, height, width)
    return x


@keras.utils.register_keras_serializable("efficientdet")
class Projection(keras.layers.Layer):
    """Projection by 1x1 convolution and BatchNorm; the identity if the width fits.

    Args:
      num_filters: width C of the output.
      conv_block: block that determines norm and bias, see `ConvBlock.from_value`; its
        activation is unused. Default: the profile "light", with both.
    """

    def __init__(self, num_filters: int, conv_block: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_filters = num_filters
        block = ConvBlock.from_value(conv_block)
        self.conv_block = dataclasses.replace(block, kernel_size=1, activation=None)

    def build(self, input_shape: tf.TensorShape) -> None:
        self.conv = self.norm = None
        if input_shape[-1] != self.num_filters:
            self.conv = self.conv_block.make_conv(self.num_filters, name="conv")
            self.norm = batch_norm("bn") if self.conv_block.norm else None
        super().build(input_shape)

    def add_to_graph(self, graph: NetworkGraph, level: int) -> None:
        """Add the projection to the newest map of a level, unless it is the identity."""
        if self.conv is not None:
            meaning = f"projection of the backbone's level: {self.conv_block.describe()}"
            graph.project(level, [Operation("conv 1x1", meaning)], [self])

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Map float [B, H, W, any] to float [B, H, W, C]."""
        if self.conv is None:
            return x
        x = self.conv(x)
        return x if self.norm is None else self.norm(x, training=training)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_filters": self.num_filters,
            "conv_block": self.conv_block.to_dict(),
        }


@keras.utils.register_keras_serializable("efficientdet")
class ExtraLevels(keras.layers.Layer):
    """Levels `min_level` to `max_level`: adds levels above the backbone's, drops finer ones.

    The first added level is the projected coarsest map, pooled; the others are pooled
    without weights.

    Args:
      num_filters: width C of the added levels.
      max_level: the coarsest level to add.
      conv_block: block that determines norm and bias of the projection, see
        `ConvBlock.from_value`. Default: the profile "light", with both.
      project: whether to project; otherwise the added levels have the width of the coarsest
        one and no weights. Default True.
      conv_after_downsample: whether the first added level is pooled before it is projected.
        Default False.
      min_level: the finest level to keep. Default 0.
    """

    def __init__(
        self,
        num_filters: int,
        max_level: int,
        conv_block: Any = None,
        project: bool = True,
        conv_after_downsample: bool = False,
        min_level: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.min_level = min_level
        self.num_filters = num_filters
        self.max_level = max_level
        self.conv_after_downsample = conv_after_downsample
        self.conv_block = ConvBlock.from_value(conv_block)
        self.projection = None
        if project:
            self.projection = Projection(num_filters, self.conv_block, name="projection")

    def call(
        self, features: dict[int, tf.Tensor], training: bool | None = None
    ) -> dict[int, tf.Tensor]:
        """Map a dict {level: float [B, H, W, c]} to that of `min_level` to `max_level`."""
        features = {int(level): x for level, x in features.items() if int(level) >= self.min_level}
        top = max(features)
        x = features[top]
        for level in range(top + 1, self.max_level + 1):
            project = self.projection if level == top + 1 else None
            if project is not None and not self.conv_after_downsample:
                x = project(x, training=training)
            x = max_pool_to(x, -(-x.shape[1] // 2), -(-x.shape[2] // 2))
            if project is not None and self.conv_after_downsample:
                x = project(x, training=training)
            features[level] = x
        return features

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_filters": self.num_filters,
            "max_level": self.max_level,
            "conv_block": self.conv_block.to_dict(),
            "project": self.projection is not None,
            "conv_after_downsample": self.conv_after_downsample,
            "min_level": self.min_level,
        }
