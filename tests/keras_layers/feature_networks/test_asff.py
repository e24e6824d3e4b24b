"""ASFF beyond the contract: its weights, and the resizing of maps."""

import numpy as np
import pytest
import tensorflow as tf

from keras_layers.asff import ASFF, SpatialFusion
from keras_layers.feature_network import build_feature_network


@pytest.fixture(scope="module")
def network(features_of, randomize):
    network = ASFF(num_filters=8)
    network(features_of((64, 96)))
    randomize(network)
    return network


def test_weights_of_a_pixel_sum_to_one(network, features_of):
    pyramid = network.pyramid(features_of((64, 96)))
    for fuse in network.fusions:
        weights = fuse.weights_of(fuse.resized(pyramid))
        assert weights.shape == (*pyramid[fuse.level].shape[:3], 5)
        assert weights.dtype == tf.float32 and np.min(weights) > 0
        np.testing.assert_allclose(tf.reduce_sum(weights, axis=-1), 1, atol=1e-6)


def test_weights_are_equal_where_the_mixing_convolution_is_zero(network, features_of):
    pyramid = network.pyramid(features_of((64, 96)))
    fuse = network.fusions[1]
    values = fuse.mix.get_weights()
    fuse.mix.set_weights([0 * value for value in values])
    np.testing.assert_allclose(fuse.weights_of(fuse.resized(pyramid)), 0.2, rtol=1e-6)
    fuse.mix.set_weights(values)


def test_equal_levels_stay_as_they_are(identity_weights):
    block = {"separable": False, "activation": None, "norm": False}
    fuse = SpatialFusion(5, [3, 4, 5, 6], 4, weight_filters=4, conv_block=block)
    maps = {level: tf.fill([1, 64 >> level, 64 >> level, 4], 3.0) for level in range(3, 7)}
    fuse(maps)
    identity_weights(fuse)
    fuse.mix.set_weights([np.zeros(w.shape) for w in fuse.mix.get_weights()])
    np.testing.assert_allclose(fuse(maps), 3.0, rtol=1e-6)


def test_adjacent_sources():
    network = ASFF(num_filters=8, sources="adjacent", base="pafpn")
    network.build({level: (None, 8, 8, 8) for level in range(3, 8)})
    assert [fuse.sources for fuse in network.fusions] == [
        *((3, 4), (3, 4, 5), (4, 5, 6), (5, 6, 7), (6, 7))
    ]


def test_weight_filters_are_checked():
    with pytest.raises(ValueError, match=r"^options.weight_filters: 0 is below 1$"):
        build_feature_network("asff", {"weight_filters": 0}, num_filters=8)
