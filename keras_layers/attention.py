"""Attention between positions of feature maps, with weights in float32."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

# Added to the logits of masked keys.
_UNSEEN = -1e9


def to_positions(x: tf.Tensor) -> tf.Tensor:
    """Reshape float [B, H, W, C] to float [B, H * W, C]."""
    return tf.reshape(x, [-1, x.shape[1] * x.shape[2], x.shape[3]])


def products(queries: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Compute scalar products of float [B, N, C] and float [B, M, C]: float32 [B, N, M]."""
    # The range of half precision is too small for the softmax's exponentials.
    queries, keys = tf.cast(queries, tf.float32), tf.cast(keys, tf.float32)
    return tf.matmul(queries, keys, transpose_b=True)


def attend(attention: tf.Tensor, values: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Compute weighted sums of values, as a map.

    Args:
      attention: float32 [B, N, M], the weights of the values for each position.
      values: float [B, M, C].
      like: float [B, H, W, any], a map of the output's size, H * W = N.

    Returns:
      Float [B, H, W, C] of the dtype of the values.
    """
    sums = tf.matmul(tf.cast(attention, values.dtype), values)
    return tf.reshape(sums, [-1, *like.shape[1:3], values.shape[-1]])


@keras.utils.register_keras_serializable("efficientdet")
class MixtureOfSoftmaxes(keras.layers.Layer):
    """Attention weights as a mixture of softmaxes, each over a part of the channels.

    A = sum over j of pi_j softmax(similarity(q_j, k_j)), pi = softmax_j(w_j . mean(q));
    Yang et al., "Breaking the Softmax Bottleneck", ICLR 2018, https://arxiv.org/abs/1711.03953.

    Args:
      num_parts: number M of softmaxes; 1 is a plain softmax.
      similarity: "scaled_dot", the scalar product divided by sqrt(C); or "euclidean", the
        negative squared distance.
    """

    def __init__(self, num_parts: int, similarity: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_parts = num_parts
        self.similarity = similarity

    def build(self, input_shapes: Any) -> None:
        self.part_weights = None
        if self.num_parts > 1:
            shape = [input_shapes[0][-1], self.num_parts]
            self.part_weights = self.add_weight(
                "part_weights", shape, tf.float32, "glorot_uniform", experimental_autocast=False
            )
        super().build(input_shapes)

    def call(self, inputs: Sequence[tf.Tensor], is_seen: tf.Tensor | None = None) -> tf.Tensor:
        """Compute attention weights.

        Args:
          inputs: queries float [B, N, C] and keys float [B, K, C].
          is_seen: bool [N, K], mask of the keys visible to a query. Default: all.

        Returns:
          Float32 [B, N, K], weights that sum to 1 over the keys.
        """
        queries, keys = (tf.cast(x, tf.float32) for x in inputs)
        unseen = 0.0 if is_seen is None else tf.where(is_seen, 0.0, _UNSEEN)
        shares = [1.0]
        if self.num_parts > 1:
            shares = tf.nn.softmax(tf.reduce_mean(queries, axis=1) @ self.part_weights)
            shares = [shares[:, j, None, None] for j in range(self.num_parts)]
        parts = [tf.split(x, self.num_parts, axis=-1) for x in (queries, keys)]
        attention = 0.0
        for share, q, k in zip(shares, *parts):
            attention += share * tf.nn.softmax(self._logits(q, k, keys.shape[-1]) + unseen)
        return attention

    def _logits(self, queries: tf.Tensor, keys: tf.Tensor, width: int) -> tf.Tensor:
        if self.similarity == "scaled_dot":
            return products(queries, keys) / width**0.5
        # The square of the query is equal for all keys and cancels in a softmax.
        return 2 * products(queries, keys) - tf.reduce_sum(keys**2, axis=-1)[:, None]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_parts": self.num_parts,
            "similarity": self.similarity,
        }
