"""NAS-FPN beyond the contract: the published cell, other cells, another implementation."""

import numpy as np
import pytest
import tf_keras as keras
from official.vision.modeling.decoders import nasfpn as official_nasfpn

from keras_layers.feature_network import build_feature_network
from keras_layers.fusion_graph import Node
from keras_layers.nasfpn import BLOCK_SPECS, NASFPN
from keras_layers.resample import max_pool_to

# The published profile: dense convolutions with bias and BatchNorm.
PUBLISHED = {"separable": False, "activation": "relu"}


def test_nodes_of_the_published_cell():
    assert NASFPN().make_nodes([3, 4, 5, 6, 7]) == [
        Node(4, (3, 1), fusion="attention_max"),
        Node(4, (1, 5)),
        Node(3, (0, 6)),
        Node(4, (6, 7)),
        # Level 5 and level 7 of the input, which nothing has read, are added.
        Node(5, (8, 7), block=None, fusion="attention_max"),
        Node(5, (9, 2)),
        Node(7, (10, 6), block=None, fusion="attention_max"),
        Node(7, (11, 4)),
        Node(6, (12, 10), fusion="attention_max"),
    ]


def test_parameters_with_a_resnet(num_parameters):
    network = NASFPN(num_filters=256, num_repeats=1, conv_block=PUBLISHED)
    widths = {3: 512, 4: 1024, 5: 2048, 6: 256, 7: 256}
    network({level: keras.Input((8, 8, width)) for level, width in widths.items()})
    cell, inputs = num_parameters(*network.nodes), num_parameters(*network.projections)
    assert (inputs + 5 * cell, inputs + 7 * cell) == (21_590_528, 29_858_816)


def test_two_cells_are_full(features_of, randomize):
    features = features_of((128, 128))
    network = NASFPN(num_filters=8, num_repeats=2)
    network(features)
    randomize(network)
    before = network(features)
    for source in features:
        after = network({**features, source: features[source] + 1.0})
        assert all(np.any(before[level] != after[level]) for level in features)


@pytest.mark.parametrize("pool", ["max", "avg"])
def test_attention_is_gated_by_the_higher_level(pool, features_of, identity_weights):
    specs = [(3, "attention", (0, 1), True), (4, "attention", (0, 1), True)]
    block = {"separable": False, "activation": None, "norm": False}
    network = NASFPN(
        num_filters=2, num_repeats=1, conv_block=block, block_specs=specs, global_pool=pool
    )
    random = np.random.default_rng(0)
    fine, coarse = (random.normal(size=(1, n, n, 2)).astype(np.float32) for n in (4, 2))
    network({3: fine, 4: coarse})
    identity_weights(network)
    outputs = network({3: fine, 4: coarse})
    pooled = (np.max if pool == "max" else np.mean)(coarse, axis=(1, 2), keepdims=True)
    gate = 1 / (1 + np.exp(-pooled))
    up, down = coarse.repeat(2, 1).repeat(2, 2), fine.reshape(1, 2, 2, 2, 2, 2).max(axis=(2, 4))
    np.testing.assert_allclose(outputs[3], up + gate * fine, rtol=1e-5)
    np.testing.assert_allclose(outputs[4], coarse + gate * down, rtol=1e-5)


def test_agrees_with_the_nasfpn_of_tf_models(features_of):
    features = features_of((128, 256), widths=(16, 24, 32), num_filters=256, batch_size=1)
    network = NASFPN(num_filters=256, num_repeats=2, conv_block=PUBLISHED)
    network(features)
    specs = {str(level): features[level].shape for level in (3, 4, 5)}
    theirs = official_nasfpn.NASFPN(specs, num_filters=256, num_repeats=2)
    random = np.random.default_rng(2)
    for ours, kind in (("conv", keras.layers.Conv2D), ("bn", keras.layers.BatchNormalization)):
        # Both make their layers in the same order: projections, then merging cells.
        layers = [layer for layer in theirs.layers if isinstance(layer, kind)]
        layers.sort(key=_number)
        others = [weight for layer in layers for weight in layer.trainable_weights]
        others += [weight for layer in layers for weight in layer.non_trainable_weights]
        weights = [weight for weight in network.weights if f"/{ours}/" in weight.name]
        assert len(weights) == len(others)
        for weight, other in zip(weights, others):
            fan_in = np.prod(weight.shape[:-1]) if weight.shape.rank > 1 else 10
            value = random.normal(size=weight.shape) * (2 / fan_in) ** 0.5
            if "gamma" in weight.name or "variance" in weight.name:
                value = np.abs(value) + 0.5
            weight.assign(value)
            other.assign(value)
    x = network.projections[2](features[5])
    for level in (6, 7):
        height, width = features[level].shape[1:3]
        x = features[level] = max_pool_to(x, height, width, "s")
    expected = theirs({str(level): features[level] for level in (3, 4, 5)}, training=False)
    for level, x in network(features).items():
        np.testing.assert_allclose(x, expected[str(level)], rtol=1e-4, atol=1e-4)


def _number(layer: keras.layers.Layer) -> int:
    """Which of its kind a layer is by its automatic name."""
    end = layer.name.rpartition("_")[2]
    return int(end) if end.isdigit() else 0


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        ([(3, "sum", (0, 1))], "(3, 'sum', (0, 1)) is not (level, operation, (id, id), is output)"),
        ([(3, "sum", (0,), True)], "(3, 'sum', (0,), True) is not (level, operation, (id, id), is"),
        ([(3, "product", (0, 1), True)], "'product' is not one of sum, attention"),
    ],
)
def test_block_specs_are_checked(specs, expected):
    with pytest.raises(ValueError) as error:
        build_feature_network("nasfpn", {"block_specs": specs}, num_filters=8)
    assert str(error.value).startswith(f"options.block_specs: {expected}")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({0: (8, "sum", (1, 3), False)}, "5 is of level 8, not one of [3, 4, 5, 6, 7]"),
        ({1: (4, "sum", (1, 6), False)}, "6 reads (1, 6), not two ids below its own"),
        ({1: (4, "sum", (-1, 5), False)}, "6 reads (-1, 5), not two ids below its own"),
        ({2: (4, "sum", (0, 6), True)}, "outputs are of levels [4, 4, 5, 7, 6], and have to be"),
        ({1: (4, "sum", (1, 5), True)}, "outputs are of levels [4, 3, 4, 5, 7, 6], and have to"),
    ],
)
def test_block_specs_fit_the_levels(changed, expected, features_of):
    specs = [changed.get(i, spec) for i, spec in enumerate(BLOCK_SPECS)]
    with pytest.raises(ValueError) as error:
        NASFPN(num_filters=8, block_specs=specs)(features_of((64, 64)))
    assert str(error.value).startswith(f"block_specs: {expected}")


@pytest.mark.parametrize(("first", "last"), [(3, 8), (4, 7), (4, 8)])
def test_the_published_cell_is_of_five_levels(first, last):
    shapes = {level: (None, 4, 4, 8) for level in range(first, last + 1)}
    expected = (
        f"block_specs: the published cell is for levels 3 to 7, not {first} to {last}; set cells "
        "for these, or another feature network"
    )
    with pytest.raises(ValueError, match=f"^{expected}$"):
        NASFPN(num_filters=8).build(shapes)
