"""Layout of a feature network's graph: positions of the nodes, and routes of the edges."""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

from keras_layers.network_graph import GraphNode, NetworkGraph, Stage

# Sizes in SVG units.
NODE_WIDTH, NODE_HEIGHT = 70, 34
ROW_HEIGHT = 76
# Space between a frame and its nodes.
FRAME = 13
_LANE, _LANE_PITCH, _LANES_HEIGHT = 12, 5, 24
# Smallest and largest gap between columns, and what an edge adds.
_GAP, _MOST_GAP, _EDGE_GAP = 30, 110, 3
# Distance of an edge's end from the middle of a node's side.
_PORT = 8
_CORNER = 8


class Place(NamedTuple):
    """Place of a node: column and row in the grid, and its centre."""

    column: int
    row: int
    x: float
    y: float


class Layout:
    """Layout of a graph: rows are levels, the coarsest at the top; columns are steps.

    Args:
      graph: graph of a network.

    Attributes:
      places: {id: place} of the nodes.
      outputs: {level: place} of the marks of the outputs, in a column of their own.
      width, height: size of the drawing.
    """

    def __init__(self, graph: NetworkGraph) -> None:
        self.graph = graph
        columns = assign_columns(graph)
        last = max(columns.values()) + 1
        self._x = self._column_positions(columns, last)
        self.places = {
            number: self._place(columns[number], node.level)
            for number, node in enumerate(graph.nodes)
        }
        self.outputs = {level: self._place(last, level) for level in graph.levels}
        self.width = self._x[-1] + NODE_WIDTH / 2
        self.height = ROW_HEIGHT * len(graph.levels)
        self._taken = {(place.column, place.row) for place in self.places.values()}
        # Edges in the lanes on a side of a row, each by its source and its direction.
        self._lanes: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for source, target in self.edges():
            self._reserve_lane(source, self.places[source], self.places[target])
        for level, source in graph.newest.items():
            self._reserve_lane(source, self.places[source], self.outputs[level])

    def edges(self) -> dict[tuple[int, int], list[str]]:
        """Return {(source, target): what happens to the map}, parallel edges as one."""
        found: dict[tuple[int, int], list[str]] = {}
        for target, node in enumerate(self.graph.nodes):
            for edge in node.inputs:
                found.setdefault((edge.source, target), []).append(edge.operation)
        return found

    def frame(self, nodes: Iterable[int]) -> tuple[float, float]:
        """Return the left and right side of a stage's frame."""
        xs = [self.places[number].x for number in nodes]
        return min(xs) - NODE_WIDTH / 2 - FRAME, max(xs) + NODE_WIDTH / 2 + FRAME

    def route(self, source: int, target: Place) -> str:
        """Return the path of an edge, as the attribute `d` of SVG."""
        start = self.places[source]
        up = _sign(target.row - start.row)
        if target.column == start.column:
            y = start.y + up * NODE_HEIGHT / 2
            return f"M{start.x:g} {y:g}V{target.y - up * NODE_HEIGHT / 2:g}"
        x, y = start.x + NODE_WIDTH / 2, start.y + up * _PORT
        end_x, end_y = target.x - NODE_WIDTH / 2, target.y - up * _PORT
        if self._is_clear(start, target, start.row):
            if not up:
                return f"M{x:g} {y:g}H{end_x:g}"
            bend = self._x[target.column - 1] + NODE_WIDTH / 2
            return f"M{x:g} {y:g}" + f"H{bend:g}" * (bend > x) + _curve(bend, y, end_x, end_y)
        if up and self._is_clear(start, target, target.row):
            bend = self._x[start.column + 1] - NODE_WIDTH / 2
            return f"M{x:g} {y:g}{_curve(x, y, bend, end_y)}H{end_x:g}"
        return self._lane_route(source, start, target)

    def _lane_route(self, source: int, start: Place, target: Place) -> str:
        """Return a path above or below the nodes between source and target."""
        up = _sign(target.row - start.row)
        side = up or -1
        lane = self._lane_position(source, start, up)
        x, y = start.x + NODE_WIDTH / 2 - _CORNER, start.y + side * NODE_HEIGHT / 2
        path = f"M{x:g} {y:g}Q{x:g} {lane:g} {x + _CORNER:g} {lane:g}"
        if up:
            bend = self._x[target.column - 1] + NODE_WIDTH / 2
            end_x, end_y = target.x - NODE_WIDTH / 2, target.y - up * _PORT
            return f"{path}H{bend:g}{_curve(bend, lane, end_x, end_y)}"
        end_x, end_y = target.x - NODE_WIDTH / 2 + _CORNER, target.y + side * NODE_HEIGHT / 2
        return f"{path}H{end_x - _CORNER:g}Q{end_x:g} {lane:g} {end_x:g} {end_y:g}"

    def _lane_position(self, source: int, start: Place, up: int) -> float:
        lanes = self._lanes[start.row, up or -1]
        pitch = min(_LANE_PITCH, _LANES_HEIGHT / len(lanes))
        distance = NODE_HEIGHT / 2 + _LANE + pitch * lanes.index((source, up))
        return round(start.y + (up or -1) * distance, 1)

    def _reserve_lane(self, source: int, start: Place, target: Place) -> None:
        """Give a source whose edge needs it a lane on a side of its row."""
        up = _sign(target.row - start.row)
        if start.column == target.column or self._is_clear(start, target, start.row):
            return
        if up and self._is_clear(start, target, target.row):
            return
        lanes = self._lanes.setdefault((start.row, up or -1), [])
        if (source, up) not in lanes:
            lanes.append((source, up))

    def _is_clear(self, start: Place, target: Place, row: int) -> bool:
        """Tell whether no node is in a row between the columns of two places."""
        between = range(start.column + 1, target.column)
        return not any((column, row) in self._taken for column in between)

    def _place(self, column: int, level: int) -> Place:
        row = self.graph.levels[-1] - level
        return Place(column, row, self._x[column], ROW_HEIGHT * (row + 0.5))

    def _column_positions(self, columns: dict[int, int], last: int) -> list[float]:
        """Return the centres of the columns; more edges make a wider gap."""
        nodes = self.graph.nodes
        starts = {min(columns[n] for n in part) for _, part in self.graph.nodes_of_stages()}
        positions = [NODE_WIDTH / 2]
        for column in range(1, last + 1):
            bent = sum(
                nodes[source].level != nodes[target].level
                and columns[source] < column <= columns[target]
                for source, target in self.edges()
            )
            gap = min(_MOST_GAP, _GAP + _EDGE_GAP * bent)
            gap = max(gap, 2 * FRAME + 24) if column in starts | {last} else gap
            positions.append(positions[-1] + NODE_WIDTH + gap)
        return positions


def assign_columns(graph: NetworkGraph) -> dict[int, int]:
    """Assign a column to each node of a graph.

    The inputs are in column 0. A node is in the first free column of its stage to which all
    edges lead to the right; edges between adjacent levels of a stage may be vertical. Outputs
    of a stage are as far right as the nodes that read them.

    Returns:
      {id: column}.
    """
    columns = dict.fromkeys(range(len(graph.levels)), 0)
    for stage, nodes in graph.nodes_of_stages():
        first = max(columns.values()) + 1
        taken: set[tuple[int, int]] = set()
        for number, node in nodes.items():
            wanted = [columns[e.source] + _step(graph, stage, e.source, node) for e in node.inputs]
            free = itertools.count(max([first, *wanted]))
            columns[number] = next(c for c in free if (c, node.level) not in taken)
            taken.add((columns[number], node.level))
        _align_outputs(graph, stage, nodes, columns, taken)
    return columns


def _step(graph: NetworkGraph, stage: Stage, source: int, node: GraphNode) -> int:
    """Return by how many columns at least a node of a stage is right of one of its inputs."""
    distance = abs(graph.nodes[source].level - node.level)
    return 0 if source >= stage.first and distance == 1 else 1


def _align_outputs(
    graph: NetworkGraph,
    stage: Stage,
    nodes: dict[int, GraphNode],
    columns: dict[int, int],
    taken: set[tuple[int, int]],
) -> None:
    """Move the outputs of a stage to the right, as far as the stage's other nodes allow."""
    last = max(columns[number] for number in nodes)
    outputs = set(graph.newest_after(stage).values())
    for number in sorted(outputs & set(nodes), reverse=True):
        level = nodes[number].level
        limits = [
            columns[user] - _step(graph, stage, number, node)
            for user, node in nodes.items()
            if number in [edge.source for edge in node.inputs]
        ]
        for column in range(min([last, *limits]), columns[number], -1):
            if (column, level) not in taken:
                taken.add((column, level))
                columns[number] = column
                break


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def _curve(x: float, y: float, end_x: float, end_y: float) -> str:
    """Return an S-curve with horizontal ends, from a point of the path."""
    middle = (x + end_x) / 2
    return f"C{middle:g} {y:g} {middle:g} {end_y:g} {end_x:g} {end_y:g}"
