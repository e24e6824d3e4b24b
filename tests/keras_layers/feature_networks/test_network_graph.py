"""Graphs of feature networks: names, cells, and graphs within graphs."""

import numpy as np
import pytest

from keras_layers.bifpn import BiFPN
from keras_layers.network_graph import Edge, NetworkGraph, Operation, graph_of

SUM = Operation("sum", "sum of the inputs")


def neighbours(repeats):
    """Cells in which a level reads itself and the coarser one."""
    graph = NetworkGraph([3, 4, 5, 6])
    graph.begin_stage("cell", repeats)
    for number, level in enumerate(graph.levels[:-1]):
        graph.add(level, [SUM], [Edge(number), Edge(number + 1)])
    return graph


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_each_cell_reads_the_outputs_of_the_one_before(repeats):
    reach = np.triu(np.ones([4, 4], bool)) & ~np.triu(np.ones([4, 4], bool), repeats + 1)
    np.testing.assert_array_equal(neighbours(repeats).dependencies(), reach)


def test_a_graph_within_another_has_its_cells_one_after_another():
    inner = neighbours(2)
    inner.begin_stage("skip")
    # Of an input of the network, not of a cell.
    inner.add(3, [SUM], [Edge(0), Edge(inner.newest[4])])
    outer = NetworkGraph([3, 4, 5, 6])
    outer.begin_stage("all")
    outer.inline(inner)
    assert len(outer.nodes) == 4 + 2 * 3 + 1
    np.testing.assert_array_equal(outer.dependencies(), inner.dependencies())
    assert outer.dependencies().astype(int).tolist() == [
        *([1, 1, 1, 1], [0, 1, 1, 1]),
        *([0, 0, 1, 1], [0, 0, 0, 1]),
    ]


def test_unread_nodes_are_not_used():
    graph = NetworkGraph([3, 4])
    graph.begin_stage("cell")
    graph.add(3, [SUM], [Edge(0)])
    graph.add(3, [SUM], [Edge(1)])
    assert graph.used() == {1, 3}


def test_nodes_are_named_by_level_and_order(features_of):
    features = features_of((64, 64), max_level=5)
    network = BiFPN(num_filters=8, num_repeats=2)
    network(features)
    graph = graph_of(network)
    names = [graph.name(number) for number in range(len(graph.nodes))]
    assert names == ["P3 in", "P4 in", "P5 in", "P4.1", "P3 out", "P4 out", "P5 out"]
    assert [graph.name(edge.source) for edge in graph.nodes[5].inputs] == [
        "P4 in",
        "P4.1",
        "P3 out",
    ]
    # One layer for each cell fuses the inputs of a node.
    assert [len(node.fusions) for node in graph.nodes] == [0, 0, 0, 2, 2, 2, 2]


def test_a_network_has_to_be_called_first():
    with pytest.raises(ValueError, match="^neck: is not built, so its levels are unknown; call it"):
        graph_of(BiFPN(name="neck"))
