"""What is dropped at random in training: residual branches, and single values."""

import contextlib
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tf_keras as keras

# Replicas of a step are traced in threads of their own.
_of_thread = threading.local()


@contextlib.contextmanager
def draws_from(seed: tf.Tensor) -> Iterator[None]:
    """A context in which the draws of the layers here follow from a seed.

    With a seed that follows from the step, a training that is resumed drops what it would
    have dropped, and a block that is computed twice drops the same twice.

    Args:
      seed: int32 [2], as of `tf.random.stateless_uniform`.
    """
    before = seed_of_draws()
    _of_thread.seed = seed
    try:
        yield
    finally:
        _of_thread.seed = before


def seed_of_draws() -> tf.Tensor | None:
    """The seed of the innermost `draws_from`, None outside of any."""
    return getattr(_of_thread, "seed", None)


@keras.utils.register_keras_serializable("efficientdet")
class StochasticDepth(keras.layers.Layer):
    """Drops a sample's residual branch in training (Huang et al., 2016).

    Args:
      survival_prob: probability with which a sample's branch is kept; kept ones
        are scaled by its inverse, so inference needs no change.
      name: layers of different names draw differently, also under `draws_from`.
    """

    def __init__(self, survival_prob: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.survival_prob = survival_prob

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Float [B, H, W, C] to the same shape."""
        if not training or self.survival_prob >= 1:
            return x
        kept = _uniform(self.name, [tf.shape(x)[0], 1, 1, 1]) < self.survival_prob
        return x * tf.cast(kept, x.dtype) / tf.cast(self.survival_prob, x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "survival_prob": self.survival_prob}


@keras.utils.register_keras_serializable("efficientdet")
class Dropout(keras.layers.Layer):
    """Drops single values in training; kept ones are scaled by the inverse of their share.

    Args:
      rate: probability with which a value is dropped, 0 or more, below 1.
      name: layers of different names draw differently, also under `draws_from`.
    """

    def __init__(self, rate: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rate = rate

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Float of any shape to the same shape."""
        if not training or not self.rate:
            return x
        kept = _uniform(self.name, tf.shape(x)) >= self.rate
        return x * tf.cast(kept, x.dtype) / tf.cast(1 - self.rate, x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}


def _uniform(name: str, shape: Any) -> tf.Tensor:
    """Draws of the layer of a name, between 0 and 1."""
    seed = seed_of_draws()
    if seed is None:
        return tf.random.uniform(shape)
    salt = zlib.crc32(name.encode()) & 0x7FFFFFFF
    return tf.random.stateless_uniform(shape, tf.random.fold_in(seed, salt))
