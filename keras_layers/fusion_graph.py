"""Graphs of fusion nodes for feature networks: a table of nodes, and its executor."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf
import tf_keras as keras

from keras_layers.conv_block import ConvBlock
from keras_layers.feature_network_layer import FeatureNetwork
from keras_layers.fusion import fusion_operation, make_fusion
from keras_layers.network_graph import POOL, Edge, NetworkGraph, Operation, resampling
from keras_layers.resample import Projection, resize_to, shrink_to


class Node(NamedTuple):
    """Node of a cell: resizes the inputs, fuses them, and convolves.

    Args:
      level: level of the node's map.
      inputs: ids of the fused maps. Ids number the cell's inputs (0 is the finest level),
        then the nodes in order.
      block: name in `FusionGraph.conv_blocks` of the convolution block after the fusion;
        None for no block. Default "main".
      downsample: name of the block with stride 2 that downsamples inputs of the next finer
        level; None for max pooling. Default None.
      fusion: method of `keras_layers.fusion.make_fusion`; None for the network's.
        Default None.
      stage: number of the part of the cell that the node is drawn in. Default 0.
    """

    level: int
    inputs: tuple[int, ...]
    block: str | None = "main"
    downsample: str | None = None
    fusion: str | None = None
    stage: int = 0


class NodeTable:
    """Builder of a cell's nodes that tracks the newest map of every level.

    Examples:
      >>> table = NodeTable([3, 4])
      >>> table.add(3, table.newest[3], table.newest[4])
      2
      >>> table.nodes
      [Node(level=3, inputs=(0, 1), block='main', downsample=None, fusion=None, stage=0)]

    Args:
      levels: levels of the cell's inputs, ascending.

    Attributes:
      inputs: {level: id} of the cell's inputs.
      newest: {level: id} of the last map of each level.
      nodes: list of `Node` added so far.
    """

    def __init__(self, levels: list[int]) -> None:
        self.inputs = {level: index for index, level in enumerate(levels)}
        self.newest = dict(self.inputs)
        self.nodes: list[Node] = []

    def add(self, level: int, *inputs: int, **fields: Any) -> int:
        """Append a node and return its id.

        Args:
          level: level of the node's map.
          *inputs: ids of the fused maps.
          **fields: other fields of `Node`.
        """
        self.newest[level] = len(self.inputs) + len(self.nodes)
        self.nodes.append(Node(level, inputs, **fields))
        return self.newest[level]


@keras.utils.register_keras_serializable("efficientdet")
class FusionNode(keras.layers.Layer):
    """Layer of a node: projects and resizes the inputs, fuses them, and convolves.

    Args:
      num_filters: width C.
      fusion: method of `keras_layers.fusion.make_fusion`; a single input is not fused.
      conv_block: block after the fusion, see `ConvBlock.from_value`; False for no block.
        Default: the profile "light".
      projection_block: block that determines norm and bias of the projections. Default: the
        profile "light".
      downsample_block: block with stride 2 for `strided_inputs`. Default: the profile
        "light".
      strided_inputs: positions of the inputs of the next finer level that are downsampled
        by a convolution; other finer inputs are max-pooled. Default none.
      pool_kernel: kernel size of the max pooling, one of
        `keras_layers.resample.POOL_KERNELS`. Default "s+1".
      conv_after_downsample: whether inputs of finer levels are pooled before they are
        projected. Default False.
    """

    def __init__(
        self,
        num_filters: int,
        fusion: str,
        conv_block: Any = None,
        projection_block: Any = None,
        downsample_block: Any = None,
        strided_inputs: tuple[int, ...] = (),
        pool_kernel: str = "s+1",
        conv_after_downsample: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pool_kernel = pool_kernel
        self.conv_after_downsample = conv_after_downsample
        self.num_filters = num_filters
        self.method = fusion
        self.conv_block = None if conv_block is False else ConvBlock.from_value(conv_block)
        self.projection_block = ConvBlock.from_value(projection_block)
        self.downsample_block = ConvBlock.from_value(downsample_block)
        self.strided_inputs = tuple(strided_inputs)
        self.block = None
        if self.conv_block is not None:
            self.block = self.conv_block.build(num_filters, name="block")

    def build(self, input_shapes: dict[int, tf.TensorShape]) -> None:
        # The projection of a map of width C is the identity.
        self.projections = [
            Projection(self.num_filters, self.projection_block, name=f"projection_{i}")
            for i in range(len(input_shapes))
        ]
        self.downsamples = [
            self.downsample_block.build(self.num_filters, strides=2, name=f"downsample_{i}")
            for i in self.strided_inputs
        ]
        self.fusion = None
        if len(input_shapes) > 1:
            self.fusion = make_fusion(self.method, name="fusion")
        super().build(input_shapes)

    def call(
        self, inputs: Sequence[tf.Tensor], size: tuple[int, int], training: bool | None = None
    ) -> tf.Tensor:
        """Fuse.

        Args:
          inputs: list of float [B, h_i, w_i, c_i].
          size: (H, W) of the node's level.

        Returns:
          Float [B, H, W, C].
        """
        maps = list(inputs)
        if self.conv_after_downsample:
            maps = [shrink_to(x, *size, self.pool_kernel) for x in maps]
        maps = [project(x, training=training) for project, x in zip(self.projections, maps)]
        for index, downsample in zip(self.strided_inputs, self.downsamples):
            maps[index] = downsample(maps[index], training=training)
        maps = [resize_to(x, *size, self.pool_kernel) for x in maps]
        x = maps[0] if self.fusion is None else self.fusion(maps)
        return x if self.block is None else self.block(x, training=training)

    def operations(self) -> list[Operation]:
        """Return the fusion and the convolution block, where it has them."""
        fusion = [] if self.fusion is None else [fusion_operation(self.method)]
        return fusion + ([] if self.conv_block is None else [self.conv_block.operation()])

    def edge_operation(self, index: int, source: int, level: int) -> str:
        """Return what happens to an input before the fusion, in one line.

        Args:
          index: position of the input.
          source: its level.
          level: level of the node.
        """
        is_strided = index in self.strided_inputs
        down = self.downsample_block.describe(strides=2) if is_strided else POOL
        return resampling(source, level, down)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "num_filters": self.num_filters,
            "fusion": self.method,
            "conv_block": self.conv_block is not None and self.conv_block.to_dict(),
            "projection_block": self.projection_block.to_dict(),
            "downsample_block": self.downsample_block.to_dict(),
            "strided_inputs": self.strided_inputs,
            "pool_kernel": self.pool_kernel,
            "conv_after_downsample": self.conv_after_downsample,
        }


class FusionGraph(FeatureNetwork):
    """Base class of networks of repeated cells of fusion nodes.

    A subclass implements `make_nodes`; the last node of a level is the level's output.

    Attributes:
      projects_per_edge: whether each use of an input of another width has its own
        projection, instead of one for the level.
      pool_kernel: kernel size of the max pooling, one of
        `keras_layers.resample.POOL_KERNELS`.
      convolves_edges: whether a node of one input is drawn on the edge to the node that fuses
        it.
    """

    projects_per_edge = False
    pool_kernel = "s+1"
    convolves_edges = False

    def make_nodes(self, levels: list[int]) -> list[Node]:
        """Return the nodes of a cell over the levels, in topological order."""
        raise NotImplementedError

    @property
    def num_cells(self) -> int:
        """Number of cells."""
        return self.num_repeats

    def conv_blocks(self) -> dict[str, ConvBlock]:
        """Return the convolution blocks by their names in nodes."""
        return {"main": self.conv_block}

    def fused_levels(self) -> list[int]:
        """Return the levels of the graph."""
        return self.levels

    def build(self, input_shapes: dict[int, tf.TensorShape]) -> None:
        super().build(input_shapes)
        levels = list(self.fused_levels())
        self.graph = self.make_nodes(levels)
        self.projections = []
        if not self.projects_per_edge:
            self.projections = [
                Projection(self.num_filters, self.projection_block(), name=f"projection_{level}")
                for level in levels
            ]
        # One flat list over all cells: Keras' weights files omit layers in nested
        # lists.
        self.nodes = [
            self._make_node(node, levels, f"cell_{cell}_node_{index}")
            for cell in range(self.num_cells)
            for index, node in enumerate(self.graph)
        ]

    def _make_node(self, node: Node, levels: list[int], name: str) -> FusionNode:
        blocks = self.conv_blocks()
        level_of = [*levels, *(other.level for other in self.graph)]
        finer = [i for i, source in enumerate(node.inputs) if level_of[source] < node.level]
        return FusionNode(
            self.num_filters,
            node.fusion or self.fusion,
            blocks[node.block] if node.block else False,
            self.projection_block(),
            blocks[node.downsample] if node.downsample else None,
            tuple(finer) if node.downsample else (),
            self.pool_kernel,
            self.conv_after_downsample,
            name=name,
        )

    def extend_graph(self, graph: NetworkGraph) -> None:
        self.extend_with_inputs(graph)
        levels = self.fused_levels()
        on_edges = self._nodes_on_edges()
        stage = None
        # Ids of the node table -> ids of the graph.
        ids = {number: graph.newest[level] for number, level in enumerate(levels)}
        for index, node in enumerate(self.graph):
            number = len(levels) + index
            if number in on_edges:
                continue
            if node.stage != stage:
                stage = node.stage
                graph.begin_stage(self.stage_title(stage), self.num_cells)
            cells = self._cells(index)
            edges, layers = [], [*cells]
            for position, source in enumerate(node.inputs):
                operation = self._edge_operation(index, position)
                if source in on_edges:
                    inner = source - len(levels)
                    layers += self._cells(inner)
                    meanings = [each.meaning for each in self.nodes[inner].operations()]
                    operation = ", ".join(filter(None, [self._edge_operation(inner), *meanings]))
                    [source] = self.graph[inner].inputs
                edges.append(Edge(ids[source], operation))
            fusions = [cell.fusion for cell in cells if cell.fusion is not None]
            ids[number] = graph.add(node.level, cells[0].operations(), edges, layers, fusions)

    def stage_title(self, stage: int) -> str:
        """Return the title of a part of the cell in drawings, see `Node`."""
        return type(self).__name__

    def extend_with_inputs(self, graph: NetworkGraph) -> None:
        """Append what `project` does to a graph."""
        projections = self.projections
        if self.projects_per_edge:
            projections = [self._edge_projection(i) for i in range(len(self.fused_levels()))]
        for level, projection in zip(self.fused_levels(), projections):
            projection.add_to_graph(graph, level)

    def _edge_projection(self, number: int) -> Projection:
        """Return one of the equal projections of an input of the first cell."""
        return next(
            cell.projections[node.inputs.index(number)]
            for node, cell in zip(self.graph, self.nodes)
            if number in node.inputs
        )

    def _cells(self, index: int) -> list[FusionNode]:
        """Return the layers of a node of the table, one for each cell."""
        return self.nodes[index :: len(self.graph)]

    def _nodes_on_edges(self) -> set[int]:
        """Return the ids of the table's nodes that are drawn on edges, see `convolves_edges`."""
        num_inputs, found = len(self.fused_levels()), set()
        for index, node in enumerate(self.graph if self.convolves_edges else ()):
            users = [other for other in self.graph if num_inputs + index in other.inputs]
            is_only = len(node.inputs) == len(users) == 1 and len(users[0].inputs) > 1
            if is_only and users[0].level == node.level:
                found.add(num_inputs + index)
        return found

    def _edge_operation(self, index: int, position: int = 0) -> str:
        """Return what happens to an input of a node of the table before the fusion."""
        node = self.graph[index]
        level_of = [*self.fused_levels(), *(other.level for other in self.graph)]
        source = level_of[node.inputs[position]]
        return self.nodes[index].edge_operation(position, source, node.level)

    def project(
        self, features: dict[int, tf.Tensor], training: bool | None = None
    ) -> dict[int, tf.Tensor]:
        """Return the inputs of the first cell: of width C, unless it projects per edge."""
        features = dict(features)
        for level, project in zip(features, self.projections):
            features[level] = project(features[level], training=training)
        return features

    def call(
        self, features: dict[int, tf.Tensor], training: bool | None = None
    ) -> dict[int, tf.Tensor]:
        """Fuse.

        Args:
          features: dict {level: float [B, H_l, W_l, c_l]}, contiguous levels.

        Returns:
          Dict {level: float [B, H_l, W_l, C]} of the same levels and sizes.
        """
        features = {level: features[level] for level in self.fused_levels()}
        features = self.project(features, training)
        for first in range(0, len(self.nodes), len(self.graph)):
            maps = list(features.values())
            for node, fuse in zip(self.graph, self.nodes[first:]):
                size = tuple(features[node.level].shape[1:3])
                inputs = [maps[i] for i in node.inputs]
                maps.append(fuse(inputs, size=size, training=training))
            newest = {node.level: x for node, x in zip(self.graph, maps[len(features) :])}
            features = {level: newest.get(level, x) for level, x in features.items()}
        return features
