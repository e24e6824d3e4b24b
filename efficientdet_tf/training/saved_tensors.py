"""Tensors saved by a forward pass for the backward pass, inferred from its graph."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import tensorflow as tf

# Operations whose output shares the buffer of their input.
_ALIASES = ("Identity", "IdentityN", "Reshape", "Squeeze", "ExpandDims", "StopGradient")
# Tensors not computed by the step: inputs, weights, constants.
GIVEN = ("Placeholder", "ReadVariableOp", "Const")
# Operations that read only the static shape, no values.
_SHAPES = ("Shape", "ShapeN", "Size", "Rank")


@dataclasses.dataclass(frozen=True)
class SavedTensors:
    """Tensors of the graph that a gradient reads, each buffer once.

    Attributes:
      tensors: saved by the forward pass, without weights, constants and inputs.
      recomputed: for each part of the graph with a custom gradient, such as
        `tf.recompute_grad`, the tensors recomputed in the backward pass.
    """

    tensors: list[tf.Tensor]
    recomputed: list[list[tf.Tensor]]


def find_saved_tensors(graph: tf.Graph, result: tf.Tensor, variables: Iterable) -> SavedTensors:
    """Find the tensors that the forward pass of `result` saves for its gradient.

    The inputs and outputs that the gradient of an operation reads are found by building
    that gradient, once for every kind of operation.

    Args:
      graph: graph of a traced function; gradients are added to it.
      result: scalar tensor of the graph.
      variables: variables of the gradient.
    """
    read_by_gradient = functools.partial(
        _read_by_gradient, graph, _downstream(graph, variables), {}
    )
    tensors, custom = read_by_gradient(result.op, ())
    parts = []
    for op in custom:
        inner, _ = read_by_gradient(op.inputs[0].op, op.inputs[1:])
        parts.append([inner[name] for name in inner.keys() - tensors.keys()])
    return SavedTensors(list(tensors.values()), parts)


def _read_by_gradient(
    graph: tf.Graph, differentiable: set[str], rules: dict, start: tf.Operation, given: Sequence
) -> tuple[dict[str, tf.Tensor], list[tf.Operation]]:
    """Find the tensors read by gradients from `start` back to `given`.

    Args:
      graph: graph of `find_saved_tensors`.
      differentiable: names of the tensors that depend on the variables.
      rules: cache of `_rule` by kind of operation; written to.
      start: operation at which the gradient starts.
      given: tensors at which it ends; if empty, at the variables.

    Returns:
      The tensors by name, and the operations with custom gradients.
    """
    saved, custom, waiting = {}, [], [start]
    seen = {tensor.op.name for tensor in given}
    while waiting:
        op = waiting.pop()
        if op.name in seen:
            continue
        seen.add(op.name)
        if _has_custom_gradient(op):
            # Its gradient starts from its arguments; tensors in between are not saved.
            needed = towards = op.inputs[1:]
            custom.append(op)
        else:
            wanted = tuple(x.name in differentiable for x in op.inputs)
            if not any(wanted):
                continue
            key = op.type, wanted
            if key not in rules:
                rules[key] = _rule(graph, op, wanted)
            needed = [(*op.inputs, *op.outputs)[index] for index in rules[key]]
            towards = op.inputs
        waiting.extend(x.op for x in towards if x.name in differentiable)
        for tensor in map(buffer_of, needed):
            if tensor.op.type not in GIVEN:
                saved[tensor.name] = tensor
    return saved, custom


def _downstream(graph: tf.Graph, variables: Iterable) -> set[str]:
    """Return the names of the floating-point tensors that depend on variables."""
    handles = {id(variable.handle) for variable in variables}
    names = {inner.name for outer, inner in graph.captures if id(outer) in handles}
    for op in graph.get_operations():
        if any(x.name in names for x in op.inputs):
            names |= {x.name for x in op.outputs if x.dtype.is_floating}
    return names


def _rule(graph: tf.Graph, op: tf.Operation, wanted: tuple[bool, ...]) -> list[int]:
    """Return the indices of those of (*inputs, *outputs) that an operation's gradient reads."""
    count = len(graph.get_operations())
    with graph.as_default():
        given = tf.compat.v1.placeholder(op.outputs[0].dtype, op.outputs[0].shape)
        sources = [x for x, is_wanted in zip(op.inputs, wanted) if is_wanted]
        tf.gradients(op.outputs[0], sources, given)
    added = graph.get_operations()[count:]
    read = {x.name for new in added if new.type not in _SHAPES for x in new.inputs}
    return [i for i, x in enumerate((*op.inputs, *op.outputs)) if x.name in read]


def _has_custom_gradient(op: tf.Operation) -> bool:
    """Whether an operation is made by `tf.custom_gradient`: the result, then the arguments."""
    return op.type == "IdentityN" and "_gradient_op_type" in op.node_def.attr


def buffer_of(tensor: tf.Tensor) -> tf.Tensor:
    """Return the tensor whose buffer this one shares."""
    while tensor.op.type in _ALIASES:
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor
