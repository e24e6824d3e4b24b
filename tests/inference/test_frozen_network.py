"""Networks whose weights are constants, and the folding of their graphs."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tiny
from efficientdet_tf import model as model_lib
from efficientdet_tf.config import Config
from efficientdet_tf.inference import graph_folding
from efficientdet_tf.inference.frozen_network import freeze_network


def build(config):
    """Build a model whose BatchNorm changes what it gets, as after a training."""
    keras.utils.set_random_seed(0)
    model = model_lib.build(config)
    for index, layer in enumerate(model.submodules):
        if isinstance(layer, keras.layers.BatchNormalization):
            for place, weight in enumerate(layer.weights):
                low = 0.5 if "gamma" in weight.name or "variance" in weight.name else -0.5
                seed = [index, place]
                weight.assign(tf.random.stateless_uniform(weight.shape, seed, low, 1.0))
    return model


@pytest.fixture(scope="module")
def model():
    return build(tiny.config(**{"model.num_classes": 3}))


@pytest.fixture(scope="module")
def swish_model():
    settings = tiny.NETWORK | {"model.num_classes": 3}
    return build(Config.for_model("efficientdet-d0").override(settings))


@pytest.fixture
def images():
    return tf.random.stateless_uniform([2, 64, 64, 3], [1, 2], 0, 255)


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)


def test_outputs_are_those_of_the_model_when_it_was_frozen(model, images):
    network = freeze_network(model, (64, 64))
    expected = {name: value.numpy() for name, value in model(images, training=False).items()}
    [bias] = [w for w in model.get_layer("class_head").weights if w.shape == (27,)]
    bias.assign(bias + 1.0)
    assert_same(network(images, training=False), expected)


def test_outputs_are_the_same_with_swish_and_squeeze_and_excitation(swish_model, images):
    expected = swish_model(images, training=False)
    assert_same(freeze_network(swish_model, (64, 64))(images), expected)


def test_it_cannot_be_trained(model):
    with pytest.raises(ValueError, match="^training: a frozen network cannot be trained$"):
        freeze_network(model, (64, 64))(tf.zeros([1, 64, 64, 3]), training=True)


@pytest.mark.parametrize("name", ["model", "swish_model"])
def test_batch_norm_is_part_of_the_convolutions(name, request):
    network = freeze_network(request.getfixturevalue(name), (64, 64))
    function = tf.function(network, autograph=False)
    concrete = function.get_concrete_function(tf.TensorSpec([1, 64, 64, 3]))
    [called] = concrete.graph.as_graph_def().library.function
    found = {node.op for node in called.node_def}
    assert found.isdisjoint({"FusedBatchNormV3", "IdentityN"})


def fold(function, *shape):
    """Fold the graph of a function of one tensor; return its operations and the folded function."""
    concrete = tf.function(function).get_concrete_function(tf.TensorSpec(shape))
    [pixels], [output] = concrete.inputs, concrete.outputs
    graph = graph_folding.fold(concrete.graph.as_graph_def(), [output.op.name, pixels.op.name])
    folded = tf.compat.v1.wrap_function(
        lambda x: tf.graph_util.import_graph_def(graph, {pixels.name: x}, [output.name]),
        [tf.TensorSpec(shape)],
    )
    return [node.op for node in graph.node if node.op != "Const"], lambda x: folded(x)[0]


def batch_norm(values):
    channels = values.shape[-1]
    starts = (0.5, -1.0, 0.1, 0.2)
    parameters = [np.linspace(start, 1, channels, dtype=np.float32) for start in starts]
    return tf.compat.v1.nn.fused_batch_norm(values, *parameters, is_training=False)[0]


KERNEL = np.random.default_rng(0).normal(size=[3, 3, 2, 4]).astype(np.float32)
CASES = {
    "convolution": (
        lambda x: batch_norm(tf.nn.conv2d(x, KERNEL, 1, "SAME")),
        ["Placeholder", "Conv2D", "BiasAdd", "Identity"],
    ),
    "convolution with bias": (
        lambda x: batch_norm(tf.nn.bias_add(tf.nn.conv2d(x, KERNEL, 1, "SAME"), [1.0, 2, 3, 4])),
        ["Placeholder", "Conv2D", "BiasAdd", "Identity"],
    ),
    "depthwise convolution with a multiplier": (
        lambda x: batch_norm(tf.nn.depthwise_conv2d(x, KERNEL, [1, 2, 2, 1], "SAME")),
        ["Placeholder", "DepthwiseConv2dNative", "BiasAdd", "Identity"],
    ),
    "division of the pixels": (
        lambda x: tf.nn.conv2d(x / tf.constant([2.0, 3.0]), KERNEL, 1, "SAME"),
        ["Placeholder", "Conv2D", "Identity"],
    ),
    "swish": (
        lambda x: tf.nn.swish(tf.identity(x)),
        ["Placeholder", "Sigmoid", "Mul", "Identity"],
    ),
    "batch norm without a convolution": (
        lambda x: batch_norm(tf.nn.relu(x)),
        ["Placeholder", "Relu", "FusedBatchNormV3", "Identity"],
    ),
    "a convolution with a computed kernel": (
        lambda x: batch_norm(tf.nn.conv2d(x, KERNEL * tf.reduce_max(x), 1, "SAME")),
        ["Placeholder", "Max", "Mul", "Conv2D", "FusedBatchNormV3", "Identity"],
    ),
    "a division by a computed value": (
        lambda x: tf.nn.conv2d(x / tf.reduce_max(x), KERNEL, 1, "SAME"),
        ["Placeholder", "Max", "RealDiv", "Conv2D", "Identity"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_graph_is_folded_and_computes_the_same(name):
    function, expected = CASES[name]
    found, folded = fold(function, 2, 5, 6, 2)
    assert sorted(found) == sorted(expected)
    values = tf.random.stateless_uniform([2, 5, 6, 2], [1, 2], -1, 3)
    np.testing.assert_allclose(folded(values), function(values), rtol=1e-5, atol=1e-5)
