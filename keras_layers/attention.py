"""Attention between the positions of feature maps, computed in float32."""

import tensorflow as tf


def to_positions(x: tf.Tensor) -> tf.Tensor:
    """Float [B, H, W, C] to float [B, H * W, C]."""
    return tf.reshape(x, [-1, x.shape[1] * x.shape[2], x.shape[3]])


def products(queries: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Scalar products of float [B, N, C] with float [B, M, C]: float32 [B, N, M]."""
    # The range of half precision is too small for their exponentials.
    queries, keys = tf.cast(queries, tf.float32), tf.cast(keys, tf.float32)
    return tf.matmul(queries, keys, transpose_b=True)


def attend(attention: tf.Tensor, values: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Weighted sums of values, as a map.

    Args:
      attention: float32 [B, N, M], the weights of the values for each position.
      values: float [B, M, C].
      like: float [B, H, W, any] of H * W = N positions.

    Returns:
      Float [B, H, W, C] of the dtype of the values.
    """
    sums = tf.matmul(tf.cast(attention, values.dtype), values)
    return tf.reshape(sums, [-1, *like.shape[1:3], values.shape[-1]])
