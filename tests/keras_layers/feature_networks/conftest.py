"""Maps and weights for the tests of feature networks."""

import numpy as np
import pytest
import tensorflow as tf

from efficientdet_tf.anchors import feature_sizes


@pytest.fixture(scope="session")
def features_of():
    """Function that builds random maps of a backbone's levels and of the levels above."""

    def make(size, max_level=7, widths=(40, 112, 320), num_filters=8, batch_size=2):
        random = np.random.default_rng(0)
        levels = range(3, max_level + 1)
        widths = dict(zip(levels, [*widths, *[num_filters] * (max_level - 5)]))
        return {
            level: tf.constant(
                random.normal(size=(batch_size, *feature_sizes(size, max_level)[level], width)),
                tf.float32,
            )
            for level, width in widths.items()
        }

    return make


@pytest.fixture(scope="session")
def randomize():
    """Function that sets random weights of a layer.

    No two are alike. They are positive, so that no ReLU is dead, and of the size that keeps
    that of the activations.
    """

    def change(layer):
        random = np.random.default_rng(1)
        for weight in layer.weights:
            value = random.uniform(0.3, 1.0, weight.shape)
            if "depthwise_kernel" in weight.name:
                value /= weight.shape[0] * weight.shape[1]
            elif "kernel" in weight.name:
                value /= np.prod(weight.shape[:-1]) / 2
            weight.assign(value)

    return change


@pytest.fixture(scope="session")
def num_parameters():
    """A function that counts the trainable parameters of layers."""

    def count(*layers):
        return sum(w.shape.num_elements() for layer in layers for w in layer.trainable_weights)

    return count


@pytest.fixture(scope="session")
def identity_weights():
    """Function that sets weights for which convolutions are the identity.

    Dense kernels are the identity, everything else is zero, so blocks need to be without
    BatchNorm and activation.
    """

    def change(layer):
        for weight in layer.weights:
            value = np.zeros(weight.shape, np.float32)
            if "kernel" in weight.name:
                height, width, *_ = value.shape
                value[height // 2, width // 2] = np.eye(*value.shape[2:])
            weight.assign(value)

    return change
