"""NMS of TFLite files: the op TFLite_Detection_PostProcess."""

import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from flatbuffers import flexbuffers
from tensorflow.lite.tools import flatbuffer_utils

from efficientdet_tf import anchors as anchor_grid
from efficientdet_tf.boxes import to_center, to_fractions
from efficientdet_tf.config import Config
from efficientdet_tf.inference.tflite_metadata import MAX_THREADS

# The order in which MediaPipe expects them.
OUTPUTS = ["boxes", "classes", "scores", "num_detections"]

_OP = "TFLite_Detection_PostProcess"
# A logit below every score threshold.
_NEVER = -1000.0
# With n > 1 threads the op's NMS per class drops detections of class n (LiteRT 2.1, unless there
# are at most n classes). Unused classes before the first one avoid losses with up to 16 threads.
_UNUSED = MAX_THREADS + 1
# Anchors that the op looks at for up to 100 detections.
_LEAST_CANDIDATES = 1000


def relative_anchors(config: Config) -> np.ndarray:
    """Return the anchors as fractions of the input: float32 [N, 4], center y, x, height, width."""
    boxes = anchor_grid.from_config(config)
    return to_center(to_fractions(boxes, config.model.image_size)).astype(np.float32)


def nms_function(config: Config) -> Callable:
    """Build the function from box deltas and class logits of all anchors to detections.

    Args:
      config: `model`, `anchors` and `detection` are read.

    Returns:
      Function of box_deltas, float32 [1, N, 4], and class_logits, float32 [1, N, classes], that
      returns a dict of `OUTPUTS`; see `export.tflite.export`.
    """
    anchors = relative_anchors(config)
    unused = _UNUSED if config.detection.nms_scope == "per_class" else 0
    nms = _nms_op(config, config.model.num_classes + unused)
    size, top_k = config.detection.max_detections, _num_candidates(config, len(anchors))

    @tf.function(
        input_signature=[
            tf.TensorSpec([1, len(anchors), 4], tf.float32, "box_deltas"),
            tf.TensorSpec([1, len(anchors), config.model.num_classes], tf.float32, "class_logits"),
        ],
        autograph=False,
    )
    def detect(box_deltas: tf.Tensor, class_logits: tf.Tensor) -> dict[str, tf.Tensor]:
        if unused and not config.detection.pre_nms_top_k:
            class_logits = _best_class_only(class_logits)
        inputs = class_logits, box_deltas, tf.constant(anchors)[None]
        if top_k < len(anchors):
            best = tf.math.top_k(tf.reduce_max(class_logits, axis=-1)[0], top_k).indices
            inputs = tuple(tf.gather(x, best, axis=1) for x in inputs)
        logits, deltas, centers = inputs
        if unused:
            logits = tf.pad(logits, [[0, 0], [0, 0], [unused, 0]], constant_values=_NEVER)
        boxes, classes, logits, count = nms(deltas, logits, centers[0])
        is_detection = tf.cast(tf.range(size), tf.float32)[None] < count[:, None]
        return {
            "boxes": boxes,
            "classes": tf.where(is_detection, classes - unused, 0.0),
            "scores": tf.where(is_detection, tf.sigmoid(logits), 0.0),
            "num_detections": count,
        }

    return detect


def allow_detections_of_a_class(content: bytes, number: int) -> bytes:
    """Let the op keep up to a number of detections of each class, not 100.

    The converter does not pass this option of the op on.

    Args:
      content: converted graph of `nms_function`.
      number: largest number of detections of a class.
    """
    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    for operator in model.subgraphs[0].operators:
        if model.operatorCodes[operator.opcodeIndex].customCode == _OP.encode():
            options = flexbuffers.Loads(bytes(operator.customOptions))
            options["detections_per_class"] = number
            operator.customOptions = np.frombuffer(flexbuffers.Dumps(options), np.uint8)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _num_candidates(config: Config, num_anchors: int) -> int:
    """Return how many anchors, those with the best classes, the op looks at.

    It takes milliseconds to look through all anchors and classes. Ten for each of 100 detections
    are enough: no AP was lost (docs/results.md). Fewer detections need as many, since the anchors
    of one large object may have higher scores than all those of another object.
    """
    detection = config.detection
    if not detection.pre_nms_top_k:
        return num_anchors
    enough = max(_LEAST_CANDIDATES, 10 * detection.max_detections)
    return min(detection.pre_nms_top_k, enough, num_anchors)


def _best_class_only(logits: tf.Tensor) -> tf.Tensor:
    """Keep the best class of each anchor, as published where there is no pre-NMS top-k."""
    best = tf.one_hot(tf.argmax(logits, axis=-1), logits.shape[-1], on_value=True, off_value=False)
    return tf.where(best, logits, _NEVER)


def _nms_op(config: Config, num_classes: int) -> Callable:
    """Make a placeholder function that the converter replaces by TFLite's NMS op.

    The op runs on logits here: it only compares scores, and a sigmoid of its few outputs
    is much cheaper than one of every anchor and class.
    """
    detection = config.detection
    is_per_class = str(detection.nms_scope == "per_class").lower()
    # It refuses 0, or detects nothing.
    iou = max(detection.iou_threshold, 1e-6)
    attributes = [
        f'name: "{_OP}"',
        f'attr {{ key: "max_detections" value {{ i: {detection.max_detections} }} }}',
        'attr { key: "max_classes_per_detection" value { i: 1 } }',
        f'attr {{ key: "use_regular_nms" value {{ b: {is_per_class} }} }}',
        f'attr {{ key: "nms_score_threshold" value {{ f: {_logit(detection.score_threshold)} }} }}',
        f'attr {{ key: "nms_iou_threshold" value {{ f: {iou} }} }}',
        f'attr {{ key: "num_classes" value {{ i: {num_classes} }} }}',
        *(f'attr {{ key: "{axis}_scale" value {{ f: 1.0 }} }}' for axis in "yxhw"),
    ]
    size = detection.max_detections

    @tf.function(experimental_implements=" ".join(attributes), autograph=False)
    def nms(deltas: tf.Tensor, logits: tf.Tensor, anchors: tf.Tensor) -> tuple[tf.Tensor, ...]:
        del deltas, logits, anchors
        return (
            tf.zeros([1, size, 4]),
            tf.zeros([1, size]),
            tf.zeros([1, size]),
            tf.zeros([1]),
        )

    return nms


def _logit(score: float) -> float:
    # The op reads a finite float; no logit is beyond these.
    score = min(max(score, 1e-30), 1 - 1e-15)
    return math.log(score / (1 - score))
