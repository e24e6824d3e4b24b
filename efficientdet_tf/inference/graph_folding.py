"""Folding of a frozen graph: the same outputs from fewer and faster operations.

TensorFlow optimises a graph by itself when it is loaded, but leaves BatchNorm behind a convolution
with a bias as it is, and fuses it with others in a slow form. With BatchNorm as kernel and bias,
oneDNN computes convolution, bias and ReLU6 or swish in one pass over memory.

`fold_batch_norms` of TensorFlow's `optimize_for_inference_lib` knows no convolution with a bias, as
those of the heads and feature networks, and no weights behind identities: it folds none of ours.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")


def fold(graph: tf.compat.v1.GraphDef, outputs: Sequence[str]) -> tf.compat.v1.GraphDef:
    """Fold a graph whose weights are constants.

    - BatchNorm of inference behind a convolution becomes its kernel and bias.
    - A division of the pixels by a constant, in front of a convolution, becomes its kernel. The
      dividend has as many channels as the convolution.
    - Identities and products with one are left out. Gradients of their own, as swish has, are such
      identities, between the sigmoid and what TensorFlow would fuse with it.

    What has another form, as with casts of mixed precision, stays as it is. Results differ by
    rounding. Control inputs are left out, as nothing in such a graph has side effects.

    Args:
      graph: frozen graph, which stays unchanged.
      outputs: names of its output nodes, which keep their names.

    Returns:
      Graph of the nodes that the outputs need.
    """
    folded = _Graph(graph)
    folded.leave_out_identities()
    for node in graph.node:
        if node.op == "FusedBatchNormV3":
            folded.fold_batch_norm(node.name)
    for node in list(folded.nodes.values()):
        if node.op == "Conv2D":
            folded.fold_division(node)
    return folded.needed_by(outputs)


class _Convolution(NamedTuple):
    """Convolution with its kernel and bias in float64."""

    node: tf.compat.v1.NodeDef
    kernel: np.ndarray
    bias: np.ndarray


class _Graph:
    """Graph that is edited.

    Attributes:
      definition: the edited copy.
      nodes: its nodes by name.
    """

    def __init__(self, graph: tf.compat.v1.GraphDef) -> None:
        self.definition = tf.compat.v1.GraphDef()
        self.definition.CopyFrom(graph)
        self.nodes = {node.name: node for node in self.definition.node}

    def leave_out_identities(self) -> None:
        """Connect each node to what the identities and products with one before it pass on."""
        for node in self.definition.node:
            # Without control inputs: they put in order reads of variables, which are constants now.
            node.input[:] = [self._origin(tensor) for tensor in node.input if tensor[0] != "^"]

    def fold_batch_norm(self, name: str) -> None:
        """Make BatchNorm the kernel and bias of the convolution before it."""
        node = self.nodes[name]
        before = self._convolution_before(node)
        constants = [self._constant(value) for value in node.input[1:5]]
        statistics = [value for value in constants if value is not None]
        if before is None or node.attr["is_training"].b or len(statistics) < 4:
            return
        gamma, beta, mean, variance = np.stack(statistics).astype(np.float64)
        scale = gamma / np.sqrt(variance + node.attr["epsilon"].f)
        # A depthwise kernel has [height, width, channels, multiplier].
        is_depthwise = before.node.op == "DepthwiseConv2dNative"
        per_channel = scale.reshape(before.kernel.shape[2:]) if is_depthwise else scale
        dtype = node.attr["T"].type
        kernel = self._add_constant(f"{name}/kernel", before.kernel * per_channel, dtype)
        bias = self._add_constant(f"{name}/bias", beta + (before.bias - mean) * scale, dtype)
        convolution = self._add_copy(before.node, f"{name}/convolution")
        convolution.input[1] = kernel
        node.Clear()
        node.name, node.op = name, "BiasAdd"
        node.input[:] = [convolution.name, bias]
        node.attr["T"].type = dtype
        node.attr["data_format"].s = convolution.attr["data_format"].s

    def fold_division(self, node: tf.compat.v1.NodeDef) -> None:
        """Make a division by a constant before a convolution part of its kernel."""
        division = self.nodes[_node(node.input[0])]
        kernel = self._constant(node.input[1])
        if division.op != "RealDiv" or kernel is None:
            return
        divisor = self._constant(division.input[1])
        channels = kernel.shape[2]
        if divisor is None or divisor.shape not in ((), (channels,)):
            return
        quotient = kernel.astype(np.float64) / divisor.reshape(-1, 1)
        dtype = node.attr["T"].type
        node.input[1] = self._add_constant(f"{node.name}/divided_kernel", quotient, dtype)
        node.input[0] = division.input[0]

    def needed_by(self, outputs: Sequence[str]) -> tf.compat.v1.GraphDef:
        """Return the graph of some nodes and of those before them.

        TensorFlow's `extract_sub_graph` logs that it is deprecated.
        """
        needed, reached = set(), list(outputs)
        while reached:
            name = reached.pop()
            if name not in needed:
                needed.add(name)
                reached += [_node(tensor) for tensor in self.nodes[name].input]
        graph = tf.compat.v1.GraphDef(
            library=self.definition.library, versions=self.definition.versions
        )
        graph.node.extend(node for node in self.definition.node if node.name in needed)
        return graph

    def _convolution_before(self, node: tf.compat.v1.NodeDef) -> "_Convolution | None":
        """Return the convolution with constant kernel and bias before a node, if there is one."""
        before, bias = self.nodes[_node(node.input[0])], np.zeros(())
        if before.op == "BiasAdd":
            added = self._constant(before.input[1])
            if added is None:
                return None
            before, bias = self.nodes[_node(before.input[0])], added
        kernel = self._constant(before.input[1]) if before.op in _CONVOLUTIONS else None
        if kernel is None:
            return None
        return _Convolution(before, kernel.astype(np.float64), bias.astype(np.float64))

    def _origin(self, tensor: str) -> str:
        """Return the name of the tensor that identities before a tensor pass on."""
        node = self.nodes[_node(tensor)]
        if node.op in ("Identity", "IdentityN"):
            return self._origin(node.input[_output(tensor)])
        if node.op == "Mul" and (factor := self._other_factor_of_one(node.input[:2])):
            return self._origin(factor)
        return tensor

    def _other_factor_of_one(self, factors: Sequence[str]) -> str | None:
        """Return the factor of a product whose other factor is the constant 1."""
        for factor, other in (factors, factors[::-1]):
            value = self._constant(self._origin(other))
            if value is not None and value.shape == () and value == 1:
                return factor
        return None

    def _constant(self, name: str) -> np.ndarray | None:
        """Return the value of a constant; None if the tensor is another one."""
        node = self.nodes[_node(name)]
        return tf.make_ndarray(node.attr["value"].tensor) if node.op == "Const" else None

    def _add_constant(self, name: str, value: np.ndarray, dtype: int) -> str:
        node = self.definition.node.add(name=name, op="Const")
        node.attr["dtype"].type = dtype
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value, tf.as_dtype(dtype)))
        self.nodes[name] = node
        return name

    def _add_copy(self, node: tf.compat.v1.NodeDef, name: str) -> tf.compat.v1.NodeDef:
        copied = self.definition.node.add()
        copied.CopyFrom(node)
        copied.name = name
        self.nodes[name] = copied
        return copied


def _node(tensor: str) -> str:
    return tensor.partition(":")[0]


def _output(tensor: str) -> int:
    return int(tensor.partition(":")[2] or 0)
