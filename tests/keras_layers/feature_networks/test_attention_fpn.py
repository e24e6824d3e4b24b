"""Attention pooling beyond the contract: the context of level 5, and the gate."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from keras_layers.attended_fusion import AttendedFusion
from keras_layers.attention_fpn import AttentionFPN
from keras_layers.feature_network import build_feature_network
from keras_layers.network_graph import graph_of
from keras_layers.pooled_gate import PooledGate
from keras_layers.resample import ExtraLevels


@pytest.mark.parametrize(("profile", "count"), [("light", 129_776), ("dense", 490_944)])
def test_parameters_with_the_context(profile, count, num_parameters):
    network, extra = AttentionFPN(num_filters=64, conv_block=profile), ExtraLevels(64, 7, profile)
    sizes = {3: (32, 40), 4: (16, 112), 5: (8, 320)}
    network(extra({level: keras.Input((s, s, width)) for level, (s, width) in sizes.items()}))
    assert num_parameters(extra, network) == count


def test_the_context_is_of_level_5_and_coarser_levels(features_of, randomize):
    features = features_of((256, 320), batch_size=1)
    network = AttentionFPN(num_filters=8)
    network(features)
    randomize(network)
    before, attention = network(features, return_attention=True)
    assert attention.shape == (1, 8, 10, 8)
    for source in features:
        after = network({**features, source: features[source] + 1.0})
        changed = [level for level in features if np.any(before[level] != after[level])]
        assert changed == list(range(3, source + 1))
    graph = graph_of(network)
    np.testing.assert_array_equal(graph.dependencies(), np.triu(np.ones([5, 5])))
    assert [node.layers for node in graph.nodes if "FPA" in dict(node.operations)] == [
        (network.fpa,)
    ]
    with tf.GradientTape() as tape:
        loss = tf.add_n([tf.reduce_sum(x**2) for x in network(features).values()])
    gradients = tape.gradient(loss, network.trainable_weights)
    assert all(np.any(x != 0) and np.all(np.isfinite(x)) for x in gradients)


def test_the_gate_is_a_sum_where_convolutions_do_nothing(identity_weights):
    gate = PooledGate(4, conv_block={"separable": False, "norm": False})
    high = tf.random.stateless_normal([1, 2, 2, 4], [1, 2])
    low = tf.random.stateless_normal([1, 4, 4, 4], [3, 4])
    up = high.numpy().repeat(2, 1).repeat(2, 2)
    gate((high, up, low))
    identity_weights(gate)
    kernel, bias = gate.gate.conv.weights
    kernel.assign(0 * kernel)
    bias.assign(bias + 1)
    np.testing.assert_allclose(gate((high, up, low)), np.maximum(up + low, 0), rtol=1e-6)
    bias.assign(bias - 2)
    np.testing.assert_allclose(gate((high, up, low)), np.maximum(up, 0), rtol=1e-6)


def test_squeeze_and_excitation_is_of_each_input():
    fuse = AttendedFusion(4, "se", conv_block={"separable": False, "norm": False})
    high, low = (tf.random.stateless_normal([1, 4, 4, 4], [i, 2]) for i in range(2))
    found = fuse((high, high, low))
    maps = [high, fuse.lateral(low)]
    factors = [excite.scales(x).numpy() for excite, x in zip(fuse.excitations, maps)]
    assert all(f.shape == (1, 1, 1, 4) and np.all((f > 0) & (f < 1)) for f in factors)
    expected = sum(f * x for f, x in zip(factors, maps))
    np.testing.assert_allclose(found, np.maximum(expected, 0), rtol=1e-5, atol=1e-6)


def test_spatial_attention_is_of_the_pixels_of_the_sum():
    fuse = AttendedFusion(4, "spatial", conv_block={"separable": False, "norm": False})
    high, low = (tf.random.stateless_normal([1, 8, 8, 4], [i, 2]) for i in range(2))
    fuse((high, high, low))
    x = np.maximum(high + fuse.lateral(low), 0)
    # The maximum of the pixel above; the mean is not used.
    kernel = np.zeros([7, 7, 2, 1], np.float32)
    kernel[2, 3, 1] = 1
    fuse.map_conv.set_weights([kernel, np.zeros(1)])
    logits = np.pad(x.max(axis=-1, keepdims=True), [(0, 0), (1, 0), (0, 0), (0, 0)])[:, :-1]
    np.testing.assert_allclose(fuse((high, high, low)), x / (1 + np.exp(-logits)), rtol=1e-5)


def test_a_small_level_5_is_refused(features_of):
    with pytest.raises(ValueError, match="context: fpa needs 8x8 positions of level 5, not 7x8; "):
        AttentionFPN(num_filters=8)(features_of((224, 256)))


def test_a_width_that_the_context_cannot_divide():
    with pytest.raises(ValueError, match="^num_filters: 63 is no multiple of 4, as context needs$"):
        build_feature_network("attention_fpn", num_filters=63)
