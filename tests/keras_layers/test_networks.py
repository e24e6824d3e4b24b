"""Resampling, feature network, heads and backbones as layers."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tiny
from efficientdet_tf import anchors
from efficientdet_tf import model as model_lib
from efficientdet_tf.backbones.efficientnet import (
    SCALES,
    EfficientNet,
    MBConvBlock,
    SqueezeExcite,
    scaled_stages,
)
from keras_layers.asff import SpatialFusion
from keras_layers.attention import MixtureOfSoftmaxes
from keras_layers.attention_fpn import FeaturePyramidAttention
from keras_layers.bfp import NonLocal
from keras_layers.bifpn import BiFPN, bifpn_nodes
from keras_layers.fpt import GroundingTransformer, SelfTransformer
from keras_layers.fusion import Compression, GlobalAttention
from keras_layers.fusion_graph import FusionNode, Node
from keras_layers.heads import PredictionHead
from keras_layers.mlfpn import ScaleAggregation, ThinnedUShape
from keras_layers.pixels import NormalizePixels
from keras_layers.pooled_gate import PooledGate
from keras_layers.resample import ExtraLevels, Projection, max_pool_to, resize_to, upsample_to
from keras_layers.rfp import ASPP
from keras_layers.stochastic_depth import DropBlock, Dropout, StochasticDepth, draws_from


def _features(image_size, widths=(40, 112, 320), min_level=3):
    sizes = anchors.feature_sizes(image_size, min_level + len(widths) - 1)
    generator = np.random.default_rng(0)
    return {
        level: tf.constant(generator.normal(size=(1, *sizes[level], width)).astype(np.float32))
        for level, width in enumerate(widths, start=min_level)
    }


def test_upsampling_takes_the_row_below():
    x = tf.reshape(tf.range(3.0), [1, 3, 1, 1])
    # floor(row * 3 / 5)
    np.testing.assert_array_equal(upsample_to(x, 5, 1)[0, :, 0, 0], [0, 0, 1, 1, 2])


def test_pooling_one_level_is_3x3_stride_2():
    x = tf.reshape(tf.range(25.0), [1, 5, 5, 1])
    pooled = max_pool_to(x, 3, 3)
    np.testing.assert_array_equal(pooled[0, :, :, 0], [[6, 8, 9], [16, 18, 19], [21, 23, 24]])


@pytest.mark.parametrize(
    ("source", "target"), [((7, 1), (4, 1)), ((1, 8), (1, 4)), ((3, 2), (5, 1))]
)
def test_each_axis_is_resized_for_itself(source, target):
    assert resize_to(tf.ones([1, *source, 2]), *target).shape == (1, *target, 2)


def test_lite0_sizes_at_320():
    features = ExtraLevels(64, 7)(_features((320, 320)))
    assert features[6].shape[1:3] == (5, 5)
    assert features[7].shape[1:3] == (3, 3)


def test_graph_of_a_cell():
    assert bifpn_nodes([3, 4, 5]) == [
        Node(4, (1, 2)),
        Node(3, (0, 3)),
        Node(4, (1, 3, 4)),
        Node(5, (2, 5)),
    ]
    nodes = bifpn_nodes([3, 4, 5, 6, 7])
    assert len(nodes) == 8
    assert sum(len(node.inputs) for node in nodes) == 19


def test_heads_share_convolutions_and_keep_norms_apart():
    head = PredictionHead(num_outputs=6, num_filters=8, num_repeats=2, prior_probability=0.01)
    outputs = head({3: tf.zeros([2, 4, 6, 8]), 4: tf.zeros([2, 2, 3, 8])})
    assert outputs[3].shape == (2, 4, 6, 6)
    # Two convolutions and the prediction; then two norms for each of two levels.
    assert len(head.trainable_weights) == 3 * 3 + 2 * 2 * 2
    np.testing.assert_allclose(outputs[3], -np.log(99), rtol=1e-6)


def test_stochastic_depth_keeps_the_mean():
    tf.random.set_seed(1)
    layer = StochasticDepth(0.8)
    x = tf.ones([4000, 1, 1, 1])
    np.testing.assert_array_equal(layer(x, training=False), x)
    dropped = layer(x, training=True).numpy().ravel()
    assert set(np.round(dropped, 5)) == {0.0, 1.25}
    assert np.mean(dropped > 0) == pytest.approx(0.8, abs=0.03)


def test_dropblock_drops_squares_and_keeps_the_mean():
    x = tf.ones([8, 32, 24, 16])
    layer = DropBlock(0.2, name="a")
    assert layer(x, training=False) is x
    with draws_from(tf.constant([1, 2])):
        y = layer(x, training=True).numpy()
        np.testing.assert_array_equal(layer(x, training=True), y)
        assert np.any(DropBlock(0.2, name="b")(x, training=True) != y)
    np.testing.assert_allclose(y.mean(), 1, rtol=1e-5)
    assert len(np.unique(y)) == 2
    # A little less, as squares overlap.
    assert 0.16 < (y == 0).mean() < 0.2
    windows = np.lib.stride_tricks.sliding_window_view(y == 0, (3, 3), axis=(1, 2))
    squares = np.pad(windows.all(axis=(-2, -1)), [(0, 0), (2, 2), (2, 2), (0, 0)])
    covered = np.lib.stride_tricks.sliding_window_view(squares, (3, 3), axis=(1, 2))
    np.testing.assert_array_equal(covered.any(axis=(-2, -1)), y == 0)


def test_dropblock_of_a_map_smaller_than_its_squares():
    with draws_from(tf.constant([1, 2])):
        y = DropBlock(0.5)(tf.ones([1, 1, 2, 1000]), training=True).numpy()
    # The whole map of a channel is one square.
    np.testing.assert_array_equal(y[:, :, 0], y[:, :, 1])
    assert 0.4 < (y == 0).mean() < 0.6


def test_stochastic_depth_follows_from_the_seed_and_the_name():
    x = tf.ones([200, 1, 1, 1])
    layers = [StochasticDepth(0.5, name=name) for name in ("a", "b")]

    def drawn(seed):
        with draws_from(tf.constant([seed, 7])):
            return [layer(x, training=True).numpy().tobytes() for layer in layers]

    first = drawn(1)
    assert drawn(1) == first
    assert len({*first, *drawn(2)}) == 4


@pytest.mark.parametrize("name", [name for name in SCALES if name[-1] in "01"])
def test_backbone_levels(name):
    features = EfficientNet(name)(tf.zeros([1, 96, 64, 3]))
    sizes = anchors.feature_sizes((96, 64), 5)
    assert {level: tuple(x.shape[1:3]) for level, x in features.items()} == {
        level: sizes[level] for level in range(1, 6)
    }
    assert [features[level].shape[-1] for level in (3, 4, 5)] == [40, 112, 320]


def test_a_backbone_smaller_than_the_published_ones():
    assert [
        (stage.repeats, stage.filters) for stage in scaled_stages("efficientnet-b0", 0.5, 0.5)
    ] == [
        (1, 8),
        (1, 16),
        (1, 24),
        (2, 40),
        (2, 56),
        (2, 96),
        (1, 160),
    ]
    features = EfficientNet("efficientnet-b0", width=0.5, depth=0.5)(tf.zeros([1, 64, 64, 3]))
    assert [features[level].shape[-1] for level in (3, 4, 5)] == [24, 56, 160]


def test_unknown_backbone():
    with pytest.raises(ValueError, match="backbone 'resnet' is not one of efficientnet-b0"):
        EfficientNet("resnet")


LAYERS = [
    (NormalizePixels((127, 127, 127), (128, 128, 128)), tf.ones([1, 4, 4, 3])),
    (Projection(8), tf.ones([1, 4, 4, 3])),
    (ExtraLevels(8, 7), _features((64, 64))),
    (FusionNode(8, "softmax", {"activation": "relu6"}), None),
    (BiFPN(num_filters=8, num_repeats=2, fusion="channel_fast"), _features((64, 64))),
    (
        PredictionHead(4, 8, 1, {"separable": False, "activation": "relu"}, 0.05),
        {3: tf.ones([1, 4, 4, 8])},
    ),
    (StochasticDepth(0.7), tf.ones([1, 4, 4, 3])),
    (SqueezeExcite(2, "swish"), tf.ones([1, 4, 4, 8])),
    (MBConvBlock(8, 5, 2, 3, False, "relu6", 0.9), tf.ones([1, 8, 8, 4])),
    (EfficientNet("efficientnet-lite0", 0.8, 0.5, 0.5), tf.ones([1, 64, 64, 3])),
    (GlobalAttention("avg"), [tf.ones([1, 2, 2, 4])] * 2),
    (Compression("maxout_affine"), [tf.ones([1, 2, 2, 4])] * 3),
    (Dropout(0.3), tf.ones([1, 4])),
    (NonLocal(4, embedded=False, scale_logits=True), tf.ones([1, 2, 2, 4])),
    (SpatialFusion(4, [3, 4], 8, 4, "dense"), None),
    (PooledGate(8, "fast", "dense", gate_norm=False), [tf.ones([1, 2, 2, 8])] * 3),
    (FeaturePyramidAttention(8, "dense"), None),
    (ThinnedUShape(3, 8, "fast", "dense"), tf.ones([1, 8, 8, 4])),
    (ScaleAggregation(), tf.ones([1, 2, 2, 32])),
    (MixtureOfSoftmaxes(2, "euclidean"), [tf.ones([1, 3, 4])] * 2),
    (SelfTransformer(8, 2, 0.2, 9), tf.ones([1, 4, 4, 8])),
    (GroundingTransformer(8, 2, "dot", 3, 9), [tf.ones([1, 4, 4, 8]), tf.ones([1, 2, 2, 8])]),
    (ASPP(8), tf.ones([1, 4, 4, 8])),
]


@pytest.mark.parametrize(("layer", "inputs"), LAYERS, ids=lambda item: type(item).__name__)
def test_config_round_trip(layer, inputs):
    restored = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(restored) is type(layer)
    assert restored.get_config() == layer.get_config()
    if inputs is None:
        return
    expected = layer(inputs)
    restored(inputs)
    restored.set_weights(layer.get_weights())
    tf.nest.map_structure(np.testing.assert_array_equal, restored(inputs), expected)


def test_weight_files_hold_every_weight(tmp_path):
    config = tiny.config(**{"model.num_classes": 2})
    model = model_lib.build(config)
    values = [np.random.default_rng(0).normal(size=weight.shape) for weight in model.weights]
    for suffix in (".weights.h5", ".h5", ""):
        path = str(tmp_path / f"weights{suffix}")
        model.set_weights(values)
        model.save_weights(path)
        model.set_weights([np.zeros(weight.shape) for weight in model.weights])
        model.load_weights(path)
        for weight, value in zip(model.weights, values):
            np.testing.assert_array_equal(weight, value.astype(np.float32), err_msg=weight.name)
