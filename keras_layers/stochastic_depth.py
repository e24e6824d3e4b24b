"""Stochastic depth, dropout and DropBlock, with reproducible draws."""

import contextlib
import math
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tf_keras as keras

# Each replica of a step is traced in its own thread.
_of_thread = threading.local()


@contextlib.contextmanager
def draws_from(seed: tf.Tensor) -> Iterator[None]:
    """Seed the draws of this module's layers within a context.

    With a seed derived from the step, a resumed training drops the same branches, and so
    does a block that is recomputed.

    Args:
      seed: int32 [2], see `tf.random.stateless_uniform`.
    """
    before = seed_of_draws()
    _of_thread.seed = seed
    try:
        yield
    finally:
        _of_thread.seed = before


def seed_of_draws() -> tf.Tensor | None:
    """Return the seed of the innermost `draws_from`, None outside of any."""
    return getattr(_of_thread, "seed", None)


@keras.utils.register_keras_serializable("efficientdet")
class StochasticDepth(keras.layers.Layer):
    """Stochastic depth: drops a sample's residual branch in training (Huang et al., 2016).

    Args:
      survival_prob: probability of keeping a sample's branch, 0..1; kept branches
        are scaled by its inverse, so that inference is unchanged.
      name: name of the layer; layers of different names draw independently.
    """

    def __init__(self, survival_prob: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.survival_prob = survival_prob

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Map float [B, H, W, C] to the same shape."""
        if not training or self.survival_prob >= 1:
            return x
        kept = _uniform(self.name, [tf.shape(x)[0], 1, 1, 1]) < self.survival_prob
        return x * tf.cast(kept, x.dtype) / tf.cast(self.survival_prob, x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "survival_prob": self.survival_prob}


@keras.utils.register_keras_serializable("efficientdet")
class Dropout(keras.layers.Layer):
    """Dropout: drops single values in training and scales the others by 1 / (1 - rate).

    Args:
      rate: probability of dropping a value, 0 or more, below 1.
      name: name of the layer; layers of different names draw independently.
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Map float of any shape to the same shape."""
        if not training or not self.rate:
            return x
        kept = _uniform(self.name, tf.shape(x)) >= self.rate
        return x * tf.cast(kept, x.dtype) / tf.cast(1 - self.rate, x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}


@keras.utils.register_keras_serializable("efficientdet")
class DropBlock(keras.layers.Layer):
    """DropBlock: drops squares of a channel in training and scales the kept values.

    Ghiasi, Lin, Le, "DropBlock: A regularization method for convolutional networks",
    NeurIPS 2018, https://arxiv.org/abs/1810.12890. The kept values are scaled so that their
    number times the factor is that of all values.

    Args:
      rate: probability of dropping a value, 0 or more, below 1; approximate, as squares
        overlap.
      block_size: side of a square in pixels; of a smaller map its side. Default 3.
      name: name of the layer; layers of different names draw independently.
    """

    def __init__(self, rate: float, block_size: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = rate
        self.block_size = block_size

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Map float [B, H, W, C] to the same shape."""
        if not training or not self.rate:
            return x
        size = [min(self.block_size, side) for side in x.shape[1:3]]
        corners = [side - block + 1 for side, block in zip(x.shape[1:3], size)]
        probability = self.rate * x.shape[1] * x.shape[2] / (math.prod(size) * math.prod(corners))
        draws = _uniform(self.name, [tf.shape(x)[0], *corners, x.shape[3]])
        dropped = tf.cast(draws < probability, tf.float32)
        # A square reaches down and right from its corner.
        around = [[block - 1] * 2 for block in size]
        dropped = tf.nn.max_pool2d(tf.pad(dropped, [[0, 0], *around, [0, 0]]), size, 1, "VALID")
        scale = 1 / tf.maximum(1 - tf.reduce_mean(dropped), 1e-3)
        return x * tf.cast((1 - dropped) * scale, x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate, "block_size": self.block_size}


def _uniform(name: str, shape: Any) -> tf.Tensor:
    """Draw uniform values in 0..1 for the layer of a name."""
    seed = seed_of_draws()
    if seed is None:
        return tf.random.uniform(shape)
    salt = zlib.crc32(name.encode()) & 0x7FFFFFFF
    return tf.random.stateless_uniform(shape, tf.random.fold_in(seed, salt))
