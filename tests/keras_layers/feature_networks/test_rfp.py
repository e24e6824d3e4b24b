"""RFP with backbones: feedback, weights, statistics and gradients."""

import re

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.backbones import build_backbone
from efficientdet_tf.complexity import measure_parts
from keras_layers.feature_network import build_feature_network
from keras_layers.network_graph import graph_of
from keras_layers.resample import ExtraLevels
from keras_layers.rfp import ASPP, RFP

SMALL = {"width": 0.25, "depth": 0.2}


class Pyramid:
    """A backbone, the extra levels and a network, connected in a model."""

    def __init__(
        self, name="efficientnet-b0", scale=SMALL, num_filters=8, size=(64, 96), **options
    ):
        self.backbone = build_backbone(name, **scale)
        self.network = RFP(num_filters=num_filters, name="feature_network", **options)
        self.extra = ExtraLevels(
            num_filters, 7, self.network.projection_block(), min_level=3, name="extra_levels"
        )
        images = keras.Input((*size, 3))
        outputs = self.network.from_images(images, self.backbone, self.extra)
        self.model = keras.Model(images, outputs)

    def first_pass(self, images):
        return self.network(self.extra(self.backbone(images)))


@pytest.fixture(scope="module")
def images():
    return tf.random.stateless_normal([2, 64, 96, 3], [1, 2])


@pytest.fixture(scope="module")
def shared():
    return Pyramid(share_backbone=True)


def feed_back(pyramid, value=0.1):
    for conv in pyramid.network.feedback_convs:
        conv.set_weights([np.full(w.shape, value) for w in conv.get_weights()])


def test_parameters_at_the_size_of_d0(num_parameters):
    pyramid = Pyramid(scale={}, num_filters=64, share_backbone=True)
    assert num_parameters(pyramid.extra, pyramid.network) == 116_665
    # The backbone is not a part of the network; its weights keep their names.
    assert num_parameters(pyramid.model) == 116_665 + num_parameters(pyramid.backbone)
    assert all(w.name.startswith("backbone/") for w in pyramid.backbone.weights)


def test_multiply_adds_at_the_size_of_d0():
    """A further pass without the backbone: extra levels, base, feedback and gate."""
    once, twice = (
        measure_parts(
            Pyramid(
                scale={}, num_filters=64, size=(512, 512), share_backbone=True, steps=steps
            ).model
        )
        for steps in (1, 2)
    )
    added = twice["feature_network"].multiply_adds - once["feature_network"].multiply_adds
    assert added - once["backbone"].multiply_adds == 177_624_064
    # At levels 3 to 5, ASPP has 1x1, two 3x3 and, of the average, another 1x1 convolution.
    positions, levels = 64**2 + 32**2 + 16**2, 3
    aspp = positions * (1 + 2 * 9) * 64 * 16 + levels * 64 * 16
    # To the widths of the first blocks of the levels.
    feedback = 64 * (64**2 * 40 + 32**2 * 80 + 16**2 * 192)
    gate = 64 * (positions + 8**2 + 4**2)
    base = once["extra_levels"].multiply_adds + once["feature_network"].multiply_adds
    assert added - once["backbone"].multiply_adds == base + aspp + feedback + gate


def test_parameters_with_a_resnet(num_parameters):
    backbone, aspp = build_backbone("resnet50"), ASPP(256)
    aspp(tf.zeros([1, 8, 8, 256]))
    assert num_parameters(aspp) == 327_936
    assert sum(257 * width for width in backbone.feedback_widths.values()) == 921_088


def test_a_backbone_of_its_own(num_parameters):
    pyramid = Pyramid()
    [copy] = pyramid.network.backbone_copies
    assert len(copy.weights) == len(pyramid.backbone.weights)
    assert all(w.name.startswith("feature_network/backbone/") for w in copy.weights)
    shared = Pyramid(share_backbone=True)
    assert num_parameters(pyramid.network) == num_parameters(shared.network, copy)
    assert num_parameters(pyramid.model) == num_parameters(
        pyramid.backbone, pyramid.extra, pyramid.network
    )


def test_the_start_is_the_first_pass(shared, images):
    expected = shared.first_pass(images)
    for level, x in shared.model(images).items():
        assert np.std(x) > 0
        np.testing.assert_allclose(x, expected[level], rtol=1e-4, atol=1e-5)


def test_xla_compiles_it(shared, images):
    compiled = tf.function(shared.model, jit_compile=True)(images)
    for level, x in shared.model(images).items():
        np.testing.assert_allclose(compiled[level], x, rtol=1e-3, atol=1e-4)


def test_one_step_is_the_base(images, num_parameters):
    pyramid = Pyramid(steps=1)
    assert num_parameters(pyramid.network) == num_parameters(pyramid.network.pyramid)
    expected = pyramid.first_pass(images)
    for level, x in pyramid.model(images).items():
        np.testing.assert_array_equal(x, expected[level])


@pytest.mark.parametrize("steps", [2, 3])
def test_the_equations_of_a_step(images, steps):
    keras.utils.set_random_seed(0)
    pyramid = Pyramid(share_backbone=True, steps=steps)
    feed_back(pyramid)
    network = pyramid.network
    network.gate.set_weights([np.full(w.shape, 0.2) for w in network.gate.get_weights()])
    x = pyramid.first_pass(images)
    for _ in range(steps - 1):
        feedback = {
            level: conv(network.aspp(x[level]))
            for level, conv in zip((3, 4, 5), network.feedback_convs)
        }
        again = network(pyramid.extra(pyramid.backbone(images, feedback=feedback)))
        gates = {level: tf.sigmoid(network.gate(again[level])) for level in x}
        x = {level: gates[level] * again[level] + (1 - gates[level]) * x[level] for level in x}
    first = pyramid.first_pass(images)
    for level, output in pyramid.model(images).items():
        assert np.max(np.abs(output - first[level])) > 1e-3
        np.testing.assert_allclose(output, x[level], rtol=1e-3, atol=1e-4)


def test_the_graph_has_the_dependencies_and_the_weights(images):
    pyramid = Pyramid()
    network = pyramid.network
    graph = graph_of(network)
    feed_back(pyramid)
    features = pyramid.extra(pyramid.backbone(images))
    before = network(features, images=images)
    for source in features:
        after = network({**features, source: features[source] + 1.0}, images=images)
        reached = [np.any(before[level] != after[level]) for level in features]
        np.testing.assert_array_equal(graph.dependencies()[:, source - 3], reached)
    layers = [layer for node in graph.nodes for layer in (*node.layers, *node.fusions)]
    found = {weight.name for layer in layers for weight in layer.weights}
    assert found == {weight.name for weight in network.weights}


@pytest.mark.parametrize("share_backbone", [True, False])
def test_statistics_are_those_of_the_first_pass(images, share_backbone):
    pyramid = Pyramid(share_backbone=share_backbone)
    feed_back(pyramid)
    base = [*pyramid.backbone.weights, *pyramid.extra.weights, *pyramid.network.pyramid.weights]
    start = [weight.numpy() for weight in base]
    pyramid.model(images, training=True)
    found = [weight.numpy() for weight in base]
    copies = [w for copy in pyramid.network.backbone_copies for w in copy.weights]
    assert not [w.name for w in copies if "moving_mean" in w.name and not np.any(w)]
    for weight, value in zip(base, start):
        weight.assign(value)
    features = pyramid.extra(pyramid.backbone(images, training=True), training=True)
    pyramid.network(features, training=True)
    assert np.any([np.any(a != b) for a, b in zip(start, found)])
    for weight, value in zip(base, found):
        np.testing.assert_allclose(weight, value, rtol=1e-4, atol=1e-6, err_msg=weight.name)


@pytest.mark.parametrize("share_backbone", [True, False])
def test_gradients(images, share_backbone):
    """The feedback is initially zero: ASPP has no gradient until its weights change."""
    pyramid = Pyramid(share_backbone=share_backbone)

    def without_gradient():
        with tf.GradientTape() as tape:
            outputs = pyramid.model(images, training=True)
            loss = tf.add_n([tf.reduce_sum(x * tf.sin(x)) for x in outputs.values()])
        weights = pyramid.model.trainable_weights
        gradients = tape.gradient(loss, weights)
        assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
        return {w.name for w, gradient in zip(weights, gradients) if not np.any(gradient != 0)}

    at_start = without_gradient()
    assert not [name for name in at_start if "/feedback_" in name]
    assert {name for name in at_start if "/aspp/" in name} == {
        weight.name for weight in pyramid.network.aspp.weights
    }
    for conv in pyramid.network.feedback_convs:
        shape = conv.kernel.shape
        conv.kernel.assign(tf.random.stateless_normal(shape, [1, 2]) * 0.1)
    assert not [name for name in without_gradient() if name.startswith("feature_network/")]


@pytest.mark.parametrize("name", ["efficientnet-lite0", "resnet50"])
def test_what_is_fed_back_is_added_to_the_first_block_of_a_level(name):
    backbone = build_backbone(name, **(SMALL if "lite" in name else {}))
    images = tf.random.stateless_normal([1, 64, 64, 3], [1, 2])
    before = backbone(images)
    sizes = {level: before[level].shape[1:3] for level in (3, 4, 5)}
    zeros = {
        level: tf.zeros([1, *sizes[level], width])
        for level, width in backbone.feedback_widths.items()
    }
    for x, expected in zip(backbone(images, feedback=zeros).values(), before.values()):
        np.testing.assert_array_equal(x, expected)
    for level in zeros:
        after = backbone(images, feedback={level: zeros[level] + 1})
        assert [other for other in after if np.any(after[other] != before[other])] == list(
            range(level, 6)
        )
    if name == "resnet50":
        # Before the block's last activation.
        assert backbone.stages[1].name == "to_conv3_block1_add"


def test_a_backbone_without_feedback_is_named():
    backbone = build_backbone("efficientnet-b0", **SMALL)
    backbone.feedback_widths = {}
    network = build_feature_network("rfp", num_filters=8)
    expected = "name: rfp feeds its output back into the backbone, and efficientnet-b0 has no input"
    with pytest.raises(ValueError, match=f"^{expected} for it; choose another"):
        network.from_images(keras.Input((64, 64, 3)), backbone, ExtraLevels(8, 7))


def test_a_model_that_a_config_cannot_make_says_so(shared):
    expected = (
        "name: rfp runs the backbone again, which a Keras config does not hold; build the model by "
        "efficientdet_tf.model.build and load its weights"
    )
    with pytest.raises(ValueError, match=re.escape(expected)):
        keras.Model.from_config(shared.model.get_config())


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("rfp", {"num_filters": 63}, "num_filters: 63 is no multiple of 4"),
        ("rfp", {"options": {"steps": 0}}, "options.steps: 0 is below 1"),
        (
            *("bfp", {"options": {"base": "rfp"}}),
            "options.base: rfp needs the backbone, which a base does not get",
        ),
    ],
)
def test_wrong_values(name, changes, expected):
    with pytest.raises(ValueError) as error:
        build_feature_network(name, **({"num_filters": 8} | changes))
    assert str(error.value) == expected
