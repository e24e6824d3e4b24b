"""Drawings of feature networks: positions, and edges that pass no other node."""

import itertools
import pathlib
import re
import xml.etree.ElementTree

import pytest

from efficientdet_tf.visualization.network_drawing import draw_network
from efficientdet_tf.visualization.network_layout import NODE_HEIGHT, NODE_WIDTH, Layout
from keras_layers.network_graph import UPSAMPLE, Edge, NetworkGraph, Operation

DRAWINGS = sorted(
    (pathlib.Path(__file__).resolve().parents[2] / "docs/images/feature_networks").glob("*.svg")
)
SUM = Operation("sum", "sum of the inputs")
SVG = "{http://www.w3.org/2000/svg}"


def small_graph():
    """Two cells over levels 3 and 4: a top-down edge, and one that skips a node."""
    graph = NetworkGraph([3, 4])
    graph.begin_stage("cell", 2)
    middle = graph.add(4, [SUM], [Edge(1)])
    graph.add(3, [SUM], [Edge(0), Edge(middle, UPSAMPLE)])
    graph.add(4, [SUM], [Edge(1), Edge(middle)])
    return graph


def points(path):
    """Return points along a path of M, H, V, Q and C."""
    (x, y), found = (0, 0), []
    for kind, text in re.findall(r"([MHVQC])([^MHVQC]*)", path):
        numbers = [float(number) for number in text.split()]
        if kind in "HV":
            numbers = [numbers[0], y] if kind == "H" else [x, numbers[0]]
        controls = [(x, y), *zip(numbers[::2], numbers[1::2])]
        for step in range(21) if kind != "M" else (20,):
            level = controls
            while len(level) > 1:
                share = step / 20
                level = [
                    tuple(a + share * (b - a) for a, b in zip(*pair))
                    for pair in itertools.pairwise(level)
                ]
            found += level
        x, y = controls[-1]
    return found


def test_rows_are_levels_and_columns_are_steps():
    layout = Layout(small_graph())
    assert [(place.column, place.row) for place in layout.places.values()] == [
        *((0, 1), (0, 0)),
        # The output of level 3 moves to the last column.
        *((1, 0), (2, 1), (2, 0)),
    ]
    assert {level: (place.column, place.row) for level, place in layout.outputs.items()} == {
        3: (3, 1),
        4: (3, 0),
    }


def test_an_edge_that_skips_a_node_passes_above_it():
    layout = Layout(small_graph())
    path = points(layout.route(1, layout.places[4]))
    between = [y for x, y in path if abs(x - layout.places[2].x) <= NODE_WIDTH / 2]
    assert between and max(between) < layout.places[2].y - NODE_HEIGHT / 2


def test_text_is_escaped_and_cells_are_counted():
    root = xml.etree.ElementTree.fromstring(draw_network(small_graph(), "<a> & b"))
    texts = [item.text for item in root.iter(f"{SVG}text")]
    assert texts[0] == "<a> & b" and "cell \u00d72" in texts
    hints = [item.text for item in root.iter(f"{SVG}title")]
    assert f"P4.1 \u2192 P3 out: {UPSAMPLE}" in hints and "P4.1. sum: sum of the inputs" in hints


def test_equal_graphs_are_drawn_equally():
    assert draw_network(small_graph(), "a") == draw_network(small_graph(), "a")


@pytest.mark.parametrize("path", DRAWINGS, ids=lambda path: path.stem)
def test_edges_pass_no_other_node(path):
    root = xml.etree.ElementTree.parse(path).getroot()
    drawing = next(item for item in root.iter(f"{SVG}g") if item.get("transform"))
    boxes = [
        tuple(float(item.get(name)) for name in ("x", "y", "width", "height"))
        for item in drawing.iter(f"{SVG}rect")
        if item.get("class") != "stage"
    ]
    assert len(boxes) == len({box[:2] for box in boxes}) > 10
    edges = [item.get("d") for item in drawing.iter(f"{SVG}path")]
    for edge in edges:
        for x, y in points(edge):
            # Edges end on the sides of their nodes.
            inside = [
                (left, top)
                for left, top, width, height in boxes
                if left + 1 < x < left + width - 1 and top + 1 < y < top + height - 1
            ]
            assert not inside, edge
