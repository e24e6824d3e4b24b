"""Operators of a .tflite file, and the accelerators that refuse them by their documented rules."""

import collections
from collections.abc import Sequence
from typing import Any, NamedTuple

from ai_edge_litert import schema_py_generated as schema
from tensorflow.lite.tools import flatbuffer_utils

_NAMES = {
    value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)
}
_TYPES = {value: name for name, value in vars(schema.TensorType).items() if isinstance(value, int)}

# tensorflow.org/lite/performance/gpu, "GPU ML operations support", of float tensors; those of
# quantised models run in float. RESIZE_NEAREST_NEIGHBOR is not in that list, but in the delegate's
# source (delegates/gpu/common/model_builder.cc), as are QUANTIZE and DEQUANTIZE.
_GPU = frozenset(
    """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEQUANTIZE EXP FULLY_CONNECTED
    LOGISTIC MAX_POOL_2D MAXIMUM MINIMUM MUL PAD PRELU QUANTIZE RELU RELU6 RESHAPE RESIZE_BILINEAR
    RESIZE_NEAREST_NEIGHBOR SOFTMAX STRIDED_SLICE SUB TRANSPOSE_CONV
    """.split()  # noqa: SIM905
)
# Android's reference of `OperationCode`: operators by the API level that brought them.
_NNAPI = {
    27: "ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEQUANTIZE FULLY_CONNECTED "
    "LOGISTIC MAX_POOL_2D MUL RELU RELU6 RESHAPE RESIZE_BILINEAR SOFTMAX TANH",
    28: "DIV MEAN PAD SQUEEZE STRIDED_SLICE SUB TRANSPOSE",
    29: "ABS CAST EXP EXPAND_DIMS GATHER GREATER LESS MAXIMUM MINIMUM PADV2 POW PRELU QUANTIZE "
    "REDUCE_MAX RESIZE_NEAREST_NEIGHBOR RSQRT SELECT SLICE SPLIT SQRT TOPK_V2 TRANSPOSE_CONV",
}
_NNAPI_LEVELS = {name: level for level, names in _NNAPI.items() for name in names.split()}
# Signed int8 tensors of NNAPI.
_INT8_LEVEL = 30
# coral.ai/docs/edgetpu/models-intro, "Supported operations"; all tensors have to be int8 or uint8.
_EDGE_TPU = frozenset(
    """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D EXPAND_DIMS FULLY_CONNECTED LOGISTIC
    MAXIMUM MAX_POOL_2D MEAN MINIMUM MUL PACK PAD PRELU QUANTIZE REDUCE_MAX REDUCE_MIN RELU RELU6
    RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR RSQRT SLICE SOFTMAX SPLIT SQUEEZE STRIDED_SLICE
    SUB SUM TANH TRANSPOSE TRANSPOSE_CONV
    """.split()  # noqa: SIM905
)


class Operator(NamedTuple):
    """Operators of a file of one kind and one type of numbers.

    Attributes:
      name: name of the schema, e.g. "CONV_2D", or of a custom operator.
      numbers: type of the values it computes, e.g. "FLOAT32" or "INT8".
      number: how many there are.
      runs_on_gpu: whether the GPU delegate takes it.
      nnapi_level: least Android API level whose NNAPI takes it; None for none.
      runs_on_edge_tpu: whether the EdgeTPU compiler takes it.
    """

    name: str
    numbers: str
    number: int
    runs_on_gpu: bool
    nnapi_level: int | None
    runs_on_edge_tpu: bool


def operators(content: bytes) -> list[Operator]:
    """List the operators of a .tflite model of one graph, the most frequent first.

    NNAPI is deprecated since Android 15. The EdgeTPU compiler leaves what follows the first
    operator that it refuses to the CPU; the delegates take parts.
    """
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    [graph] = model.subgraphs
    counts = collections.Counter(
        (_name(model.operatorCodes[operator.opcodeIndex]), _numbers(graph, operator))
        for operator in graph.operators
    )
    return [
        Operator(
            name,
            numbers,
            count,
            name in _GPU,
            _nnapi_level(name, numbers),
            name in _EDGE_TPU and numbers in ("INT8", "UINT8"),
        )
        for (name, numbers), count in counts.most_common()
    ]


def report(found: Sequence[Operator]) -> str:
    """Format operators as a text table, with the numbers that each accelerator refuses."""
    lines = [f"  {'operator':<32}{'numbers':<10}{'count':>5}  {'GPU':<5}{'NNAPI':<8}EdgeTPU"]
    for operator in found:
        level = f"API {operator.nnapi_level}" if operator.nnapi_level else "no"
        lines.append(
            f"  {operator.name:<32}{operator.numbers:<10}{operator.number:>5}  "
            f"{_yes(operator.runs_on_gpu):<5}{level:<8}{_yes(operator.runs_on_edge_tpu)}"
        )
    total = sum(operator.number for operator in found)
    refused = {
        "GPU": [operator for operator in found if not operator.runs_on_gpu],
        "NNAPI": [operator for operator in found if not operator.nnapi_level],
        "EdgeTPU": [operator for operator in found if not operator.runs_on_edge_tpu],
    }
    for accelerator, those in refused.items():
        names = ", ".join(dict.fromkeys(operator.name for operator in those))
        count = sum(operator.number for operator in those)
        which = "all" if count == total else f"{count} of {total}: {names}" if count else "none"
        lines.append(f"  {accelerator} refuses {which}")
    return "\n".join(lines)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _name(code: Any) -> str:
    # Old readers know the first 127 in the deprecated field only.
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM:
        return bytes(code.customCode).decode()
    return _NAMES[number]


def _numbers(graph: Any, operator: Any) -> str:
    """Return the type of an operator's first input, or of its output if it quantises."""
    types = [_TYPES[graph.tensors[i].type] for i in (operator.inputs[0], operator.outputs[0])]
    return types[1] if "INT8" in types else types[0]


def _nnapi_level(name: str, numbers: str) -> int | None:
    level = _NNAPI_LEVELS.get(name)
    if level is None:
        return None
    return max(level, _INT8_LEVEL) if numbers == "INT8" else level
