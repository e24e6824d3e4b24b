"""Graph of a feature network: its nodes and edges, for drawings and tables.

A network adds its own nodes in `FeatureNetwork.extend_graph`, from the layers and tables that it
is called with; `graph_of` collects them.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import tf_keras as keras

    from keras_layers.feature_network_layer import FeatureNetwork

UPSAMPLE = "upsampled to the nearest neighbour"
POOL = "max-pooled"


class Operation(NamedTuple):
    """Operation of a node.

    Args:
      label: short name, e.g. "fast" or "conv 3x3".
      meaning: what it computes, in one line.
    """

    label: str
    meaning: str


class Edge(NamedTuple):
    """Input of a node.

    Args:
      source: id of the node that it comes from.
      operation: what happens to the map on its way, in one line; "" for nothing.
    """

    source: int
    operation: str = ""


@dataclasses.dataclass(frozen=True)
class GraphNode:
    """Node of a network's graph.

    Attributes:
      level: level of the node's map.
      operations: operations in their order; of an input of the network, its projection.
      inputs: inputs in the order in which they are fused; none for an input of the network.
      layers: layers of the node and its edges, those of all cells.
      fusions: layers that fuse the inputs, one for each cell; none for a node without such a
        layer.
    """

    level: int
    operations: tuple[Operation, ...] = ()
    inputs: tuple[Edge, ...] = ()
    layers: tuple["keras.layers.Layer", ...] = ()
    fusions: tuple["keras.layers.Layer", ...] = ()


class Stage(NamedTuple):
    """Successive nodes that are repeated together.

    Args:
      title: name of the stage, e.g. "BiFPN cell".
      repeats: number of cells; the outputs of a cell are the inputs of the next one.
      first: id of the first node.
    """

    title: str
    repeats: int
    first: int


class NetworkGraph:
    """Graph of a network: nodes in topological order, in stages.

    Examples:
      >>> graph = NetworkGraph([3, 4])
      >>> graph.begin_stage("cell", 2)
      >>> graph.add(3, [Operation("sum", "sum of the inputs")], [Edge(0), Edge(1, UPSAMPLE)])
      2
      >>> graph.dependencies().astype(int)
      array([[1, 1],
             [0, 1]])

    Args:
      levels: levels of the network, ascending.

    Attributes:
      nodes: list of `GraphNode`; the index is the id. The first are the network's inputs, from
        the finest level.
      stages: list of `Stage`.
      newest: {level: id} of the last map of each level; at the end, of the outputs.
    """

    def __init__(self, levels: Sequence[int]) -> None:
        self.levels = list(levels)
        self.nodes = [GraphNode(level) for level in self.levels]
        self.stages: list[Stage] = []
        self.newest = {level: index for index, level in enumerate(self.levels)}

    def begin_stage(self, title: str, repeats: int = 1) -> None:
        """Begin a stage; the nodes added from here on belong to it."""
        self.stages.append(Stage(title, repeats, len(self.nodes)))

    def add(
        self,
        level: int,
        operations: Sequence[Operation],
        inputs: Sequence[Edge],
        layers: Sequence["keras.layers.Layer"] = (),
        fusions: Sequence["keras.layers.Layer"] = (),
    ) -> int:
        """Append a node to the current stage and return its id; see `GraphNode`."""
        self.newest[level] = len(self.nodes)
        self.nodes.append(
            GraphNode(level, tuple(operations), tuple(inputs), tuple(layers), tuple(fusions))
        )
        return self.newest[level]

    def project(
        self, level: int, operations: Sequence[Operation], layers: Sequence["keras.layers.Layer"]
    ) -> None:
        """Add operations to the newest map of a level, as part of its node."""
        node = self.nodes[self.newest[level]]
        self.nodes[self.newest[level]] = dataclasses.replace(
            node,
            operations=(*node.operations, *operations),
            layers=(*node.layers, *layers),
        )

    def inline(self, other: "NetworkGraph") -> None:
        """Append another graph to the current stage, with its cells one after another.

        Its inputs are the newest maps. The layers are shared with the other graph, whose
        fusions are therefore not repeated.
        """
        ids = dict(enumerate(self.newest[level] for level in other.levels))
        for level, node in zip(other.levels, other.nodes):
            self.project(level, node.operations, node.layers)
        for stage, nodes in other.nodes_of_stages():
            inside, after = dict(ids), other.newest_after(stage)
            for _ in range(stage.repeats):
                for number, node in nodes.items():
                    inputs = [edge._replace(source=inside[edge.source]) for edge in node.inputs]
                    inside[number] = self.add(node.level, node.operations, inputs, node.layers)
                last = {level: inside[number] for level, number in after.items()}
                inside |= {n: last[level] for level, n in other.newest_before(stage).items()}
            ids |= {number: inside[number] for number in nodes}

    def nodes_of_stages(self) -> list[tuple[Stage, dict[int, GraphNode]]]:
        """Return each stage with its nodes by id."""
        ends = [stage.first for stage in self.stages[1:]] + [len(self.nodes)]
        return [
            (stage, {number: self.nodes[number] for number in range(stage.first, end)})
            for stage, end in zip(self.stages, ends)
        ]

    def newest_before(self, stage: Stage) -> dict[int, int]:
        """Return {level: id} of the inputs of a stage's first cell."""
        return {node.level: number for number, node in enumerate(self.nodes[: stage.first])}

    def newest_after(self, stage: Stage) -> dict[int, int]:
        """Return {level: id} of the outputs of a stage."""
        following = self.stages[self.stages.index(stage) + 1 :]
        end = following[0].first if following else len(self.nodes)
        return {node.level: number for number, node in enumerate(self.nodes[:end])}

    def dependencies(self) -> np.ndarray:
        """Return whether an output is reached from an input: bool [levels, levels].

        Rows are the outputs and columns the inputs, from the finest level.
        """
        reached = dict(enumerate(np.eye(len(self.levels), dtype=bool)))
        for stage, nodes in self.nodes_of_stages():
            inside, after = dict(reached), self.newest_after(stage)
            for _ in range(stage.repeats):
                for number, node in nodes.items():
                    inside[number] = np.any([inside[edge.source] for edge in node.inputs], axis=0)
                last = {level: inside[number] for level, number in after.items()}
                inside |= {n: last[level] for level, n in self.newest_before(stage).items()}
            reached |= {number: inside[number] for number in nodes}
        return np.array([reached[self.newest[level]] for level in self.levels])

    def used(self) -> set[int]:
        """Return the ids of the nodes that an output is reached from."""
        used = set(self.newest.values())
        for number in reversed(range(len(self.nodes))):
            if number in used:
                used |= {edge.source for edge in self.nodes[number].inputs}
        return used

    def name(self, number: int) -> str:
        """Return the name of a node: "P4 in", "P4 out", or "P4.1" for the first between them."""
        node = self.nodes[number]
        if number < len(self.levels):
            return f"P{node.level} in"
        if number == self.newest[node.level]:
            return f"P{node.level} out"
        earlier = [other for other in self.nodes[:number] if other.level == node.level]
        return f"P{node.level}.{len(earlier)}"


def graph_of(network: "FeatureNetwork") -> NetworkGraph:
    """Return the graph of a network that has been called.

    Raises:
      ValueError: if the network is not built, as its levels are unknown.
    """
    if not network.built:
        raise ValueError(f"{network.name}: is not built, so its levels are unknown; call it first")
    graph = NetworkGraph(network.levels)
    network.extend_graph(graph)
    return graph


def resampling(source: int, target: int, down: str = POOL) -> str:
    """Return what brings a map from a level to another; "" for the same level.

    Args:
      source: level of the map.
      target: level that it is brought to.
      down: what brings it to a coarser level. Default: max pooling.
    """
    if source == target:
        return ""
    return UPSAMPLE if source > target else down
