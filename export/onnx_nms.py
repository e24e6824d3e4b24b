"""NMS of ONNX files: decoding and the standard operator NonMaxSuppression."""

from typing import TYPE_CHECKING

import numpy as np

from efficientdet_tf import anchors as anchor_grid
from efficientdet_tf.boxes import to_center
from efficientdet_tf.config import Config
from keras_layers.box_coder import LARGEST_SIZE_DELTA

if TYPE_CHECKING:
    import onnx

# The anchors of highest score, decoded. Constants: see `_constants`.
_DECODING = """
    best_logits = ReduceMax <keepdims = 0> (class_logits, last)
    best, order = TopK (best_logits, top_k)
    candidates = Unsqueeze (order, last)
    logits = GatherND <batch_dims = 1> (class_logits, candidates)
    deltas = GatherND <batch_dims = 1> (box_deltas, candidates)
    anchors = GatherND (anchor_values, candidates)
    anchor_centers, anchor_sizes = Split <axis = -1, num_outputs = 2> (anchors)
    center_deltas, size_deltas = Split <axis = -1, num_outputs = 2> (deltas)
    moves = Mul (center_deltas, anchor_sizes)
    centers = Add (anchor_centers, moves)
    bounded = Min (size_deltas, largest_size_delta)
    factors = Exp (bounded)
    sizes = Mul (factors, anchor_sizes)
    halves = Mul (sizes, half)
    starts = Sub (centers, halves)
    ends = Add (starts, sizes)
    decoded = Concat <axis = -1> (starts, ends)
    probabilities = Sigmoid (logits)
    by_class = Transpose <perm = [0, 2, 1]> (probabilities)
"""

# With the scope "global", a box stands for the best class of its anchor.
_BEST_CLASS = """
    class_scores = ReduceMax <keepdims = 1> (by_class, first)
    best_class = ArgMax <axis = 1, keepdims = 0> (by_class)
"""
_EVERY_CLASS = "    class_scores = Identity (by_class)\n"
# Without pre-NMS top-k, each anchor keeps its best class; a score of 0 is no detection.
_BEST_CLASS_ONLY = """
    own_class = ArgMax <axis = -1, keepdims = 0> (logits)
    is_own_class = OneHot <axis = 1> (own_class, num_classes, zero_and_one)
    class_scores = Mul (by_class, is_own_class)
"""

# What NMS selects are rows (image, class, candidate); each image is given the best of its own.
_NMS = """
    selected = NonMaxSuppression (decoded, class_scores, max_detections, iou, threshold)
    selected_scores = GatherND (class_scores, selected)
    shape = Shape (class_scores)
    nothing = ConstantOfShape <value = float[1] {0.0}> (shape)
    kept_scores = ScatterND (nothing, selected, selected_scores)
    flat = Reshape (kept_scores, one_row)
    filled = Pad (flat, filling)
    scores, positions = TopK (filled, max_detections)
    is_detection = Greater (scores, zero)
    counted = Cast <to = 6> (is_detection)
    num_detections = ReduceSum <keepdims = 0> (counted, first)
    rows = Mod (positions, num_candidates)
    row_indices = Unsqueeze (rows, last)
    best_boxes = GatherND <batch_dims = 1> (decoded, row_indices)
    is_box = Unsqueeze (is_detection, last)
    boxes = Where (is_box, best_boxes, zero)
"""
_CLASS_OF_POSITION = "    found_classes = Div (positions, num_candidates)\n"
_CLASS_OF_ANCHOR = "    found_classes = GatherND <batch_dims = 1> (best_class, row_indices)\n"
_CLASSES = """
    known_classes = Where (is_detection, found_classes, no_class)
    class_indices = Cast <to = 6> (known_classes)
"""


def append_nms(network: "onnx.ModelProto", config: Config) -> "onnx.ModelProto":
    """Append decoding and hard NMS to a network.

    Args:
      network: model with the outputs `box_deltas`, float32 [B, N, 4], and `class_logits`, float32
        [B, N, classes].
      config: `model`, `anchors` and `detection` are read.

    Returns:
      Model with the outputs that `export.onnx_model.OnnxExporter` names.
    """
    import onnx

    tail = onnx.parser.parse_model(_text(network, config))
    used = {name for node in tail.graph.node for name in node.input}
    for name, values in _constants(config).items():
        # ONNX Runtime warns of others.
        if name in used:
            tail.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    names = ("box_deltas", "class_logits")
    tail = onnx.compose.add_prefix(tail, "nms/", rename_inputs=False, rename_outputs=False)
    return onnx.compose.merge_models(network, tail, [(name, name) for name in names])


def _text(network: "onnx.ModelProto", config: Config) -> str:
    """Return the graph in ONNX's textual syntax."""
    number, size = len(anchor_grid.from_config(config)), config.detection.max_detections
    is_global = config.detection.nms_scope == "global"
    per_class = _EVERY_CLASS if config.detection.pre_nms_top_k else _BEST_CLASS_ONLY
    parts = (
        *(_DECODING, _BEST_CLASS if is_global else per_class, _NMS),
        *(_CLASS_OF_ANCHOR if is_global else _CLASS_OF_POSITION, _CLASSES),
    )
    return f"""
        <ir_version: {network.ir_version}, opset_import: ["": {network.opset_import[0].version}]>
        nms (
            float[batch, {number}, 4] box_deltas,
            float[batch, {number}, {config.model.num_classes}] class_logits
        ) => (
            float[batch, {size}, 4] boxes, int32[batch, {size}] class_indices,
            float[batch, {size}] scores, int32[batch] num_detections
        ) {{{"".join(parts)}}}
    """


def _constants(config: Config) -> dict[str, np.ndarray]:
    detection, anchors = config.detection, anchor_grid.from_config(config)
    top_k = min(detection.pre_nms_top_k or len(anchors), len(anchors))
    numbers = {
        "last": [-1],
        "first": [1],
        "one_row": [0, -1],
        "top_k": [top_k],
        "num_candidates": top_k,
        "max_detections": [detection.max_detections],
        # TopK needs as many values as it returns.
        "filling": [0, 0, 0, detection.max_detections],
        "no_class": 0,
        "num_classes": config.model.num_classes,
    }
    values = {
        "anchor_values": to_center(anchors),
        "largest_size_delta": LARGEST_SIZE_DELTA,
        "half": 0.5,
        "zero": 0.0,
        "zero_and_one": [0.0, 1.0],
        # OpenVINO takes 0 for any two boxes.
        "iou": [max(detection.iou_threshold, 1e-6)],
        "threshold": [detection.score_threshold],
    }
    return {
        **{name: np.array(value, np.int64) for name, value in numbers.items()},
        **{name: np.array(value, np.float32) for name, value in values.items()},
    }
