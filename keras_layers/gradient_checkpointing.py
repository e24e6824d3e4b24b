"""Gradient checkpointing: less memory for more time (Chen et al., 2016)."""

import contextlib
import itertools
from typing import Any

import tensorflow as tf
import tf_keras as keras

from keras_layers.batch_norm import statistics_kept
from keras_layers.stochastic_depth import draws_from, seed_of_draws


def recomputed(layer: keras.layers.Layer, inputs: tf.Tensor) -> tf.Tensor:
    """Call `layer(inputs, training=True)` with gradient checkpointing.

    Intermediate tensors are not saved but recomputed in the backward pass. The recomputation
    is identical: `StochasticDepth` drops the same branches, and BatchNorm, which normalises
    with the batch, updates its statistics only the first time.

    Args:
      layer: a built layer without other randomness than `StochasticDepth` and `Dropout`.
      inputs: float tensor, the layer's input.
    """
    seed = seed_of_draws()
    if seed is None:
        seed = tf.random.uniform([2], maxval=tf.int32.max, dtype=tf.int32)
    calls = itertools.count()

    @tf.recompute_grad
    def call(inputs: Any) -> Any:
        again = next(calls) > 0
        with draws_from(seed), statistics_kept() if again else contextlib.nullcontext():
            return layer(inputs, training=True)

    return call(inputs)
