"""Appending one TFLite graph to another, by editing the flatbuffers.

A converter quantises all of a graph. What has to stay float behind a quantised network is
converted by itself, and appended.
"""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils


def append(first: bytes, second: bytes) -> bytes:
    """Connect the outputs of a TFLite model to the inputs of another one.

    Args:
      first: model whose signature has the outputs that `second` has as inputs, by name.
      second: model of one graph.

    Returns:
      Model with the inputs of `first` and the outputs of `second`.

    Raises:
      KeyError: if `second` has an input that `first` does not put out.
    """
    model, tail = (
        flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
        for content in (first, second)
    )
    [graph], [tail_graph] = model.subgraphs, tail.subgraphs
    outputs = _by_name(model.signatureDefs[0].outputs)
    # Tensors of the tail -> tensors of the result.
    places = {
        tensor: outputs[name] for name, tensor in _by_name(tail.signatureDefs[0].inputs).items()
    }
    _append_tensors(graph, tail_graph, places, len(model.buffers))
    model.buffers += tail.buffers
    _append_operators(graph, tail_graph, places, len(model.operatorCodes))
    model.operatorCodes += tail.operatorCodes
    graph.outputs = _moved(tail_graph.outputs, places)
    model.signatureDefs[0].outputs = tail.signatureDefs[0].outputs
    for output in model.signatureDefs[0].outputs:
        output.tensorIndex = places[output.tensorIndex]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def take_bytes(content: bytes) -> bytes:
    """Give a TFLite model that takes pixels as float32 an input of uint8.

    Args:
      content: model of one graph with one input, float32, 0..255.
    """
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    [graph] = model.subgraphs
    [pixels] = graph.inputs
    before = schema.TensorT()
    before.name, before.shape = b"image_bytes", graph.tensors[pixels].shape
    before.type, before.buffer = schema.TensorType.UINT8, 0
    before.quantization = schema.QuantizationParametersT()
    before.quantization.scale = np.array([1.0], np.float32)
    before.quantization.zeroPoint = np.array([0], np.int64)
    code, operator = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
    code.version = 1
    operator.opcodeIndex = len(model.operatorCodes)
    operator.inputs = np.array([len(graph.tensors)], np.int32)
    operator.outputs = np.array([pixels], np.int32)
    model.operatorCodes.append(code)
    graph.tensors.append(before)
    graph.operators.insert(0, operator)
    graph.inputs = operator.inputs
    [entry] = model.signatureDefs[0].inputs
    entry.tensorIndex = int(operator.inputs[0])
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def order_outputs(model: Any, names: list[str]) -> None:
    """Order the outputs of a model, which runtimes without signatures tell by their position.

    Args:
      model: parsed model, `ModelT`; changed in place.
      names: all names of the outputs in its signature.
    """
    outputs = _by_name(model.signatureDefs[0].outputs)
    model.subgraphs[0].outputs = np.array([outputs[name] for name in names], np.int32)


def _by_name(entries: list[Any]) -> dict[str, int]:
    """Return the tensors of inputs or outputs of a signature by name."""
    return {bytes(entry.name).decode(): int(entry.tensorIndex) for entry in entries}


def _append_tensors(graph: Any, tail: Any, places: dict[int, int], num_buffers: int) -> None:
    for index, tensor in enumerate(tail.tensors):
        if index in places:
            continue
        # Buffer 0 is that of all tensors without data.
        tensor.buffer += num_buffers if tensor.buffer else 0
        places[index] = len(graph.tensors)
        graph.tensors.append(tensor)


def _append_operators(graph: Any, tail: Any, places: dict[int, int], num_codes: int) -> None:
    for operator in tail.operators:
        operator.opcodeIndex += num_codes
        operator.inputs = _moved(operator.inputs, places)
        operator.outputs = _moved(operator.outputs, places)
        graph.operators.append(operator)


def _moved(tensors: Any, places: dict[int, int]) -> np.ndarray:
    """Return the new indices of tensors; -1 is an input that is not given."""
    return np.array([places[int(x)] if x >= 0 else -1 for x in tensors], np.int32)
