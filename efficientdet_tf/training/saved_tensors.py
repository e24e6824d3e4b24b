"""What a forward pass keeps for the backward pass, read off its graph."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import tensorflow as tf

# Their result is their input under another name.
_ALIASES = ("Identity", "IdentityN", "Reshape", "Squeeze", "ExpandDims", "StopGradient")
# No results of the step: inputs, weights, constants.
GIVEN = ("Placeholder", "ReadVariableOp", "Const")
# They read the shape, which is known, and no values.
_SHAPES = ("Shape", "ShapeN", "Size", "Rank")


@dataclasses.dataclass(frozen=True)
class Kept:
    """What the gradient of a result reads: tensors of the graph, each buffer once.

    Attributes:
      tensors: kept from the forward pass, without weights, constants and inputs.
      recomputed: for each part of the graph with a gradient of its own, such as that of
        `tf.recompute_grad`, what is computed again when its turn comes.
    """

    tensors: list[tf.Tensor]
    recomputed: list[list[tf.Tensor]]


def kept_for_gradients(graph: tf.Graph, result: tf.Tensor, variables: Iterable) -> Kept:
    """What stays in memory from the forward pass of `result` for its gradient.

    Which inputs and outputs of an operation its gradient reads is found by asking
    TensorFlow for that gradient, once for every kind of operation.

    Args:
      graph: a traced function; gradients are added to it.
      result: a scalar of the graph.
      variables: those the gradient is of.
    """
    reads = functools.partial(_read, graph, _downstream(graph, variables), {})
    tensors, own = reads(result.op, ())
    parts = []
    for op in own:
        inner, _ = reads(op.inputs[0].op, op.inputs[1:])
        parts.append([inner[name] for name in inner.keys() - tensors.keys()])
    return Kept(list(tensors.values()), parts)


def _read(
    graph: tf.Graph, differentiable: set[str], rules: dict, start: tf.Operation, given: Sequence
) -> tuple[dict[str, tf.Tensor], list[tf.Operation]]:
    """What gradients from `start` back to `given` read, and the ones with gradients of their own.

    Args:
      graph, differentiable: of `kept_for_gradients`.
      rules: what is known of kinds of operations; grows.
      start: where the gradient starts.
      given: tensors at which it ends; without them at the variables.
    """
    kept, own, waiting = {}, [], [start]
    seen = {tensor.op.name for tensor in given}
    while waiting:
        op = waiting.pop()
        if op.name in seen:
            continue
        seen.add(op.name)
        if _has_own_gradient(op):
            # Its gradient starts from its arguments; what lies between is not kept.
            needed = towards = op.inputs[1:]
            own.append(op)
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
                kept[tensor.name] = tensor
    return kept, own


def _downstream(graph: tf.Graph, variables: Iterable) -> set[str]:
    """Names of the tensors of real numbers that depend on variables."""
    handles = {id(variable.handle) for variable in variables}
    names = {inner.name for outer, inner in graph.captures if id(outer) in handles}
    for op in graph.get_operations():
        if any(x.name in names for x in op.inputs):
            names |= {x.name for x in op.outputs if x.dtype.is_floating}
    return names


def _rule(graph: tf.Graph, op: tf.Operation, wanted: tuple[bool, ...]) -> list[int]:
    """Which of an operation's inputs and outputs, in this order, its gradient reads."""
    count = len(graph.get_operations())
    with graph.as_default():
        given = tf.compat.v1.placeholder(op.outputs[0].dtype, op.outputs[0].shape)
        sources = [x for x, is_wanted in zip(op.inputs, wanted) if is_wanted]
        tf.gradients(op.outputs[0], sources, given)
    added = graph.get_operations()[count:]
    read = {x.name for new in added if new.type not in _SHAPES for x in new.inputs}
    return [i for i, x in enumerate((*op.inputs, *op.outputs)) if x.name in read]


def _has_own_gradient(op: tf.Operation) -> bool:
    """Whether it is what `tf.custom_gradient` leaves: the result, then the arguments."""
    return op.type == "IdentityN" and "_gradient_op_type" in op.node_def.attr


def buffer_of(tensor: tf.Tensor) -> tf.Tensor:
    """The tensor whose memory this one is."""
    while tensor.op.type in _ALIASES:
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor
