"""Contract of the feature networks, and their specification in numbers.

A new network adds rows to `ROWS`, and a file of checks of its own beside this one.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from cases import few
from efficientdet_tf.anchors import feature_sizes
from efficientdet_tf.complexity import measure
from keras_layers import feature_network
from keras_layers.feature_network import build_feature_network
from keras_layers.network_graph import graph_of
from keras_layers.resample import ExtraLevels

FULL = np.ones([5, 5], bool)
# Row: level of the output; column: level of the input.
UPPER = np.triu(FULL)
NEIGHBOURS = np.tril(np.triu(FULL, -1), 1)


class Row(NamedTuple):
    """A network with options of its own, and its specification.

    Args:
      name, options, fusion: as in a config.
      parameters: {repeats: trainable parameters with level 6's projection} for D0's widths.
      depends: bool [5, 5] of one cell: whether a level of the output depends on one of the
        input.
      repeats: the fewest cells that it works with.
      multiply_adds: {repeats: millions, of D0's image of 512 pixels}, of convolutions and
        matrix products, with level 6's projection.
    """

    name: str
    parameters: dict[int, int]
    depends: np.ndarray
    fusion: str = "sum"
    options: dict[str, Any] = {}
    repeats: int = 1
    multiply_adds: dict[int, int] = {}


def levels_of(*rows: str) -> np.ndarray:
    """Levels of the input that levels 3 to 7 of the output depend on, as digits."""
    return np.array([[str(level) in row for level in range(3, 8)] for row in rows])


DENSE = {"conv_block": "dense"}
# Published ones, and `light` and `dense` formulas: C**2 + 12 C or 9 C**2 + 2 C for a node.
ROWS = [
    Row("bifpn", {3: 196_281}, FULL, "fast", multiply_adds={3: 136}),
    Row("bifpn", {3: 196_224}, FULL),
    Row("bifpn", {3: 199_872}, FULL, "channel_fast"),
    Row("bifpn", {3: 966_969}, FULL, "fast", DENSE, multiply_adds={3: 793}),
    Row("bifpn", {3: 196_281}, FULL, "fast", {"conv_after_downsample": True}),
    # Six projections without gamma and beta.
    Row("bifpn", {3: 196_281 - 6 * 128}, FULL, "fast", {"projection_norm": False}),
    Row("fpn", {1: 75_776, 6: 197_376}, UPPER, multiply_adds={1: 54, 6: 181}),
    Row("fpn", {1: 236_160}, UPPER, "sum", DENSE, multiply_adds={1: 229}),
    Row("fpn", {1: 75_776, 3: 124_416}, UPPER, "sum", {"variant": "lin2017"}),
    # RetinaNet's coarse levels are computed from level 5: 3 nodes, 2 strided convolutions; level 6
    # is not projected.
    Row(
        *("fpn", {1: 30_784 + 5 * 4864}, levels_of("345", "45", "5", "5", "5"), "sum"),
        {"coarse_levels": "strided"},
    ),
    # The strided convolution of level 5 reads all of its 320 filters.
    Row(
        *("fpn", {1: 30_784 + 4 * 4864 + 9 * 320 + 320 * 64 + 3 * 64}),
        *(levels_of("345", "45", "5", "5", "5"), "sum"),
        {"coarse_levels": "strided", "source": "input", "variant": "lin2017"},
    ),
    Row("pafpn", {1: 100_096, 3: 197_376}, FULL, multiply_adds={1: 79, 3: 181}),
    Row("pafpn", {1: 421_120}, FULL, "sum", DENSE),
    Row("pafpn", {1: 100_096, 3: 197_376}, FULL, "sum", {"chain": "pre"}),
    Row("pafpn", {1: 114_688}, FULL, "sum", {"downsample": "conv"}, multiply_adds={1: 67}),
    Row("pafpn", {1: 532_096}, FULL, "sum", {"downsample": "conv"} | DENSE, multiply_adds={1: 330}),
    Row("pafpn", {1: 114_688}, FULL, "sum", {"downsample": "conv", "chain": "pre"}),
    Row("simplified_panet", {3: 168_192}, FULL, multiply_adds={3: 124}),
    Row("simplified_panet", {3: 939_008}, FULL, "sum", DENSE),
    Row("fully_connected", {3: 247_552, 6: 320_512}, FULL, multiply_adds={3: 197, 6: 274}),
    Row("fully_connected", {3: 728_448}, FULL, "sum", DENSE),
    Row("fully_connected", {3: 247_552}, FULL, "sum", {"conv_after_downsample": True}),
    # 21 nodes with 48 edges in a cell; levels 3 to 5 are projected 3, 4 and 4 times, level 6 once.
    Row(
        *("qufpn", {1: 21 * 4864 + 48 + 3 * 2752 + 4 * 7360 + 5 * 20_672}, FULL, "fast"),
    ),
    Row("bfp", {1: 75_776 + 16_640}, FULL, multiply_adds={1: 205}),
    Row("bfp", {1: 236_160 + 16_640}, FULL, "sum", DENSE),
    Row("bfp", {1: 75_776}, FULL, "sum", {"refine": "none"}, multiply_adds={1: 54}),
    Row("bfp", {1: 75_776 + 4864}, FULL, "sum", {"refine": "conv", "level": 5}),
    Row("bfp", {1: 100_096 + 2 * 4160}, FULL, "sum", {"base": "pafpn", "embedded": False}),
    Row("efm", {1: 75_776}, NEIGHBOURS, multiply_adds={1: 54}),
    Row("efm", {1: 236_160}, NEIGHBOURS, "sum", DENSE),
    # Two levels have 2 sources, three have 3.
    Row(
        *("efm", {1: 75_776 + 13 * 128 * 64 + 5 * 128}, NEIGHBOURS, "sum"),
        {"compress": "maxout_affine"},
    ),
    Row(
        *("efm", {1: 75_776 + 13 * 64 * 64 + 5 * 64 + 256 * 64 + 3 * 64}, NEIGHBOURS, "sum"),
        {"compress": "conv1x1", "spp": True},
    ),
    Row("asff", {1: 177_561}, FULL, multiply_adds={1: 118}),
    Row("asff", {1: 819_465}, FULL, "sum", DENSE, multiply_adds={1: 527}),
    # 13 sources instead of 25, 4 of them finer ones, whose base does not see finer ones still.
    Row(
        "asff",
        {1: 75_776 + 9 * 4864 + 13 * (64 * 8 + 3 * 8) + 2 * (16 * 2 + 2) + 3 * (24 * 3 + 3)},
        *(np.triu(FULL, -1), "sum", {"sources": "adjacent", "weight_filters": 8}),
    ),
    # As many pathways as levels.
    Row("fpg", {9: 647_680}, FULL, repeats=5, multiply_adds={9: 467}),
    Row("fpg", {9: 2_603_072}, FULL, "sum", DENSE, repeats=5),
    Row("fpg", {9: 811_264}, FULL, "sum", {"truncate": False}, repeats=4, multiply_adds={9: 742}),
    Row("attention_fpn", {1: 112_384}, UPPER, "sum", {"context": "none"}, multiply_adds={1: 79}),
    Row("attention_fpn", {1: 401_024}, UPPER, "sum", {"context": "none"} | DENSE),
    Row(
        *("attention_fpn", {1: 112_384 - 4 * 128}, UPPER, "sum"),
        {"context": "none", "attention_norm": False},
    ),
    # Instead of four gates of 64 * 64 + 3 * 64: two squeeze-and-excitations, or a 7x7 convolution.
    Row(
        *("attention_fpn", {1: 112_384 - 4 * 4288 + 8 * (2 * 64 * 4 + 4 + 64)}, UPPER, "sum"),
        {"context": "none", "attention": "se"},
    ),
    Row(
        *("attention_fpn", {1: 112_384 - 4 * 4288 + 4 * (7 * 7 * 2 + 1)}, UPPER, "sum"),
        {"context": "none", "attention": "spatial"},
    ),
    Row("mlfpn", {4: 445_368, 8: 936_584}, levels_of(*["35"] * 5), multiply_adds={4: 453, 8: 907}),
    Row("mlfpn", {4: 1_556_048}, levels_of(*["35"] * 5), "sum", DENSE),
    Row(
        *("mlfpn", {4: 445_368 - 2 * 64 * (320 - 112)}, levels_of(*["34"] * 5), "sum"),
        {"deep_level": 4},
    ),
    Row("fpt", {1: 481_536}, FULL, multiply_adds={1: 1296}),
    Row("fpt", {1: 2_088_640}, FULL, "sum", DENSE),
    # Without the weights of the parts, for levels and pairs of levels.
    Row(
        *("fpt", {1: 481_536 - 5 * 128 - 10 * 64}, FULL, "sum"),
        {"num_parts": 1, "local_window": 3},
    ),
    Row("fpt", {1: 481_536 - 10 * 64}, FULL, "sum", {"similarity": "dot"}),
    # Without images its base alone; see test_rfp.py.
    Row("rfp", {}, UPPER),
    Row(
        *("nasfpn", {3: 153_600, 5: 221_696}),
        levels_of("346", "346", "3456", "34567", "34567"),
        # The specification rounds the first, 133.49, to 134.
        multiply_adds={3: 133, 5: 204},
    ),
    Row(
        *("nasfpn", {3: 828_032}),
        *(levels_of("346", "346", "3456", "34567", "34567"), "sum", DENSE),
    ),
]
# Properties independent of the kind of convolution are tested with these,
SHAPES = [row for row in ROWS if "conv_block" not in row.options and row.fusion != "channel_fast"]
# and what takes long or does not depend on options of the first row of each network.
FIRST = list({row.name: row for row in reversed(ROWS)}.values())[::-1]
NAMES = [row.name for row in FIRST]


def title(row: Any) -> str | None:
    if not isinstance(row, Row):
        return None
    return "-".join([row.name, row.fusion, *map(str, row.options.values())])


def build(row: Row, num_filters=8, num_repeats=None):
    return build_feature_network(
        *(row.name, row.options),
        num_filters=num_filters,
        num_repeats=num_repeats or row.repeats,
        fusion=row.fusion,
    )


@pytest.fixture(scope="module")
def trained(features_of, randomize):
    """Function that builds the network of a row with one cell and random weights."""

    @functools.cache
    def make(index):
        network = build(ROWS[index])
        network(features_of((64, 64)))
        randomize(network)
        return network

    return lambda row: make(next(i for i, other in enumerate(ROWS) if other is row))


def test_every_network_has_a_row():
    classes = {feature_network.network_class(name) for name in feature_network.NETWORKS}
    assert classes == {feature_network.network_class(row.name) for row in ROWS}


@pytest.mark.parametrize("size", [(96, 160), (127, 65)], ids=str)
@pytest.mark.parametrize("row", SHAPES, ids=title)
def test_levels_keep_their_sizes(row, size, trained, features_of):
    outputs = trained(row)(features_of(size))
    assert {level: tuple(x.shape) for level, x in outputs.items()} == {
        level: (2, *feature_sizes(size, 7)[level], 8) for level in range(3, 8)
    }


@pytest.mark.parametrize("row", FIRST, ids=title)
def test_levels_up_to_8(row):
    if row.name == "nasfpn":
        pytest.skip("the published cell is of 5 levels")
    sizes = feature_sizes((255, 257), 8)
    inputs = {
        level: tf.ones([1, *sizes[level], (40, 112, 320, 6, 6, 6)[level - 3]])
        for level in range(3, 9)
    }
    outputs = build(row, 8, row.repeats if row.repeats == 1 else 6)(inputs)
    assert {level: tuple(x.shape) for level, x in outputs.items()} == {
        level: (1, *sizes[level], 8) for level in range(3, 9)
    }


class Backbone(keras.layers.Layer):
    """Maps of the sizes and widths of D0's backbone, without weights and multiply-adds."""

    def call(self, images):
        return {
            level: tf.tile(images[:, :: 2**level, :: 2**level, :1], [1, 1, 1, width])
            for level, width in ((3, 40), (4, 112), (5, 320))
        }


class Chain(keras.Model):
    """Layers in a row. Called on values, they are built in a fraction of a graph's time."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    def call(self, inputs):
        return functools.reduce(lambda x, part: part(x), self.parts, inputs)


@pytest.mark.parametrize(
    ("row", "num_repeats"),
    few(
        [(row, repeats) for row in ROWS for repeats in row.parameters],
        lambda case: case[0] in FIRST and case[1] == min(case[0].parameters),
    ),
    ids=title,
)
def test_parameters_and_multiply_adds_at_the_size_of_d0(row, num_repeats, num_parameters):
    network = build(row, 64, num_repeats)
    extra = ExtraLevels(64, 7, network.projection_block(), project=network.reads_extra_levels)
    Chain(Backbone(), extra, network)(tf.zeros([1, 128, 128, 3]))
    assert num_parameters(extra, network) == row.parameters[num_repeats]
    if num_repeats in row.multiply_adds:
        images = keras.Input((512, 512, 3))
        model = keras.Model(images, network(extra(Backbone()(images))))
        millions = measure(model).multiply_adds / 1e6
        assert round(millions) == row.multiply_adds[num_repeats]


@pytest.mark.parametrize("row", SHAPES, ids=title)
def test_outputs_depend_on_the_inputs_that_they_should(row, trained, features_of):
    features = features_of((128, 128))
    network = trained(row)
    before = network(features)
    depends = np.zeros([5, 5], bool)
    for source in features:
        after = network({**features, source: features[source] + 1.0})
        for level in features:
            depends[level - 3, source - 3] = np.any(before[level] != after[level])
    np.testing.assert_array_equal(depends, row.depends)


@pytest.mark.parametrize("row", SHAPES, ids=title)
def test_the_graph_has_the_dependencies_of_the_network(row, trained):
    graph = graph_of(trained(row))
    np.testing.assert_array_equal(graph.dependencies(), row.depends)
    inputs = set(range(len(graph.levels)))
    assert graph.used() | inputs == set(range(len(graph.nodes)))


@pytest.mark.parametrize("row", SHAPES, ids=title)
def test_the_graph_has_all_layers_with_weights(row, trained):
    network = trained(row)
    layers = [layer for node in graph_of(network).nodes for layer in (*node.layers, *node.fusions)]
    found = {weight.name for layer in layers for weight in layer.weights}
    # Weights of RFP's feedback are those of a model with a backbone, see test_rfp.py.
    assert found == {w.name for w in network.weights}


@pytest.mark.parametrize("row", SHAPES, ids=title)
def test_a_gradient_reaches_every_weight(row, trained, features_of):
    # Of two keys or more at every level, as attention to a single one is constant.
    features = features_of((64, 384))
    network = trained(row)
    with tf.GradientTape() as tape:
        loss = tf.add_n([tf.reduce_sum(x**2) for x in network(features).values()])
    gradients = tape.gradient(loss, network.trainable_weights)
    for weight, gradient in zip(network.trainable_weights, gradients):
        assert gradient is not None, weight.name
        assert np.all(np.isfinite(gradient)), weight.name
        assert np.any(gradient != 0), weight.name


@pytest.mark.parametrize("row", ROWS, ids=title)
def test_a_config_makes_the_same_network(row):
    network = build(row)
    copy = keras.layers.deserialize(keras.layers.serialize(network))
    assert type(copy) is type(network) and copy.get_config() == network.get_config()
    assert copy.get_config().items() >= {"num_filters": 8, "fusion": row.fusion}.items()


@pytest.mark.parametrize("row", FIRST, ids=title)
def test_a_config_and_a_weights_file_make_the_same_outputs(row, trained, features_of, tmp_path):
    features = features_of((64, 64))
    network = trained(row)
    model = Chain(network)
    expected = model(features)
    model.save_weights(str(tmp_path / "a.weights.h5"))
    copy = keras.layers.deserialize(keras.layers.serialize(network))
    loaded = Chain(copy)
    loaded(features)
    loaded.load_weights(str(tmp_path / "a.weights.h5"))
    for weight, value in zip(copy.weights, network.weights, strict=True):
        np.testing.assert_array_equal(weight, value, err_msg=weight.name)
    for level, x in loaded(features).items():
        np.testing.assert_array_equal(x, expected[level])


STORED = [
    ("bifpn", {}),
    ("fpn", {"coarse_levels": "strided", "source": "input"}),
    ("bfp", {"base": "attention_fpn"}),
    ("asff", {}),
    ("rfp", {}),
    ("attention_fpn", {}),
    ("mlfpn", {}),
    ("fpt", {}),
]


@pytest.mark.parametrize(
    ("name", "options"), few(STORED, lambda case: case[0] in ("bifpn", "rfp")), ids=str
)
def test_a_stored_model_has_the_same_outputs(name, options, tmp_path):
    """The file's JSON makes text of the levels."""
    # Level 5 has the 8x8 positions that the context of attention_fpn needs.
    sizes = {3: 32, 4: 16, 5: 8, 6: 4, 7: 2}
    features = {n: tf.random.stateless_normal([1, k, k, 4], [1, n]) for n, k in sizes.items()}
    inputs = {level: keras.Input(x.shape[1:]) for level, x in features.items()}
    network = build_feature_network(name, options, num_filters=8)
    model = keras.Model(inputs, network(inputs))
    model.save(tmp_path / "a.keras")
    expected = model(features)
    for copy in (
        keras.Model.from_config(model.get_config()),
        keras.models.load_model(tmp_path / "a.keras"),
    ):
        copy.set_weights(model.get_weights())
        found = copy({level: features[int(level)] for level in copy.input})
        assert {int(level) for level in found} == set(expected)
        for level, x in found.items():
            np.testing.assert_array_equal(x, expected[int(level)])


@pytest.fixture
def policy(request):
    keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize(
    "policy", few(["mixed_float16", "mixed_bfloat16"], "mixed_float16".__eq__), indirect=True
)
@pytest.mark.parametrize("row", FIRST, ids=title)
def test_half_precision(row, policy, features_of):
    network = build(row)
    outputs = network(features_of((64, 64)), training=True)
    for x in outputs.values():
        assert x.dtype == policy.removeprefix("mixed_")
        assert np.all(np.isfinite(tf.cast(x, tf.float32)))
    assert {weight.dtype for weight in network.weights} == {tf.float32}


@pytest.mark.parametrize(
    "row", few(FIRST, lambda row: row.name in ("bifpn", "nasfpn", "rfp")), ids=title
)
def test_xla_compiles_forward_and_backward_pass(row, features_of, randomize):
    # Of few levels, as compilation takes long.
    features = features_of((65, 96), max_level=5 if row.name != "nasfpn" else 7)
    network = build(row, num_repeats=min(row.repeats, 3))
    network(features)
    randomize(network)

    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_mean(x**2) for x in network(features).values()])
        return tape.gradient(loss, network.trainable_weights)

    expected = gradients()
    largest = max(np.max(np.abs(x)) for x in expected)
    for ours, compiled in zip(expected, tf.function(gradients, jit_compile=True)()):
        np.testing.assert_allclose(compiled, ours, rtol=1e-3, atol=1e-4 * largest)


def test_equal_costs_of_the_comparison_in_the_paper(num_parameters):
    """Table 5 at the size of D3: parameters relative to those of FPN+PANet."""
    sizes = feature_sizes((64, 64), 5)
    features = {
        level: keras.Input((*sizes[level], width)) for level, width in ((3, 48), (4, 136), (5, 384))
    }
    counts = {}
    for name, fusion, repeats in (
        ("pafpn", "sum", 6),
        ("fpn", "sum", 12),
        ("nasfpn", "sum", 6),
        ("fully_connected", "sum", 12),
        ("bifpn", "sum", 6),
        ("bifpn", "fast", 6),
    ):
        network = build_feature_network(name, num_filters=160, num_repeats=2, fusion=fusion)
        extra = ExtraLevels(160, 7)
        network(extra(features))
        # All cells but the first are alike.
        second_cell = num_parameters(*network.nodes[len(network.graph) :])
        counts[name, fusion] = num_parameters(extra, network) + (repeats - 2) * second_cell
    assert counts["pafpn", "sum"] == 1_805_440
    assert counts["fpn", "sum"] == counts["pafpn", "sum"]
    for name, fusion, ratio in (
        ("nasfpn", "sum", 0.71),
        ("fully_connected", "sum", 1.24),
        ("bifpn", "sum", 0.88),
        ("bifpn", "fast", 0.88),
    ):
        assert counts[name, fusion] / counts["pafpn", "sum"] == pytest.approx(ratio, abs=0.07), name
