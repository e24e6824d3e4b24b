"""Simplified PANet, fully-connected network, QuFPN, and common properties of node tables."""

import numpy as np
import tensorflow as tf

from keras_layers.fully_connected import FullyConnected
from keras_layers.fusion_graph import Node
from keras_layers.panet import SimplifiedPANet
from keras_layers.qufpn import QuFPN
from keras_layers.resample import ExtraLevels, max_pool_to


def test_nodes_of_the_simplified_panet():
    assert SimplifiedPANet().make_nodes([3, 4, 5]) == [
        Node(4, (1, 2)),
        Node(3, (0, 3)),
        Node(4, (3, 4)),
        Node(5, (2, 5)),
    ]


def test_nodes_of_qufpn():
    """As published: a BiFPN cell, its mirror image, and the fusion of each level."""
    assert QuFPN().make_nodes([3, 4, 5]) == [
        *(Node(4, (1, 2)), Node(3, (0, 3))),
        *(Node(4, (1, 3, 4)), Node(5, (2, 5))),
        *(Node(4, (1, 0)), Node(5, (2, 7))),
        *(Node(4, (1, 7, 8)), Node(3, (0, 9))),
        *(Node(5, (6, 8), fusion="fast"), Node(4, (5, 9), fusion="fast")),
        Node(3, (4, 10), fusion="fast"),
    ]


def test_a_map_can_be_pooled_before_it_is_projected():
    x = tf.constant(np.random.default_rng(0).normal(size=(1, 8, 8, 3)), tf.float32)
    y = tf.constant(np.random.default_rng(1).normal(size=(1, 4, 4, 4)), tf.float32)
    outputs = {}
    for after in (False, True):
        network = FullyConnected(
            num_filters=4, conv_block={"activation": None}, conv_after_downsample=after
        )
        network({3: x, 4: y})
        node = network.nodes[1]
        project = node.projections[0]
        project.conv.kernel.assign(tf.reshape(tf.range(12.0) - 6, [1, 1, 3, 4]))
        pooled = project(max_pool_to(x, 4, 4)) if after else max_pool_to(project(x), 4, 4)
        outputs[after] = node([x, y], size=(4, 4))
        np.testing.assert_allclose(outputs[after], node.block(pooled + y), rtol=1e-4, atol=1e-4)
    assert np.any(outputs[True] != outputs[False])


def test_level_6_can_be_pooled_before_it_is_projected():
    x = tf.constant(np.random.default_rng(0).normal(size=(1, 8, 8, 3)), tf.float32)
    for after in (False, True):
        extra = ExtraLevels(4, 7, conv_after_downsample=after)
        found = extra({5: x})
        project = extra.projection
        pooled = project(max_pool_to(x, 4, 4)) if after else max_pool_to(project(x), 4, 4)
        np.testing.assert_allclose(found[6], pooled, rtol=1e-5)
        np.testing.assert_array_equal(found[7], max_pool_to(pooled, 2, 2))
        assert ExtraLevels.from_config(extra.get_config()).get_config() == extra.get_config()
