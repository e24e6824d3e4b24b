"""EFM beyond the contract: its reach, and Maxout."""

import numpy as np
import pytest
import tensorflow as tf

from keras_layers.efm import EFM
from keras_layers.fusion import Compression
from keras_layers.network_graph import graph_of


def test_a_cell_widens_the_reach_by_one_level(features_of, randomize):
    features = features_of((128, 128))
    network = EFM(num_filters=8, num_repeats=2)
    network(features)
    randomize(network)
    before = network(features)
    for source in features:
        after = network({**features, source: features[source] + 5.0})
        reached = {level for level in features if np.any(before[level] != after[level])}
        assert reached == {level for level in features if abs(level - source) <= 2}
        assert reached == set(3 + np.flatnonzero(graph_of(network).dependencies()[:, source - 3]))


def test_maxout_does_not_depend_on_the_order_of_the_sources():
    maps = [tf.random.stateless_normal([1, 3, 4, 2], [seed, 0]) for seed in range(3)]
    fuse = Compression("maxout")
    np.testing.assert_array_equal(fuse(maps), fuse(maps[::-1]))
    np.testing.assert_array_equal(fuse([maps[0], maps[0] + 1, maps[0] - 1]), maps[0] + 1)


@pytest.mark.parametrize(("method", "expected"), [("maxout_affine", [7, 9]), ("conv1x1", [4, 7])])
def test_compression_by_a_convolution(method, expected):
    fuse = Compression(method)
    maps = [tf.constant([[[[1.0, 2.0]]]]), tf.constant([[[[3.0, 4.0]]]])]
    fuse(maps)
    # Of the concatenation 1, 2, 3, 4.
    columns = {"conv1x1": [[1, 0, 1, 0], [0, 0, 1, 1]]}
    columns["maxout_affine"] = [*columns["conv1x1"], [0, 1, 1, 1], [-1, 0, 0, 0]]
    fuse.conv.kernel.assign(np.array(columns[method], np.float32).T[None, None])
    np.testing.assert_array_equal(fuse(maps)[0, 0, 0], expected)


def test_a_pyramid_of_pools_at_level_5(features_of, randomize):
    features = features_of((512, 512), widths=(8, 8, 8), batch_size=1)
    network = EFM(num_filters=8, spp=True)
    network(features)
    randomize(network)
    spike = tf.tensor_scatter_nd_add(tf.zeros([1, 16, 16, 8]), [[0, 8, 8, 0]], [9.0])
    pooled = (
        network.project({**features, 5: spike})[5] - network.project({**features, 5: 0 * spike})[5]
    )
    side = np.count_nonzero(np.any(pooled != 0, axis=-1)[0], axis=1)
    np.testing.assert_array_equal(side, [0] * 2 + [13] * 13 + [0])
    np.testing.assert_array_equal(network.project(features)[4], features[4])
