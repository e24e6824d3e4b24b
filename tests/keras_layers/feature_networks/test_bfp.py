"""BFP beyond the contract: the sum with its base, and the non-local block."""

import numpy as np
import pytest
import tensorflow as tf

from keras_layers.bfp import BFP, NonLocal
from keras_layers.resample import adaptive_max_pool_to


def test_adaptive_pooling_covers_every_position():
    x = tf.reshape(tf.range(5.0), [1, 5, 1, 1])
    # Rows 0 to 1, 1 to 3, and 3 to 4.
    np.testing.assert_array_equal(adaptive_max_pool_to(x, 3, 1)[0, :, 0, 0], [1, 3, 4])
    x = tf.random.stateless_normal([1, 8, 6, 2], [1, 2])
    np.testing.assert_array_equal(
        adaptive_max_pool_to(x, 4, 2), tf.nn.max_pool2d(x, [2, 3], [2, 3], "VALID")
    )


def test_without_refinement_the_mean_of_all_levels_is_added(features_of, randomize):
    features = features_of((128, 128))
    network = BFP(num_filters=8, refine="none")
    network(features)
    randomize(network)
    base, outputs = network.pyramid(features), network(features)
    level_4 = [adaptive_max_pool_to(base[3], 8, 8)]
    for level, factor in ((4, 1), (5, 2), (6, 4), (7, 8)):
        level_4.append(base[level].numpy().repeat(factor, 1).repeat(factor, 2))
    mean = (sum(level_4) / 5).numpy()
    for level, added in (
        (3, mean.repeat(2, 1).repeat(2, 2)),
        (4, mean),
        (6, adaptive_max_pool_to(mean, 2, 2)),
    ):
        np.testing.assert_allclose(outputs[level], base[level] + added, rtol=1e-5)


def test_equal_levels_are_doubled(features_of):
    network = BFP(num_filters=8, refine="none")
    network(features_of((64, 64)))
    network.pyramid.call = lambda features, training=None: {
        level: tf.fill([*x.shape[:3], 8], 3.0) for level, x in features.items()
    }
    for x in network(features_of((64, 64))).values():
        np.testing.assert_allclose(x, 6.0, rtol=1e-6)


def test_the_non_local_block_starts_as_the_identity(features_of):
    features = features_of((64, 96))
    refined, plain = BFP(num_filters=8), BFP(num_filters=8, refine="none")
    refined(features)
    plain(features)
    plain.set_weights(refined.pyramid.get_weights())
    for level, x in refined(features).items():
        np.testing.assert_array_equal(x, plain(features)[level])


@pytest.mark.parametrize(("embedded", "scale_logits"), [(True, False), (False, True)])
def test_attention_of_the_non_local_block(embedded, scale_logits, randomize):
    block = NonLocal(4, embedded, scale_logits)
    x = tf.random.stateless_normal([2, 3, 5, 4], [1, 2])
    block(x)
    randomize(block)
    np.testing.assert_allclose(tf.reduce_sum(block.attention(x), axis=-1), 1, rtol=1e-6)
    if not embedded:
        flat = tf.reshape(x, [2, 15, 4])
        expected = tf.nn.softmax(tf.einsum("bnc,bmc->bnm", flat, flat) / 2)
        np.testing.assert_allclose(block.attention(x), expected, rtol=1e-5)
    order = np.random.default_rng(0).permutation(15)
    permuted = tf.reshape(tf.gather(tf.reshape(x, [2, 15, 4]), order, axis=1), x.shape)
    np.testing.assert_allclose(
        tf.reshape(block(permuted), [2, 15, 4]),
        tf.gather(tf.reshape(block(x), [2, 15, 4]), order, axis=1),
        rtol=1e-5,
    )


def test_the_integration_level_is_one_of_the_input(features_of):
    with pytest.raises(ValueError, match=r"^level: 8 is not one of 3, 4, 5, 6, 7$"):
        BFP(num_filters=8, level=8)(features_of((64, 64)))


def test_parameters_of_the_published_block(num_parameters):
    block = NonLocal(256)
    block(tf.zeros([1, 2, 2, 256]))
    assert num_parameters(block) == 263_168
