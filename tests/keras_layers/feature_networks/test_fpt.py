"""FPT beyond the contract: attention within and between levels, and its limits."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from keras_layers.attention import MixtureOfSoftmaxes
from keras_layers.feature_network import build_feature_network
from keras_layers.fpt import FPT, GroundingTransformer, SelfTransformer, local_windows


def maps(*sizes, width=8):
    return [tf.random.stateless_normal([2, *size, width], [1, i]) for i, size in enumerate(sizes)]


@pytest.mark.parametrize("similarity", ["scaled_dot", "euclidean"])
@pytest.mark.parametrize("num_parts", [1, 2])
def test_mixture_of_softmaxes(num_parts, similarity):
    mixture = MixtureOfSoftmaxes(num_parts, similarity)
    queries, keys = tf.random.stateless_normal([2, 5, 4], [1, 2]), tf.ones([2, 3, 4])
    keys *= tf.constant([0.5, -1.0, 2.0])[:, None]
    attention = mixture([queries, keys])
    np.testing.assert_allclose(tf.reduce_sum(attention, axis=-1), 1, rtol=1e-6)
    shares = np.ones([2, 1])
    if num_parts == 2:
        shares = tf.nn.softmax(tf.reduce_mean(queries, axis=1) @ mixture.part_weights).numpy()
    expected = 0
    for j in range(num_parts):
        q, k = (np.split(x, num_parts, axis=-1)[j] for x in (queries, keys))
        logits = q @ k.transpose(0, 2, 1) / 2
        if similarity == "euclidean":
            logits = -np.sum((q[:, :, None] - k[:, None]) ** 2, axis=-1)
        expected += shares[:, j, None, None] * tf.nn.softmax(logits)
    np.testing.assert_allclose(attention, expected, rtol=1e-5)
    is_seen = np.array([[True, False, True]] * 5)
    assert np.all(mixture([queries, keys], is_seen=is_seen).numpy()[..., 1] == 0)


def test_grounding_starts_at_zero(features_of):
    network = FPT(num_filters=8)
    network(features_of((64, 64)))
    for ground in network.grounding_transformers:
        np.testing.assert_array_equal(ground(tuple(maps((4, 4), (2, 2)))), 0 * maps((4, 4))[0])


def test_number_of_transformers(features_of):
    network = FPT(num_filters=8)
    network.build({level: x.shape for level, x in features_of((64, 64)).items()})
    assert len(network.self_transformers) == 5
    assert len(network.grounding_transformers) == len(network.rendering_transformers) == 10
    names = [layer.name for layer in network.grounding_transformers]
    assert not [name for name in names if name.startswith("ground_7")]


def test_the_published_code_divides_products_by_the_number_of_keys(randomize):
    fine, coarse = maps((4, 4), (2, 2))
    ground = GroundingTransformer(8, 2, "dot", 0, 4096)
    ground((fine, coarse))
    randomize(ground)
    flat = [tf.reshape(x, [2, -1, 4]) for x in (ground.theta(fine), ground.phi(coarse))]
    values = tf.matmul(*flat, transpose_b=True) / 4 @ tf.reshape(ground.g(coarse), [2, 4, 4])
    expected = ground.norm(ground.output_conv(tf.reshape(values, [2, 4, 4, 4])))
    np.testing.assert_allclose(ground((fine, coarse)), expected, rtol=1e-5)


@pytest.mark.parametrize("similarity", ["euclidean", "dot"])
def test_a_local_window(similarity, randomize):
    np.testing.assert_array_equal(
        local_windows((1, 4), (1, 2), 1), [[1, 0], [1, 0], [0, 1], [0, 1]]
    )
    assert local_windows((8, 8), (4, 4), 3).sum(axis=1).max() == 9
    fine, coarse = maps((4, 4), (4, 4))
    ground = GroundingTransformer(8, 2, similarity, 1, 4096)
    ground((fine, coarse))
    randomize(ground)
    before = ground((fine, coarse))
    spike = tf.tensor_scatter_nd_add(coarse, [[0, 1, 2, 0]], [9.0])
    changed = np.argwhere(np.any(before != ground((fine, spike)), axis=-1))
    np.testing.assert_array_equal(changed, [[0, 1, 2]])


def test_dropout_is_of_training_alone():
    layer = SelfTransformer(8, 1, 0.5, 4096)
    [x] = maps((4, 4))
    np.testing.assert_array_equal(layer(x), layer(x))
    assert np.any(layer(x, training=True) != layer(x, training=True))


def test_dropblock_is_of_training_alone_and_off_by_default(features_of):
    features = features_of((64, 64), max_level=4, widths=(8, 8))
    for rate, expected in ((0.0, False), (0.5, True)):
        network = FPT(num_filters=8, dropout=0.0, dropblock=rate)
        network(features, training=True)
        zeros = {
            training: np.mean(network(features, training=training)[3] == 0)
            for training in (False, True)
        }
        assert zeros[False] == 0 and (zeros[True] > 0.2) == expected


def test_keys_of_large_maps_are_pooled(randomize):
    fine, coarse = maps((8, 8), (4, 6))
    ground = GroundingTransformer(8, 2, "euclidean", 0, max_positions=6)
    ground((fine, coarse))
    randomize(ground)
    pooled = tf.nn.avg_pool2d(coarse, 3, 2, "SAME")
    np.testing.assert_array_equal(ground((fine, coarse)), ground((fine, pooled)))


def test_a_map_that_is_too_large():
    expected = "features: level 3 has 129x128 positions, more than the 16384 that attention"
    with pytest.raises(ValueError, match=f"^{expected} supports; set a smaller image$"):
        FPT(num_filters=8)({level: keras.Input((129, 128, 8)) for level in (3, 4)})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_repeats": 2}, "num_repeats: 2 is above 1, and fpt is not repeated"),
        ({"num_filters": 62}, "num_filters: 62 is no multiple of twice num_parts, 4"),
        ({"options": {"num_parts": 0}}, "options.num_parts: 0 is below 1"),
        ({"options": {"dropout": 1}}, "options.dropout: 1 is not 0 or more, below 1"),
        ({"options": {"dropblock": 1}}, "options.dropblock: 1 is not 0 or more, below 1"),
        ({"options": {"local_window": -1}}, "options.local_window: -1 is below 0"),
        (
            {"options": {"local_window": 2}},
            "options.local_window: 2 is even; set an odd number, or 0 for all keys",
        ),
        ({"options": {"max_positions": 0}}, "options.max_positions: 0 is below 1"),
    ],
)
def test_wrong_values(changes, expected):
    with pytest.raises(ValueError) as error:
        build_feature_network("fpt", **({"num_filters": 64} | changes))
    assert str(error.value) == expected
