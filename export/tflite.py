"""Export to a .tflite file, from a preprocessed image to detections."""

import math
import pathlib
import tempfile
from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras

from efficientdet_tf import anchors as anchor_grid
from efficientdet_tf.boxes import to_center
from efficientdet_tf.config import Config
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.errors import UserError
from efficientdet_tf.inference.tflite_metadata import (
    MAX_THREADS,
    Metadata,
    read_metadata,
    with_metadata,
)
from keras_layers.level_maps import by_anchor

_OP = "TFLite_Detection_PostProcess"
# A logit below every score threshold.
_NEVER = -1000.0
# With n > 1 threads the op drops detections of class n (LiteRT 2.1, unless there are at most n
# classes). Unused classes before the first one avoid losses with up to 16 threads.
_UNUSED = MAX_THREADS + 1


def export(
    model: keras.Model,
    config: Config,
    label_map: LabelMap,
    path: pathlib.Path,
    float16: bool = False,
) -> pathlib.Path:
    """Write a TFLite model with NMS inside, for ai-edge-litert and other runtimes.

    Input `images`: float32 [1, H, W, 3], RGB on the 0..255 scale, as
    `efficientdet_tf.data.preprocessing.resize_and_pad` makes it; normalisation is
    inside. Outputs, with M = `config.detection.max_detections`:

    - `boxes` float32 [1, M, 4], ymin, xmin, ymax, xmax in pixels of the input;
    - `classes` float32 [1, M], indices of the label map;
    - `scores` float32 [1, M], 0..1, best first;
    - `num_detections` float32 [1]; later rows are zero.

    NMS is that of the op TFLite_Detection_PostProcess: hard and per class
    whatever the config, with its IoU and score thresholds, at most 100 of a
    class. Run it with at most 16 threads (see `_UNUSED`). Label map, input
    size and padding colour are embedded in the file; see
    `efficientdet_tf.inference.tflite_metadata`.

    Args:
      model: model of `efficientdet_tf.model.build(config)`.
      config: settings; `model`, `anchors` and `detection` are read.
      label_map: classes of the model.
      path: file to write.
      float16: store the weights in half precision; computation on a CPU is float32.
        Default False.

    Returns:
      `path`.
    """
    metadata = Metadata(config.model.image_size, config.model.pixel_mean, label_map)
    module = tf.Module(name="efficientdet")
    module.weights = list(model.variables)
    signatures = {"serving_default": _detection_function(model, config)}
    # Via a SavedModel, which gives the file a signature with names.
    with tempfile.TemporaryDirectory() as folder:
        tf.saved_model.save(module, folder, signatures=signatures)
        path.write_bytes(_convert(folder, float16, metadata))
    return path


def is_own(path: pathlib.Path) -> bool:
    """Whether a file was written by `export`."""
    try:
        read_metadata(path.read_bytes())
    except (OSError, UserError):
        return False
    return True


def _convert(saved_model: str, float16: bool, metadata: Metadata) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model)
    converter.allow_custom_ops = True
    if float16:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    return with_metadata(converter.convert(), metadata)


def _detection_function(model: keras.Model, config: Config) -> Callable:
    height, width = config.model.image_size
    anchors = tf.constant(to_center(anchor_grid.from_config(config)))
    nms = _nms_op(config)
    size = config.detection.max_detections

    @tf.function(
        input_signature=[tf.TensorSpec([1, height, width, 3], tf.float32, "images")],
        autograph=False,
    )
    def detect(images: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = model(images, training=False)
        logits, deltas = by_anchor(outputs)
        logits = tf.pad(
            tf.concat(logits, axis=1), [[0, 0], [0, 0], [_UNUSED, 0]], constant_values=_NEVER
        )
        boxes, classes, logits, count = nms(tf.concat(deltas, axis=1), logits, anchors)
        is_detection = tf.cast(tf.range(size), tf.float32)[None] < count[:, None]
        return {
            "boxes": boxes,
            "classes": tf.where(is_detection, classes - _UNUSED, 0.0),
            "scores": tf.where(is_detection, tf.sigmoid(logits), 0.0),
            "num_detections": count,
        }

    return detect


def _nms_op(config: Config) -> Callable:
    """Make a placeholder function that the converter replaces by TFLite's NMS op.

    The op runs on logits here: it only compares scores, and a sigmoid of its few outputs
    is much cheaper than one of every anchor and class.
    """
    detection = config.detection
    attributes = [
        f'name: "{_OP}"',
        f'attr {{ key: "max_detections" value {{ i: {detection.max_detections} }} }}',
        'attr { key: "max_classes_per_detection" value { i: 1 } }',
        f'attr {{ key: "detections_per_class" value {{ i: {detection.max_detections} }} }}',
        'attr { key: "use_regular_nms" value { b: true } }',
        f'attr {{ key: "nms_score_threshold" value {{ f: {_logit(detection.score_threshold)} }} }}',
        f'attr {{ key: "nms_iou_threshold" value {{ f: {detection.iou_threshold} }} }}',
        f'attr {{ key: "num_classes" value {{ i: {config.model.num_classes + _UNUSED} }} }}',
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
