"""The bidirectional feature pyramid network (paper, section 3)."""

from typing import NamedTuple

import tf_keras as keras

from keras_layers.fusion import WeightedFusion
from keras_layers.normalization import batch_norm
from keras_layers.resample import Projection, resize_to


class Node(NamedTuple):
    """A node of the graph: its level, and the indices of what it fuses.

    Indices count the cell's inputs first (0 is the finest level), then the
    nodes in order.
    """

    level: int
    inputs: tuple[int, ...]


def bifpn_nodes(min_level: int, max_level: int) -> list[Node]:
    """The graph of a BiFPN cell: a top-down path, then a bottom-up path.

    Inputs of a node come in the published order: its own level's input, its
    own level's top-down node, then the neighbour.

    Example:
      >>> bifpn_nodes(3, 5)
      [Node(level=4, inputs=(1, 2)), Node(level=3, inputs=(0, 3)),
       Node(level=4, inputs=(1, 3, 4)), Node(level=5, inputs=(2, 5))]
    """
    last_at = {level: [index] for index, level in enumerate(range(min_level, max_level + 1))}
    nodes, count = [], max_level - min_level + 1

    def add(level, neighbour):
        nonlocal count
        nodes.append(Node(level, (*last_at[level], last_at[neighbour][-1])))
        last_at[level].append(count)
        count += 1

    for level in range(max_level - 1, min_level - 1, -1):
        add(level, level + 1)
    for level in range(min_level + 1, max_level + 1):
        add(level, level - 1)
    return nodes


@keras.utils.register_keras_serializable("efficientdet")
class FusionNode(keras.layers.Layer):
    """Project and resize the inputs, fuse, activate, convolve, normalise.

    Args:
      num_filters: width C.
      method: of `WeightedFusion`.
      activation: name of a Keras activation.
    """

    def __init__(self, num_filters: int, method: str, activation: str, **kwargs):
        super().__init__(**kwargs)
        self.num_filters = num_filters
        self.method = method
        self.activation_name = activation
        self.activation = keras.activations.get(activation)
        self.fusion = WeightedFusion(method, name="fusion")
        self.conv = keras.layers.SeparableConv2D(num_filters, 3, padding="same", name="conv")
        self.norm = batch_norm("bn")

    def build(self, input_shapes):
        # Each edge has a projection of its own, as published.
        self.projections = [
            Projection(self.num_filters, name=f"projection_{i}") for i in range(len(input_shapes))
        ]
        super().build(input_shapes)

    def call(self, inputs, size, training=None):
        """Fuses.

        Args:
          inputs: list of float [B, h_i, w_i, c_i].
          size: (H, W) of the node's level.

        Returns:
          Float [B, H, W, C].
        """
        resized = [
            resize_to(project(x, training=training), *size)
            for project, x in zip(self.projections, inputs)
        ]
        x = self.activation(self.fusion(resized))
        return self.norm(self.conv(x), training=training)

    def get_config(self):
        return {
            **super().get_config(),
            "num_filters": self.num_filters,
            "method": self.method,
            "activation": self.activation_name,
        }


@keras.utils.register_keras_serializable("efficientdet")
class BiFPN(keras.layers.Layer):
    """Repeated bidirectional fusion over levels.

    Example:
      >>> levels = {3: tf.ones([1, 8, 8, 40]), 4: tf.ones([1, 4, 4, 112])}
      >>> BiFPN(num_filters=64, num_repeats=2)(levels)[4].shape
      TensorShape([1, 4, 4, 64])

    Args:
      num_filters: width C of every level of the output.
      num_repeats: number of cells, each with weights of its own.
      method: of `WeightedFusion`.
      activation: name of a Keras activation.

    Raises:
      ValueError: when `num_repeats` is below 1 or levels have gaps.
    """

    def __init__(
        self,
        num_filters: int = 64,
        num_repeats: int = 3,
        method: str = "fast",
        activation: str = "swish",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if num_repeats < 1:
            raise ValueError(f"num_repeats: {num_repeats} is below 1")
        self.num_filters = num_filters
        self.num_repeats = num_repeats
        self.method = method
        self.activation_name = activation

    def build(self, input_shapes):
        levels = sorted(int(level) for level in input_shapes)
        if len(levels) < 2 or levels != list(range(levels[0], levels[-1] + 1)):
            raise ValueError(f"features: levels {levels} are not two or more without a gap")
        self.graph = bifpn_nodes(levels[0], levels[-1])
        # One flat list over all cells: Keras' weight files leave out layers in
        # lists of lists.
        self.nodes = [
            FusionNode(
                self.num_filters,
                self.method,
                self.activation_name,
                name=f"cell_{cell}_node_{index}",
            )
            for cell in range(self.num_repeats)
            for index in range(len(self.graph))
        ]
        super().build(input_shapes)

    def call(self, features, training=None):
        """Fuses.

        Args:
          features: dict {level: float [B, H_l, W_l, c_l]}, contiguous levels.

        Returns:
          Dict {level: float [B, H_l, W_l, C]} of the same levels and sizes.
        """
        features = {int(level): x for level, x in features.items()}
        for first in range(0, len(self.nodes), len(self.graph)):
            maps = [features[level] for level in sorted(features)]
            for node, fuse in zip(self.graph, self.nodes[first:]):
                inputs = [maps[i] for i in node.inputs]
                size = features[node.level].shape[1:3]
                maps.append(fuse(inputs, size=tuple(size), training=training))
            # The last node of a level is its output.
            newest = {node.level: x for node, x in zip(self.graph, maps[len(features) :])}
            features = {level: newest[level] for level in sorted(newest)}
        return features

    def get_config(self):
        return {
            **super().get_config(),
            "num_filters": self.num_filters,
            "num_repeats": self.num_repeats,
            "method": self.method,
            "activation": self.activation_name,
        }
