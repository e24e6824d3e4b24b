"""Normalisation of pixels in 0..255."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras


@keras.utils.register_keras_serializable("efficientdet")
class NormalizePixels(keras.layers.Layer):
    """Normalisation (pixels - mean) / std, per channel.

    Args:
      mean, std: three floats each, RGB, on the 0..255 scale.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)

    def call(self, images: tf.Tensor) -> tf.Tensor:
        """Map numbers [B, H, W, 3] in 0..255 to float [B, H, W, 3]."""
        # In float32 with any policy: half precision represents 255 levels around an
        # offset poorly.
        images = (tf.cast(images, tf.float32) - self.mean) / self.std
        return tf.cast(images, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "mean": self.mean, "std": self.std}
