"""Fusion weights of the report: values, names of nodes and inputs, and their chart."""

import numpy as np
import pytest
import tf_keras as keras

from efficientdet_tf.report.charts import weights_chart
from efficientdet_tf.report.fusion_weights import fusion_weights
from keras_layers.feature_network import build_feature_network


def model_of(name, fusion, num_repeats=1, levels=(3, 4, 5), options=None):
    """A network of tiny features whose scalar weights are 1, 2, 3, ... in their order."""
    inputs = {level: keras.Input((64 >> level, 64 >> level, 4)) for level in levels}
    network = build_feature_network(
        *(name, options),
        num_filters=4,
        num_repeats=num_repeats,
        fusion=fusion,
    )
    model = keras.Model(inputs, network(inputs))
    fusions = [weight for weight in model.weights if "/weight_" in weight.name]
    for number, weight in enumerate(fusions):
        weight.assign(np.arange(1.0, 1 + np.prod(weight.shape)).reshape(weight.shape) + number)
    return model


def test_weights_of_bifpn_are_normalised_and_named():
    found = fusion_weights(model_of("bifpn", "fast", num_repeats=2))
    assert [(item.stage, item.cell, item.node, item.inputs, item.distances) for item in found] == [
        ("BiFPN", cell, *rest)
        for cell in (1, 2)
        for rest in (
            ("P4.1", ("P4 in", "P5 in"), (0, 1)),
            ("P3 out", ("P3 in", "P4.1"), (0, 1)),
            ("P4 out", ("P4 in", "P4.1", "P3 out"), (0, 0, -1)),
            ("P5 out", ("P5 in", "P4 out"), (0, -1)),
        )
    ]
    # The first node has the weights 1 and 2; the third 5, 6 and 7.
    np.testing.assert_allclose(found[0].means, [1 / 3.0001, 2 / 3.0001], rtol=1e-6)
    np.testing.assert_allclose(found[2].means, np.array([5, 6, 7]) / 18.0001, rtol=1e-6)


@pytest.mark.parametrize("method", ["unbounded", "softmax", "fast", "channel_softmax"])
def test_weights_are_those_of_the_fusion(method):
    model = model_of("bifpn", method)
    nodes = model.get_layer("feature_network").nodes
    for item, node in zip(fusion_weights(model), nodes, strict=True):
        expected = node.fusion.normalized_weights().numpy()
        np.testing.assert_array_equal(item.weights, expected.reshape(len(item.inputs), -1))
        np.testing.assert_allclose(item.means, expected.reshape(len(item.inputs), -1).mean(axis=1))
        assert item.method == method


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        # Two gates; two sums of a module; the two that a base has; as in the tables of nodes.
        ("attention_fpn", {"context": "none"}, 2),
        ("mlfpn", {}, 2),
        ("asff", {}, 2),
        ("fpn", {"variant": "lin2017"}, 2),
        ("fpt", {"num_parts": 1}, 0),
        ("efm", {}, 0),
    ],
)
def test_any_network_with_such_weights(name, options, count):
    found = fusion_weights(model_of(name, "fast", options=options))
    assert len(found) == count
    for item in found:
        np.testing.assert_allclose(item.means.sum(), 1, rtol=1e-3)


def test_a_network_of_sums_has_none():
    assert fusion_weights(model_of("bifpn", "sum")) == []


def test_bars_are_as_long_as_the_weights():
    found = fusion_weights(model_of("bifpn", "fast"))
    chart = weights_chart("a", found)
    bars = [item for item in chart.iter("rect")]
    means = np.concatenate([item.means for item in found])
    widths = np.array([float(item.get("width")) for item in bars])
    np.testing.assert_allclose(widths / widths.max(), means / means.max(), atol=1e-3)
    hints = [item.find("title").text for item in bars]
    assert hints[0] == "P4 in \u2192 P4.1: 0.3333"


def test_negative_weights_go_to_the_left():
    model = model_of("bifpn", "unbounded")
    fusion = model.get_layer("feature_network").nodes[0].fusion
    fusion.edge_weights[0].assign(-1.0)
    first, second, *_ = weights_chart("a", fusion_weights(model)).iter("rect")
    zero = float(second.get("x"))
    assert float(first.get("x")) + float(first.get("width")) == pytest.approx(zero, abs=0.02)
