"""Parameters and multiply-adds of a model and its parts."""

import math
import re
from typing import NamedTuple

import tensorflow as tf
import tf_keras as keras

# Operations with multiply-adds, whether counted below or not.
_MULTIPLY_ADDS = re.compile(r"Conv|MatMul|Einsum|RNN|LSTM|GRU|XlaDot")
# Operations without multiply-adds that the pattern above matches.
_OTHERS = re.compile(r"Convert|BiasAddV?1?$")


class Complexity(NamedTuple):
    """Size and cost of a model or one of its parts.

    Attributes:
      trainable: number of trainable parameters.
      non_trainable: number of other parameters, the moving statistics of BatchNorm.
      multiply_adds: multiply-adds of convolutions and matrix products for one image.
    """

    trainable: int = 0
    non_trainable: int = 0
    multiply_adds: int = 0


class UncountedOperation(ValueError):
    """An operation with multiply-adds that are not counted."""


def measure_parts(model: keras.Model) -> dict[str, Complexity]:
    """Measure each layer of a model that has weights or multiply-adds.

    Args:
      model: model of `efficientdet_tf.model.build`; its parts are `backbone`, `extra_levels`,
        `feature_network`, `class_head` and `box_head`.

    Returns:
      {layer name: complexity}, in the order of the model.

    Raises:
      UncountedOperation: for an operation that is not counted; the message names it.
    """
    costs = _costs_by_layer(model)
    parts = {}
    for layer in model.layers:
        part = Complexity(
            sum(weight.shape.num_elements() for weight in layer.trainable_weights),
            sum(weight.shape.num_elements() for weight in layer.non_trainable_weights),
            costs.pop(layer.name, 0),
        )
        if any(part):
            parts[layer.name] = part
    if costs:
        raise UncountedOperation(f"multiply-adds outside of the model's layers: {costs}")
    return parts


def measure(model: keras.Model) -> Complexity:
    """Measure a whole model; arguments and errors as in `measure_parts`."""
    return Complexity(*map(sum, zip(*measure_parts(model).values())))


def format_parts(parts: dict[str, Complexity]) -> str:
    """Format the result of `measure_parts`, with totals, as a text table."""
    rows = {**parts, "total": Complexity(*map(sum, zip(*parts.values())))}
    lines = [f"{'part':<16}{'trainable':>14}{'non-trainable':>14}{'multiply-adds':>18}"]
    lines += [
        f"{name:<16}{row.trainable:>14,}{row.non_trainable:>14,}{row.multiply_adds:>18,}"
        for name, row in rows.items()
    ]
    return "\n".join(lines)


def _costs_by_layer(model: keras.Model) -> dict[str, int]:
    """Return {layer: multiply-adds of one image}, for the layers that have any."""
    spec = tf.TensorSpec((1, *model.input_shape[1:]), model.input.dtype)
    function = tf.function(lambda x: model(x, training=False), autograph=False)
    graph = function.get_concrete_function(spec).graph
    for function in graph.as_graph_def().library.function:
        for node in function.node_def:
            if _has_multiply_adds(node.op):
                raise UncountedOperation(
                    f"{function.signature.name}/{node.name}: multiply-adds of {node.op} in a "
                    "function are not counted"
                )
    costs: dict[str, int] = {}
    for operation in graph.get_operations():
        cost = _operation_cost(operation)
        if cost:
            # Names start with the model's, then the layer's.
            layer = operation.name.split("/")[1]
            costs[layer] = costs.get(layer, 0) + cost
    return costs


def _has_multiply_adds(operation_type: str) -> bool:
    return bool(_MULTIPLY_ADDS.search(operation_type)) and not _OTHERS.search(operation_type)


def _operation_cost(operation: tf.Operation) -> int:
    if operation.type in _COSTS:
        return _COSTS[operation.type](operation)
    if _has_multiply_adds(operation.type):
        raise UncountedOperation(
            f"{operation.name}: multiply-adds of {operation.type} are not counted; "
            "add it to efficientdet_tf/complexity.py"
        )
    return 0


def _output_size(operation: tf.Operation) -> int:
    return operation.outputs[0].shape.num_elements()


def _conv_cost(operation: tf.Operation) -> int:
    height, width, inputs, _ = operation.inputs[1].shape
    return _output_size(_without_padding(operation)) * height * width * inputs


def _without_padding(operation: tf.Operation) -> tf.Operation:
    """Return the operation with the output of a convolution, which may be a dilated one.

    A dilated convolution is one of the map's blocks, padded to one size; they are put together,
    and cropped, afterwards.
    """
    consumers = operation.outputs[0].consumers()
    return next((other for other in consumers if other.type == "BatchToSpaceND"), operation)


def _depthwise_conv_cost(operation: tf.Operation) -> int:
    height, width = operation.inputs[1].shape[:2]
    return _output_size(_without_padding(operation)) * height * width


def _matrix_product_cost(operation: tf.Operation) -> int:
    transposed = "transpose_a" if operation.type == "MatMul" else "adj_x"
    return (
        _output_size(operation)
        * operation.inputs[0].shape[-2 if operation.get_attr(transposed) else -1]
    )


def _einsum_cost(operation: tf.Operation) -> int:
    equation = operation.get_attr("equation").decode()
    if "." in equation:
        raise UncountedOperation(f"{operation.name}: Einsum {equation!r} with ... is not counted")
    sizes: dict[str, int] = {}
    for labels, tensor in zip(equation.split("->")[0].split(","), operation.inputs):
        sizes |= dict(zip(labels, tensor.shape))
    return math.prod(sizes.values())


_COSTS = {
    "Conv2D": _conv_cost,
    "DepthwiseConv2dNative": _depthwise_conv_cost,
    "MatMul": _matrix_product_cost,
    "BatchMatMul": _matrix_product_cost,
    "BatchMatMulV2": _matrix_product_cost,
    "Einsum": _einsum_cost,
}
