"""Learned weights of a feature network's fusion nodes."""

import dataclasses

import numpy as np
import tf_keras as keras

from keras_layers.fusion import WeightedFusion
from keras_layers.network_graph import graph_of


@dataclasses.dataclass(frozen=True)
class NodeWeights:
    """Weights with which a node of a cell fuses its inputs.

    Attributes:
      stage: part of the network, e.g. "BiFPN".
      cell: number of the cell, from 1.
      node: name of the node, e.g. "P4 out"; see `keras_layers.network_graph`.
      method: fusion method, one of `keras_layers.feature_network.METHODS`.
      inputs: names of the n inputs.
      distances: level of each input minus that of the node: positive for coarser inputs.
      weights: float32 [n, C], normalised as the fusion computes them; C is 1, or the number
        of channels for a method with weights for each channel.
    """

    stage: str
    cell: int
    node: str
    method: str
    inputs: tuple[str, ...]
    distances: tuple[int, ...]
    weights: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """Weights averaged over channels, float32 [n]."""
        return self.weights.mean(axis=1)


def fusion_weights(model: keras.Model) -> list[NodeWeights]:
    """Return the weights of the fusion nodes of a model's feature network.

    Args:
      model: network with a layer `feature_network`, see `efficientdet_tf.model.build`.

    Returns:
      Weights by cell, in the order of computation; empty for a network without such weights.
    """
    graph = graph_of(model.get_layer("feature_network"))
    found = []
    for stage, nodes in graph.nodes_of_stages():
        for cell in range(stage.repeats):
            for number, node in nodes.items():
                fusion = node.fusions[cell] if node.fusions else None
                if not isinstance(fusion, WeightedFusion) or fusion.method == "sum":
                    continue
                weights = fusion.normalized_weights().numpy()
                sources = [edge.source for edge in node.inputs]
                found.append(
                    NodeWeights(
                        stage=stage.title,
                        cell=cell + 1,
                        node=graph.name(number),
                        method=fusion.method,
                        inputs=tuple(map(graph.name, sources)),
                        distances=tuple(graph.nodes[i].level - node.level for i in sources),
                        weights=weights.reshape(len(sources), -1),
                    )
                )
    return found
