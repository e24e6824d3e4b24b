"""The contract that every feature network keeps, and what is said of each.

A new network adds a row to `ROWS`.
"""

import re
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from official.vision.modeling.decoders import fpn as official_fpn

from efficientdet_tf.anchors import feature_sizes
from keras_layers import feature_network
from keras_layers.feature_network import build_feature_network, own_options
from keras_layers.fpn import FPN
from keras_layers.panet import PAFPN
from keras_layers.resample import ExtraLevels

FULL = np.ones([5, 5], bool)
# Row: level of the output; column: level of the input.
UPPER = np.triu(FULL)
# RetinaNet's: the coarse levels are made of level 5.
FROM_LEVEL_5 = np.array(
    [[1, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 1, 0, 0]], bool
)


class Row(NamedTuple):
    """A network with options of its own, and its specification.

    Args:
      name, options, fusion: as in a config.
      parameters: {repeats: trainable parameters with level 6's projection} for D0's widths.
      depends: bool [5, 5] of one cell: whether a level of the output depends on one of the
        input.
    """

    name: str
    parameters: dict[int, int]
    depends: np.ndarray
    fusion: str = "sum"
    options: dict[str, Any] = {}


DENSE = {"conv_block": "dense"}
# Published ones, and `light` and `dense` formulas: C**2 + 12 C or 9 C**2 + 2 C for a node.
ROWS = [
    Row("bifpn", {3: 196_281}, FULL, "fast"),
    Row("bifpn", {3: 196_224}, FULL),
    Row("bifpn", {3: 199_872}, FULL, "channel_fast"),
    Row("bifpn", {3: 966_969}, FULL, "fast", DENSE),
    Row("fpn", {1: 75_776, 3: 124_416, 6: 197_376}, UPPER),
    Row("fpn", {1: 236_160, 3: 606_080}, UPPER, "sum", DENSE),
    Row("fpn", {1: 75_776, 3: 124_416}, UPPER, "sum", {"variant": "lin2017"}),
    # 3 nodes and 2 strided convolutions; level 6 is not projected.
    Row("fpn", {1: 30_784 + 5 * 4864}, FROM_LEVEL_5, "sum", {"coarse_levels": "strided"}),
    # The strided convolution of level 5 reads all of its 320 filters.
    Row(
        *("fpn", {1: 30_784 + 4 * 4864 + 9 * 320 + 320 * 64 + 3 * 64}, FROM_LEVEL_5, "sum"),
        {"coarse_levels": "strided", "source": "input", "variant": "lin2017"},
    ),
    Row("pafpn", {1: 100_096, 3: 197_376}, FULL),
    Row("pafpn", {1: 421_120, 3: 1_160_960}, FULL, "sum", DENSE),
    Row("pafpn", {1: 100_096, 3: 197_376}, FULL, "sum", {"chain": "pre"}),
    Row("pafpn", {1: 114_688}, FULL, "sum", {"downsample": "conv"}),
    Row("pafpn", {1: 532_096}, FULL, "sum", {"downsample": "conv"} | DENSE),
    Row("pafpn", {1: 114_688}, FULL, "sum", {"downsample": "conv", "chain": "pre"}),
]
# Whatever does not depend on sizes is asked of these.
SHAPES = [row for row in ROWS if "conv_block" not in row.options and row.fusion != "channel_fast"]


def title(row: Any) -> str | None:
    if not isinstance(row, Row):
        return None
    return "-".join([row.name, row.fusion, *map(str, row.options.values())])


def features_of(size, max_level=7, widths=(40, 112, 320), num_filters=None):
    """Random maps of a backbone's levels, and of those above with a network's width."""
    sizes = feature_sizes(size, max_level)
    random = np.random.default_rng(0)
    return {
        level: tf.constant(
            random.normal(
                size=(2, *sizes[level], widths[level - 3] if level < 6 else num_filters or 64)
            ),
            tf.float32,
        )
        for level in range(3, max_level + 1)
    }


def build(row: Row, num_filters=8, num_repeats=1):
    return build_feature_network(
        *(row.name, row.options),
        num_filters=num_filters,
        num_repeats=num_repeats,
        fusion=row.fusion,
    )


def randomize(layer):
    """Weights as after some training, for which no two inputs or channels are alike."""
    random = np.random.default_rng(1)
    layer.set_weights([random.uniform(0.3, 1, w.shape) * 0.5 for w in layer.get_weights()])


def test_every_network_has_a_row():
    classes = {feature_network.network_class(name) for name in feature_network.NETWORKS}
    assert classes == {feature_network.network_class(row.name) for row in ROWS}


@pytest.mark.parametrize(("size", "max_level"), [((384, 640), 7), ((511, 513), 8)], ids=str)
@pytest.mark.parametrize("row", SHAPES, ids=title)
def test_levels_keep_their_sizes(row, size, max_level):
    sizes = feature_sizes(size, max_level)
    inputs = {
        level: keras.Input((*sizes[level], (40, 112, 320, 8, 8, 8)[level - 3]))
        for level in range(3, max_level + 1)
    }
    outputs = build(row)(inputs)
    assert {level: x.shape[1:] for level, x in outputs.items()} == {
        level: (*sizes[level], 8) for level in range(3, max_level + 1)
    }


@pytest.mark.parametrize(
    ("row", "num_repeats"),
    [(row, repeats) for row in ROWS for repeats in row.parameters],
    ids=title,
)
def test_parameters_at_the_size_of_d0(row, num_repeats):
    network = build(row, 64, num_repeats)
    features = {level: features_of((64, 64))[level][:1] for level in (3, 4, 5)}
    extra = ExtraLevels(64, 7, network.conv_block, project=network.reads_extra_levels)
    network(extra(features))
    weights = extra.trainable_weights + network.trainable_weights
    assert sum(w.shape.num_elements() for w in weights) == row.parameters[num_repeats]


@pytest.mark.parametrize("row", SHAPES, ids=title)
def test_outputs_depend_on_the_inputs_that_they_should(row):
    features = features_of((128, 128), num_filters=8)
    network = build(row)
    network(features)
    randomize(network)
    before = network(features)
    depends = np.zeros([5, 5], bool)
    for source in features:
        after = network({**features, source: features[source] + 1.0})
        for level in features:
            depends[level - 3, source - 3] = np.any(before[level] != after[level])
    np.testing.assert_array_equal(depends, row.depends)


@pytest.mark.parametrize("row", SHAPES, ids=title)
def test_a_gradient_reaches_every_weight(row):
    features = features_of((64, 96), num_filters=8)
    network = build(row, num_repeats=1 if "coarse_levels" in row.options else 2)
    network(features)
    randomize(network)
    with tf.GradientTape() as tape:
        loss = tf.add_n([tf.reduce_sum(x**2) for x in network(features).values()])
    gradients = tape.gradient(loss, network.trainable_weights)
    for weight, gradient in zip(network.trainable_weights, gradients):
        assert gradient is not None, weight.name
        assert np.all(np.isfinite(gradient)), weight.name
        assert np.any(gradient != 0), weight.name


@pytest.mark.parametrize("row", ROWS, ids=title)
def test_a_config_makes_the_same_network(row):
    network = build(row, num_repeats=2)
    copy = keras.layers.deserialize(keras.layers.serialize(network))
    assert type(copy) is type(network) and copy.get_config() == network.get_config()
    assert copy.get_config().items() >= {"num_repeats": 2, "fusion": row.fusion}.items()


@pytest.mark.parametrize("row", [ROWS[2], ROWS[8], ROWS[12]], ids=title)
def test_a_config_and_a_weights_file_make_the_same_outputs(row, tmp_path):
    features = features_of((64, 64), num_filters=8)
    inputs = {level: keras.Input(x.shape[1:]) for level, x in features.items()}
    network = build(row, num_repeats=2)
    model = keras.Model(inputs, network(inputs))
    randomize(network)
    model.save_weights(str(tmp_path / "a.weights.h5"))
    copy = keras.layers.deserialize(keras.layers.serialize(network))
    again = keras.Model(inputs, copy(inputs))
    again.load_weights(str(tmp_path / "a.weights.h5"))
    expected = model(features)
    for level, x in again(features).items():
        np.testing.assert_array_equal(x, expected[level])


@pytest.fixture
def policy(request):
    keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"], indirect=True)
@pytest.mark.parametrize("row", [ROWS[0], ROWS[4], ROWS[9], ROWS[12]], ids=title)
def test_half_precision(row, policy):
    network = build(row)
    outputs = network(features_of((64, 64), num_filters=8), training=True)
    for x in outputs.values():
        assert x.dtype == policy.removeprefix("mixed_")
        assert np.all(np.isfinite(tf.cast(x, tf.float32)))
    assert {weight.dtype for weight in network.weights} == {tf.float32}


def test_xla_compiles_a_training_step():
    features = features_of((65, 96), num_filters=8)
    network = build(ROWS[12])
    network(features)

    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.add_n([tf.reduce_sum(x**2) for x in network(features).values()])
        return tape.gradient(loss, network.trainable_weights)

    for ours, compiled in zip(gradients(), tf.function(gradients, jit_compile=True)()):
        np.testing.assert_allclose(compiled, ours, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["bifpn", "fpn", "pafpn"])
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_repeats": 0}, "num_repeats: 0 is below 1"),
        ({"num_filters": 0}, "num_filters: 0 is below 1"),
        ({"fusion": "slow"}, "fusion: 'slow' is not one of sum, unbounded, softmax, fast, "),
        (
            {"options": {"conv_bloc": "dense"}},
            "options.conv_bloc: {name} has no such option; did you mean 'conv_block'?",
        ),
        (
            {"options": {"conv_block": "heavy"}},
            "options.conv_block: 'heavy' is not one of light, dense, and not a mapping of fields",
        ),
        (
            {"options": {"conv_block": {"order": "bn"}}},
            "options.conv_block.order: 'bn' is not one of act_conv_bn, conv_bn_act",
        ),
        (
            {"options": {"conv_block": {"kernel": 3}}},
            "options.conv_block.kernel: is not a field; known: separable, kernel_size, norm, "
            "activation, order, bias",
        ),
        (
            {"options": {"conv_block": {"kernel_size": 0}}},
            "options.conv_block.kernel_size: 0 is not 1 or more",
        ),
        (
            {"options": {"conv_block": {"activation": "wish"}}},
            "options.conv_block.activation: 'wish' is not a Keras activation",
        ),
        (
            {"options": {"conv_block": {"norm": "layer"}}},
            "options.conv_block.norm: 'layer' is not true or false",
        ),
    ],
)
def test_a_wrong_value_is_named(name, changes, expected):
    with pytest.raises(ValueError) as error:
        build_feature_network(name, **({"num_filters": 8} | changes))
    assert str(error.value).startswith(expected.replace("{name}", name))


@pytest.mark.parametrize(
    ("name", "option", "expected"),
    [
        ("fpn", "variant", "repeatable, lin2017"),
        ("fpn", "coarse_levels", "pooled, strided"),
        ("fpn", "source", "output, input"),
        ("pafpn", "downsample", "pool, conv"),
        ("pafpn", "chain", "post, pre"),
    ],
)
def test_options_have_choices(name, option, expected):
    assert option in own_options(name)
    with pytest.raises(ValueError) as error:
        build_feature_network(name, {option: "other"}, num_filters=8)
    assert str(error.value) == f"options.{option}: 'other' is not one of {expected}"


def test_an_unknown_network():
    with pytest.raises(ValueError) as error:
        build_feature_network("bifpm", num_filters=8)
    assert str(error.value) == "name: 'bifpm' is not a feature network; did you mean 'bifpn'?"


@pytest.mark.parametrize("name", ["bifpn", "fpn", "pafpn"])
@pytest.mark.parametrize("levels", [[3, 5], [4]], ids=str)
def test_levels_without_a_gap(name, levels):
    features = {level: features_of((64, 64))[level] for level in levels}
    expected = f"features: levels {levels} are not two or more without a gap"
    with pytest.raises(ValueError, match=re.escape(expected)):
        build_feature_network(name, num_filters=8)(features)


def test_equal_costs_of_the_comparison_in_the_paper():
    """Table 5 at the size of D3: parameters relative to those of FPN+PANet."""
    features = features_of((64, 64), widths=(48, 136, 384), num_filters=160)
    counts = {}
    for name, fusion, repeats in (
        ("pafpn", "sum", 6),
        ("fpn", "sum", 12),
        ("bifpn", "sum", 6),
        ("bifpn", "fast", 6),
    ):
        network = build_feature_network(name, num_filters=160, num_repeats=repeats, fusion=fusion)
        extra = ExtraLevels(160, 7)
        network(extra({level: features[level][:1] for level in (3, 4, 5)}))
        weights = extra.trainable_weights + network.trainable_weights
        counts[name, fusion] = sum(w.shape.num_elements() for w in weights)
    assert counts["pafpn", "sum"] == 1_805_440
    assert counts["fpn", "sum"] == counts["pafpn", "sum"]
    for fusion in ("sum", "fast"):
        assert counts["bifpn", fusion] / counts["pafpn", "sum"] == pytest.approx(0.88, abs=0.07)


# FPN.

RETINANET = {"separable": False, "activation": None, "norm": False}


def test_the_variants_of_fpn_are_the_same_where_convolutions_do_nothing():
    features = features_of((128, 128), widths=(8, 8, 8), num_filters=8)
    identity = np.zeros([3, 3, 8, 8], np.float32)
    identity[1, 1] = np.eye(8)
    upsampled = [
        x.numpy().repeat(16 // x.shape[1], 1).repeat(16 // x.shape[1], 2) for x in features.values()
    ]
    for variant in ("repeatable", "lin2017"):
        network = FPN(num_filters=8, variant=variant, conv_block=RETINANET)
        network(features)
        for weight in network.weights:
            weight.assign(identity if "kernel" in weight.name else tf.zeros_like(weight))
        outputs = network(features)
        np.testing.assert_array_equal(outputs[7], features[7])
        np.testing.assert_allclose(outputs[3], sum(upsampled), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("source", "conv_block", "options", "count"),
    [
        # What tf-models-official's decoder has.
        (
            *("output", {"separable": False, "activation": None}),
            *({"lateral_norm": False}, 3_871_232),
        ),
        # The neck of mmdetection's RetinaNet.
        ("input", RETINANET, {}, 7_997_440),
    ],
)
def test_parameters_with_a_resnet(source, conv_block, options, count):
    features = features_of((64, 64), widths=(512, 1024, 2048), num_filters=1)
    network = FPN(
        num_filters=256,
        conv_block=conv_block,
        variant="lin2017",
        coarse_levels="strided",
        source=source,
        **options,
    )
    network({level: x[:1] for level, x in features.items()})
    assert sum(w.shape.num_elements() for w in network.trainable_weights) == count


def test_agrees_with_the_fpn_of_tf_models():
    features = features_of((128, 64), widths=(16, 24, 32), num_filters=1)
    network = FPN(
        num_filters=8,
        variant="lin2017",
        coarse_levels="strided",
        conv_block={"separable": False, "activation": None},
        lateral_norm=False,
    )
    network(features)
    random = np.random.default_rng(2)
    for weight in network.weights:
        # Where BatchNorm does nothing: theirs comes after the strided convolutions.
        if "/bn/" not in weight.name:
            weight.assign(random.normal(size=weight.shape) * 0.2)
        elif "gamma" in weight.name:
            weight.assign(np.full(weight.shape, np.sqrt(1.001)))
    specs = {str(level): features[level].shape for level in (3, 4, 5)}
    theirs = official_fpn.FPN(specs, num_filters=8)
    # The nodes 0 and 1 are the sums of the levels 4 and 3.
    places = {
        **{f"projection_{level}": f"lateral_{level}" for level in (3, 4, 5)},
        **{f"cell_0_node_{level - 1}/block": f"post_hoc_{level}" for level in (3, 4, 5)},
        **{f"coarse_{level}": f"coarser_{level}" for level in (6, 7)},
    }
    ours = {weight.name: weight for weight in network.weights}
    for place, name in places.items():
        for kind in ("kernel", "bias"):
            [value] = [w for n, w in ours.items() if f"/{place}/conv/{kind}" in n]
            getattr(theirs.get_layer(name), kind).assign(value)
    for level in range(3, 8):
        theirs.get_layer(f"norm_{level}").gamma.assign(np.full(8, np.sqrt(1.001)))
    expected = theirs({str(level): features[level] for level in (3, 4, 5)}, training=False)
    for level, x in network(features).items():
        np.testing.assert_allclose(x, expected[str(level)], rtol=1e-4, atol=1e-4)


# PAFPN.


def test_the_top_down_path_of_pafpn_is_an_fpn():
    features = features_of((64, 64), num_filters=8)
    network = PAFPN(num_filters=8, downsample="conv")
    fpn = FPN(num_filters=8, variant="lin2017")
    for layer in (network, fpn):
        layer(features)
    randomize(network)
    values = {weight.name.partition("/")[2]: weight for weight in network.weights}
    for weight in fpn.weights:
        weight.assign(values[weight.name.partition("/")[2]])
    # The finest level has no part in the bottom-up path.
    np.testing.assert_array_equal(network(features)[3], fpn(features)[3])


def test_the_bottom_up_path_of_the_paper_ends_in_relu():
    features = features_of((64, 64), num_filters=8)
    outputs = PAFPN(num_filters=8, downsample="conv")(features)
    assert all(np.min(outputs[level]) >= 0 for level in (4, 5, 6, 7))
    assert np.min(outputs[3]) < 0
