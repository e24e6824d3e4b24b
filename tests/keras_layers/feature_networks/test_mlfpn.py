"""MLFPN beyond the contract: its modules, and the attention between their outputs."""

import numpy as np
import pytest
import tensorflow as tf

from efficientdet_tf.anchors import feature_sizes
from keras_layers.feature_network import build_feature_network
from keras_layers.mlfpn import ScaleAggregation, ThinnedUShape


def test_maps_of_a_module_have_the_sizes_of_the_levels():
    sizes = feature_sizes((511, 257), 7)
    maps = ThinnedUShape(5, 8)(tf.ones([1, *sizes[3], 4]))
    assert [tuple(x.shape) for x in maps] == [(1, *sizes[level], 8) for level in range(3, 8)]


def test_the_decoder_adds_maps_that_are_not_smoothed(randomize):
    module = ThinnedUShape(2, 4)
    x = tf.random.stateless_normal([1, 4, 4, 4], [1, 2])
    fine, coarse = module(x)
    randomize(module)
    fine, coarse = module(x)
    u = module.smooths[1](module.encoders[0](x))
    np.testing.assert_array_equal(coarse, u)
    u = module.decoders[0](x) + u.numpy().repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(fine, module.smooths[0](u), rtol=1e-5)


def test_scales_of_the_aggregation(randomize):
    layer = ScaleAggregation()
    x = tf.random.stateless_normal([2, 3, 3, 32], [1, 2])
    layer(x)
    assert layer.reduce.filters == 2
    randomize(layer)
    assert np.min(layer.scales(x)) > 0 and np.max(layer.scales(x)) < 1
    layer.expand.set_weights([0 * value for value in layer.expand.get_weights()])
    np.testing.assert_array_equal(layer(x), x / 2)


def test_the_deep_level_is_one_of_the_levels():
    network = build_feature_network("mlfpn", {"deep_level": 4}, num_filters=8)
    with pytest.raises(ValueError, match="^deep_level: 4 is not one of 5, 6$"):
        network.build({5: (None, 2, 2, 8), 6: (None, 1, 1, 8)})


def test_an_odd_width():
    with pytest.raises(ValueError, match="^num_filters: 63 is odd$"):
        build_feature_network("mlfpn", num_filters=63)
