"""FPG beyond the contract: the grid, its truncation, and its connections."""

import collections

import numpy as np
import pytest
import tf_keras as keras

from keras_layers.feature_network import build_feature_network
from keras_layers.fpg import FPG
from keras_layers.fusion_graph import Node

LEVELS = [3, 4, 5, 6, 7]


def positions(**options) -> collections.Counter:
    """How many pathways compute each level."""
    nodes = FPG(**options).make_nodes(LEVELS)
    return collections.Counter(node.level for node in nodes if len(node.inputs) > 1)


def test_finer_levels_pass_the_first_pathways():
    assert positions() == {3: 5, 4: 6, 5: 7, 6: 8, 7: 9}
    assert positions(truncate=False) == {level: 9 for level in LEVELS}


def test_connections_of_a_grid():
    assert FPG(num_repeats=1, truncate=False, across_up=True).make_nodes([3, 4]) == [
        # Level 3: AcrossSame, AcrossDown, AcrossSkip.
        *(Node(3, (0,), "pointwise"), Node(3, (1,)), Node(3, (0,), "pointwise")),
        Node(3, (2, 3, 4), None),
        # Level 4: SameUp, AcrossSame, AcrossUp, AcrossSkip.
        *(Node(4, (5,), None, "main"), Node(4, (1,), "pointwise")),
        *(Node(4, (0,), None, "main"), Node(4, (1,), "pointwise")),
        Node(4, (6, 7, 8, 9), None),
        *(Node(3, (5,), "output", stage=1), Node(4, (10,), "output", stage=1)),
    ]


def test_a_top_down_pathway_begins_at_the_coarsest_level():
    options = dict(truncate=False, across_skip="identity")
    assert FPG(num_repeats=1, paths=["td"], **options).make_nodes([3, 4]) == [
        # Level 4: AcrossSame and the input.
        *(Node(4, (1,), "pointwise"), Node(4, (2, 1), None)),
        # Level 3: from level 4 of the pathway, AcrossSame, AcrossDown, and the input.
        *(Node(3, (3,)), Node(3, (0,), "pointwise"), Node(3, (1,)), Node(3, (4, 5, 6, 0), None)),
        *(Node(3, (7,), "output", stage=1), Node(4, (3,), "output", stage=1)),
    ]


def test_levels_are_apart_without_the_connections_between_them(features_of, randomize):
    features = features_of((128, 128))
    network = FPG(num_filters=8, num_repeats=5)
    network(features)
    randomize(network)
    level_of = [*LEVELS, *(node.level for node in network.graph)]
    for node, layer in zip(network.graph, network.nodes):
        if len(node.inputs) == 1 and level_of[node.inputs[0]] != node.level:
            layer.set_weights([0 * value for value in layer.get_weights()])
    before = network(features)
    for source in features:
        after = network({**features, source: features[source] + 1.0})
        assert [level for level in features if np.any(before[level] != after[level])] == [source]


def test_parameters_with_a_resnet(num_parameters):
    """Positions are alike, so that few pathways and levels determine the count of all."""
    network = FPG(num_filters=256, num_repeats=2, conv_block="dense", truncate=False)
    network({level: keras.Input((8, 8, 256)) for level in (3, 4, 5)})
    # Blocks of 3x3 and 1x1, and the output's.
    three, one, output = 9 * 256**2 + 512, 256**2 + 512, 9 * 256**2 + 256
    assert num_parameters(network) == 2 * (4 * three + 6 * one) + 3 * output
    # 35 positions: all with AcrossSame and AcrossSkip, 30 with SameUp, 26 with AcrossDown.
    inputs = (512 + 1024 + 2048 + 2048) * 256 + 4 * 512
    assert 56 * three + 70 * one + 5 * output + inputs == 42_076_416
    nodes = FPG().make_nodes(LEVELS)
    blocks = collections.Counter(node.block or node.downsample for node in nodes)
    assert blocks == {"main": 56, "pointwise": 70, "output": 5, None: 35}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"paths": ["up"]}, "options.paths: 'up' is not one of bu, td"),
        ({"paths": ["bu"]}, "options.paths: 1 directions for 2 pathways"),
    ],
)
def test_paths_are_checked(options, expected):
    with pytest.raises(ValueError) as error:
        build_feature_network("fpg", options, num_filters=8, num_repeats=2)
    assert str(error.value) == expected


def test_too_few_pathways(features_of):
    expected = "num_repeats: 3 pathways do not reach level 3; set 5 or more, or truncate=False"
    with pytest.raises(ValueError, match=expected):
        FPG(num_filters=8, num_repeats=3)(features_of((64, 64)))
