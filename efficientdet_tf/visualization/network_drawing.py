"""Drawing of a feature network as SVG, for light and dark backgrounds."""

import xml.etree.ElementTree

from efficientdet_tf.output_files import MARK
from efficientdet_tf.visualization.elements import Element, element
from efficientdet_tf.visualization.network_layout import (
    FRAME,
    NODE_HEIGHT,
    NODE_WIDTH,
    Layout,
    Place,
)
from keras_layers.network_graph import NetworkGraph

# Kinds of edges: class of the style, and what the legend calls them.
_KINDS = {"up": "upsampling", "down": "downsampling", "same": "same level"}
_MARGIN, _TITLE, _STAGE_TITLE, _LINE = 28, 34, 22, 18
# Width of a letter in SVG units, at most: of the legend and of a stage's title.
_LETTER, _BOLD_LETTER = 6.1, 7.0
# Where the legend's explanations begin.
_COLUMN = 132
# Characters of a line in a node.
_MOST_LETTERS = 10
# Explained operations of a kind of edges.
_MOST_OPERATIONS = 2
_STYLE = """
text { font: 11px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; fill: #1b1f24; }
.title { font-size: 15px; font-weight: 600; }
.quiet { fill: #5b6570; }
.bold { font-weight: 600; }
.page { fill: #fff; }
.stage { fill: #f5f7f9; stroke: #ccd3da; }
.node { fill: #fff; stroke: #5b6570; stroke-width: 1.2; }
.end { fill: #e3ecf8; stroke: #1763b6; stroke-width: 1.2; }
.unread { fill: none; stroke: #98a4b0; stroke-dasharray: 2 3; }
.edge { fill: none; stroke-width: 1.5; }
.up { stroke: #1763b6; } .fill-up { fill: #1763b6; }
.down { stroke: #c8500f; stroke-dasharray: 6 2.5; } .fill-down { fill: #c8500f; }
.same { stroke: #76828e; } .fill-same { fill: #76828e; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e9ed; } .quiet { fill: #9aa4af; } .page { fill: #14171b; }
  .stage { fill: #1b2026; stroke: #3a424b; } .node { fill: #262c34; stroke: #9aa4af; }
  .end { fill: #1c3350; stroke: #6db1ff; } .unread { fill: none; stroke: #5b6570; }
  .up { stroke: #6db1ff; } .fill-up { fill: #6db1ff; }
  .down { stroke: #ff9a5c; } .fill-down { fill: #ff9a5c; }
  .same { stroke: #8c97a3; } .fill-same { fill: #8c97a3; }
}
"""


def draw_network(graph: NetworkGraph, title: str) -> str:
    """Draw the graph of a feature network.

    Rows are levels, the coarsest at the top; columns are steps. Nodes name their operations;
    nodes and edges have tooltips. Cells are drawn once, with their number.

    Args:
      graph: graph of a network, see `keras_layers.network_graph.graph_of`.
      title: name of the network.

    Returns:
      An SVG document, the same for equal graphs.
    """
    layout = Layout(graph)
    drawing = [*_stages(graph, layout), *_edges(graph, layout), *_nodes(graph, layout)]
    legend, legend_width = _legend(graph, layout)
    top = _MARGIN + _TITLE + _STAGE_TITLE
    bottom = top + layout.height + FRAME
    width = round(max(layout.width, legend_width) + 2 * _MARGIN)
    height = round(bottom + _LINE * len(legend) + _MARGIN)
    left = (width - layout.width) / 2
    lines = [
        element("g", *line, transform=f"translate({_MARGIN} {bottom + _LINE * (i + 1):g})")
        for i, line in enumerate(legend)
    ]
    root = element(
        "svg",
        element("title", f"Feature network {title}"),
        element("style", _STYLE),
        element("defs", *(_arrow(kind) for kind in _KINDS)),
        element("rect", width=width, height=height, rx=10, class_="page"),
        _text(title, _MARGIN, _MARGIN + 8, "title", "start"),
        element("g", *drawing, transform=f"translate({left:g} {top})"),
        *lines,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
    )
    xml.etree.ElementTree.indent(root, " ")
    text = xml.etree.ElementTree.tostring(root, "unicode")
    return f"<!-- {MARK} -->\n{text}\n"


def _stages(graph: NetworkGraph, layout: Layout) -> list[Element]:
    """Draw a frame around each stage."""
    drawn = []
    for stage, nodes in graph.nodes_of_stages():
        left, right = layout.frame(nodes)
        middle = (left + right) / 2
        title = stage.title + (f" \u00d7{stage.repeats}" if stage.repeats > 1 else "")
        width = round(max(right - left, _BOLD_LETTER * (len(title) + 1)))
        height = layout.height + _STAGE_TITLE
        box = dict(x=middle - width / 2, y=-_STAGE_TITLE, width=width, height=height)
        drawn.append(element("rect", **box, rx=8, class_="stage"))
        drawn.append(_text(title, middle, -6, "quiet bold"))
    return drawn


def _edges(graph: NetworkGraph, layout: Layout) -> list[Element]:
    drawn = []
    for (source, target), operations in layout.edges().items():
        kind = _kind(graph.nodes[source].level, graph.nodes[target].level)
        hint = f"{graph.name(source)} \u2192 {graph.name(target)}"
        known = "; ".join(filter(None, operations))
        hint = f"{hint}: {known}" if known else hint
        drawn.append(_edge(layout.route(source, layout.places[target]), kind, hint))
    for level, source in graph.newest.items():
        drawn.append(_edge(layout.route(source, layout.outputs[level]), "same"))
    return drawn


def _nodes(graph: NetworkGraph, layout: Layout) -> list[Element]:
    drawn, used = [], graph.used()
    for number, node in enumerate(graph.nodes):
        labels = [operation.label for operation in node.operations]
        meanings = "; ".join(f"{each.label}: {each.meaning}" for each in node.operations)
        style = "node"
        if number < len(graph.levels):
            labels = [f"P{node.level}", *labels]
            style = "end" if number in used else "unread"
            if style == "unread":
                meanings = "its values are not read"
        hint = f"{graph.name(number)}. {meanings}" if meanings else graph.name(number)
        drawn.append(_node(layout.places[number], labels, style, hint))
    for level, place in layout.outputs.items():
        drawn.append(_node(place, [f"P{level}"], "end", f"P{level}, to the heads"))
    return drawn


def _node(place: Place, labels: list[str], style: str, hint: str) -> Element:
    lines = [line for label in labels for line in _lines(label)]
    box = dict(x=place.x - NODE_WIDTH / 2, width=NODE_WIDTH, rx=7, class_=style)
    height = max(NODE_HEIGHT, 12 * len(lines) + 6)
    parts = [
        element("title", hint),
        element("rect", y=place.y - height / 2, height=height, **box),
    ]
    for index, line in enumerate(lines):
        y = place.y + 4 + 12 * (index - (len(lines) - 1) / 2)
        parts.append(_text(line, place.x, y, "" if index else "bold"))
    return element("g", *parts)


def _lines(label: str) -> list[str]:
    """Split a label that is too long for a node at its blanks."""
    return [label] if len(label) <= _MOST_LETTERS else label.split()


def _edge(path: str, kind: str, hint: str = "") -> Element:
    hints = [element("title", hint)] if hint else []
    return element("path", *hints, d=path, class_=f"edge {kind}", marker_end=f"url(#arrow-{kind})")


def _arrow(kind: str) -> Element:
    path = element("path", d="M0 0L8 4L0 8z", class_=f"fill-{kind}")
    box = dict(viewBox="0 0 8 8", refX=7.5, refY=4, orient="auto")
    size = dict(markerWidth=8, markerHeight=8, markerUnits="userSpaceOnUse")
    return element("marker", path, id=f"arrow-{kind}", **box, **size)


def _kind(source: int, target: int) -> str:
    return "same" if source == target else "up" if source > target else "down"


def _legend(graph: NetworkGraph, layout: Layout) -> tuple[list[list[Element]], float]:
    """Return the lines of the legend, and the width of the longest in SVG units."""
    lines, longest = [], 0
    operations: dict[str, dict[str, None]] = {}
    for (source, target), found in layout.edges().items():
        kind = _kind(graph.nodes[source].level, graph.nodes[target].level)
        operations.setdefault(kind, {}).update(dict.fromkeys(filter(None, found)))
    for kind, name in _KINDS.items():
        if kind not in operations:
            continue
        for index, operation in enumerate(list(operations[kind])[:_MOST_OPERATIONS] or [""]):
            sample = [] if index else [_edge("M0 -4h34", kind), _text(name, 42, 0, "", "start")]
            lines.append([*sample, _text(operation, _COLUMN, 0, "quiet", "start")])
            longest = max(longest, len(operation))
    for label, meaning in _notes(graph):
        longest = max(longest, len(meaning))
        label_text = _text(label, 0, 0, "bold", "start")
        lines.append([label_text, _text(meaning, _COLUMN, 0, "quiet", "start")])
    return lines, _COLUMN + _LETTER * longest


def _notes(graph: NetworkGraph) -> list[tuple[str, str]]:
    """Return the labels of the drawing and their meanings."""
    meanings = dict.fromkeys(
        tuple(operation) for node in graph.nodes for operation in node.operations
    )
    repeated = {stage.repeats for stage in graph.stages if stage.repeats > 1}
    return [(label, meaning) for label, meaning in meanings] + [
        (f"\u00d7{count}", f"{count} cells, each of which reads the outputs of the one before it")
        for count in sorted(repeated)
    ]


def _text(text: str, x: float, y: float, style: str = "", anchor: str = "middle") -> Element:
    names = {"class_": style} if style else {}
    return element("text", text, x=x, y=y, text_anchor=anchor, **names)
