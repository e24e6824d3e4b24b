"""Averages of feature maps in half precision."""

from collections.abc import Sequence

import tensorflow as tf


def average(x: tf.Tensor, axis: int | Sequence[int] = (1, 2), keepdims: bool = True) -> tf.Tensor:
    """Average a feature map, in float32 where its dtype is of half precision.

    On a CPU TensorFlow adds float16 in float16: the sum of a map of 256 x 256 pixels overflows,
    or its divisor does.

    Args:
      x: float [B, H, W, C].
      axis: axis or axes to average over. Default: height and width, the global average.
      keepdims: whether these axes are kept, with size 1. Default True.

    Returns:
      Float of the same dtype, [B, 1, 1, C] by default.
    """
    precise = tf.cast(x, tf.float32) if x.dtype.size < tf.float32.size else x
    return tf.cast(tf.reduce_mean(precise, axis=axis, keepdims=keepdims), x.dtype)
