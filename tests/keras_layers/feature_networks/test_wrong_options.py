"""Settings of feature networks that are refused, and the messages."""

import re

import pytest

from keras_layers.feature_network import (
    NETWORKS,
    build_feature_network,
    own_options,
)

NAMES = list(NETWORKS)


# Each network has the checks, its own or the common ones.
@pytest.mark.parametrize("name", NAMES)
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
    ],
)
def test_a_wrong_value_is_named(name, changes, expected):
    with pytest.raises(ValueError) as error:
        build_feature_network(name, **({"num_filters": 8} | changes))
    assert str(error.value).startswith(expected.replace("{name}", name))


@pytest.mark.parametrize(
    ("conv_block", "expected"),
    [
        ("heavy", ": 'heavy' is not one of light, dense, and not a mapping of fields"),
        ({"order": "bn"}, ".order: 'bn' is not one of act_conv_bn, conv_bn_act"),
        (
            {"kernel": 3},
            ".kernel: is not a field; known: separable, kernel_size, norm, activation, order, bias",
        ),
        ({"kernel_size": 0}, ".kernel_size: 0 is not 1 or more"),
        ({"kernel_size": True}, ".kernel_size: True is not 1 or more"),
        ({"kernel_size": "3"}, ".kernel_size: '3' is not 1 or more"),
        (["light"], ": ['light'] is not one of light, dense, and not a mapping of fields"),
        ({"activation": "wish"}, ".activation: 'wish' is not a Keras activation"),
        ({"norm": "layer"}, ".norm: 'layer' is not true or false"),
    ],
)
def test_a_wrong_conv_block_is_named(conv_block, expected):
    with pytest.raises(ValueError) as error:
        build_feature_network("fpn", {"conv_block": conv_block}, num_filters=8)
    assert str(error.value) == f"options.conv_block{expected}"


@pytest.mark.parametrize(
    ("name", "option", "expected"),
    [
        ("fpn", "variant", "repeatable, lin2017"),
        ("fpn", "coarse_levels", "pooled, strided"),
        ("fpn", "source", "output, input"),
        ("pafpn", "downsample", "pool, conv"),
        ("pafpn", "chain", "post, pre"),
        ("nasfpn", "global_pool", "max, avg"),
        ("nasfpn", "pool_kernel", "s+1, s"),
        ("bfp", "refine", "non_local, conv, none"),
        ("efm", "compress", "maxout, maxout_affine, conv1x1"),
        ("asff", "sources", "all, adjacent"),
        ("fpg", "across_skip", "conv, identity"),
        ("attention_fpn", "context", "fpa, none"),
        ("attention_fpn", "attention", "gau, se, spatial"),
        ("mlfpn", "deep_level", "5, 4"),
        ("fpt", "similarity", "euclidean, dot"),
    ],
)
def test_options_have_choices(name, option, expected):
    assert option in own_options(name)
    with pytest.raises(ValueError) as error:
        build_feature_network(name, {option: "other"}, num_filters=8)
    assert str(error.value) == f"options.{option}: 'other' is not one of {expected}"


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("asff", {"base": "fpnn"}, "base: 'fpnn' is not a feature network; did you mean 'fpn'?"),
        (
            *("bfp", {"base_options": {"variants": 1}}),
            "base_options.variants: fpn has no such option; did you mean 'variant'?",
        ),
        (
            *("bfp", {"base_options": {"variant": "lin"}}),
            "base_options.variant: 'lin' is not one of repeatable, lin2017",
        ),
    ],
)
def test_a_wrong_base_is_named(name, options, expected):
    with pytest.raises(ValueError) as error:
        build_feature_network(name, options, num_filters=8)
    assert str(error.value) == f"options.{expected}"


@pytest.mark.parametrize(
    ("name", "option", "value", "expected"),
    [
        ("rfp", "steps", "two", "'two' is not a whole number"),
        ("rfp", "steps", None, "None is not a whole number"),
        ("rfp", "share_backbone", "yes", "'yes' is not true or false"),
        ("asff", "weight_filters", "8", "'8' is not a whole number"),
        ("asff", "weight_filters", 8.5, "8.5 is not a whole number"),
        ("asff", "base", ["fpn"], "['fpn'] is not a feature network; did you mean 'fpn'?"),
        ("bfp", "base_options", 3, "3 is not names and values"),
        ("bfp", "embedded", 1, "1 is not true or false"),
        ("fpt", "num_parts", 1.5, "1.5 is not a whole number"),
        ("fpt", "num_parts", True, "True is not a whole number"),
        ("fpt", "max_positions", None, "None is not a whole number"),
        ("fpt", "local_window", 2.5, "2.5 is not a whole number"),
        ("fpt", "dropout", "a", "'a' is not 0 or more, below 1"),
        ("fpg", "paths", 3, "3 is not a list of bu, td"),
        ("fpg", "paths", "td", "'td' is not a list of bu, td"),
        ("fpg", "truncate", "false", "'false' is not true or false"),
        ("fpg", "across_up", "no", "'no' is not true or false"),
        ("nasfpn", "block_specs", 3, "3 is not a list of merging cells"),
        ("nasfpn", "global_pool", ["max"], "['max'] is not one of max, avg"),
        ("fpn", "projection_norm", "no", "'no' is not true or false"),
        ("bifpn", "projection_norm", "no", "'no' is not true or false"),
        ("bifpn", "conv_after_downsample", 0, "0 is not true or false"),
        ("fully_connected", "conv_after_downsample", 0, "0 is not true or false"),
        ("efm", "spp", "yes", "'yes' is not true or false"),
        ("attention_fpn", "attention_norm", "no", "'no' is not true or false"),
    ],
)
def test_options_have_types(name, option, value, expected):
    with pytest.raises(ValueError) as error:
        build_feature_network(name, {option: value}, num_filters=8)
    assert str(error.value) == f"options.{option}: {expected}"


def test_an_unknown_network():
    with pytest.raises(ValueError) as error:
        build_feature_network("bifpm", num_filters=8)
    assert str(error.value) == "name: 'bifpm' is not a feature network; did you mean 'bifpn'?"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("levels", [[3, 5], [4]], ids=str)
def test_levels_without_a_gap(name, levels, features_of):
    features = {level: features_of((64, 64))[level] for level in levels}
    expected = f"features: levels {levels} are not two or more without a gap"
    with pytest.raises(ValueError, match=re.escape(expected)):
        build_feature_network(name, num_filters=8)(features)
