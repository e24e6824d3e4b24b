"""Export to a .tflite file: float or quantised, with NMS inside or without any custom op."""

import contextlib
import functools
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tensorflow.lite.tools import flatbuffer_utils

from efficientdet_tf.config import Config
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.errors import UserError
from efficientdet_tf.inference.metadata import ENTRY, Metadata
from efficientdet_tf.inference.tflite_metadata import read_metadata
from export import mediapipe_metadata, tflite_nms
from export.graph_append import append, order_outputs, take_bytes
from export.selective_quantization import SelectiveQuantization, without_deprecation
from keras_layers.level_maps import by_anchor

# Numbers of the file: float32; weights in float16; weights in int8, computed in float
# ("dynamic range"); weights, activations and input in int8.
Quantization = Literal["none", "float16", "dynamic", "int8"]

_RAW_OUTPUTS = ["box_deltas", "class_logits"]


def export(
    model: keras.Model, config: Config, label_map: LabelMap, path: pathlib.Path
) -> pathlib.Path:
    """Write a model in float32 with NMS inside; see `TFLiteExporter`."""
    return TFLiteExporter(model, config, label_map).write(path)


class TFLiteExporter:
    """Writer of TFLite models for ai-edge-litert, MediaPipe and other runtimes.

    Input `images`: [1, H, W, 3], RGB on the 0..255 scale, as
    `efficientdet_tf.data.preprocessing.resize` makes it, float32, or uint8 with quantization
    "int8"; normalisation is inside.

    Outputs with NMS, where M = `config.detection.max_detections`, in this order:

    - `boxes` float32 [1, M, 4], ymin, xmin, ymax, xmax relative to the input, 0..1 inside it;
    - `classes` float32 [1, M], indices of the label map;
    - `scores` float32 [1, M], 0..1, best first;
    - `num_detections` float32 [1]; later rows are zero.

    NMS is that of the op TFLite_Detection_PostProcess, on the `10 * M` anchors of highest score,
    at least 1,000 (with `detection.pre_nms_top_k` 0 on the best class of every anchor): hard
    whatever the config, with its IoU and score thresholds; with `detection.nms_scope` "global",
    which is faster, of the best class of each anchor. Run it with at most 16 threads (see
    `export.tflite_nms`).

    Outputs without NMS, for GPUs, NPUs and browsers, which have no custom op, with N anchors:

    - `box_deltas` float32 [1, N, 4], (ty, tx, th, tw);
    - `class_logits` float32 [1, N, classes].

    Label map, input size, padding colour and settings are embedded in the file, see
    `efficientdet_tf.inference.metadata`; so are TFLITE_METADATA and the label file that
    MediaPipe's `ObjectDetector` reads.

    Args:
      model: model of `efficientdet_tf.model.build(config)`.
      config: settings; `model`, `anchors` and `detection` are read.
      label_map: classes of the model.
      images: representative images of quantization "int8", see `export.calibration`.
    """

    def __init__(
        self,
        model: keras.Model,
        config: Config,
        label_map: LabelMap,
        images: Sequence[np.ndarray] = (),
    ) -> None:
        self._model = model
        self._config = config
        self._label_map = label_map
        self._images = images
        # Files with and without NMS have the same network.
        self._networks: dict[Quantization, bytes] = {}
        self._selective: SelectiveQuantization | None = None
        self._float_layers: list[str] = []

    @property
    def float_layers(self) -> list[str]:
        """Layers that int8 files keep in float32, by the names of their outputs."""
        return self._float_layers

    def keep_in_float(self, number: int) -> None:
        """Keep some layers in float32 in later int8 files: those that int8 changes most.

        Args:
          number: number of layers; at most half of all are kept.

        Raises:
          ValueError: if there are no representative images.
        """
        if self._selective is None:
            with self._converter("int8") as converter:
                self._selective = SelectiveQuantization(converter, self._images)
        number = min(number, len(self._selective.layers) // 2)
        self._networks["int8"] = take_bytes(self._selective.convert(number))
        self._float_layers = self._selective.layers[:number]

    def write(
        self, path: pathlib.Path, quantization: Quantization = "none", with_nms: bool = True
    ) -> pathlib.Path:
        """Write a file.

        Args:
          path: file to write.
          quantization: numbers of the network, see `Quantization`; NMS is always in float32.
            Default "none".
          with_nms: whether NMS is inside. Default True.

        Returns:
          `path`.

        Raises:
          ValueError: if there are no images for "int8".
        """
        content, names = self._network(quantization), _RAW_OUTPUTS
        if with_nms:
            content = append(content, self._nms)
            names = tflite_nms.OUTPUTS
        path.write_bytes(_with_metadata(content, self._config, self._label_map, names))
        return path

    @functools.cached_property
    def _nms(self) -> bytes:
        """Graph from box deltas and class logits to detections, the same in every file."""
        with _converter(tflite_nms.nms_function(self._config)) as converter:
            content = converter.convert()
        size = self._config.detection.max_detections
        return tflite_nms.allow_detections_of_a_class(content, size)

    def _network(self, quantization: Quantization) -> bytes:
        if quantization not in self._networks:
            with self._converter(quantization) as converter:
                self._networks[quantization] = converter.convert()
        return self._networks[quantization]

    @contextlib.contextmanager
    def _converter(self, quantization: Quantization) -> Iterator[Any]:
        """Make a converter of the network, which is valid within the context."""
        if quantization == "int8" and not self._images:
            raise ValueError("int8 needs representative images")
        function = _network_function(self._model, self._config)
        with _converter(function, self._model.variables) as converter:
            if quantization != "none":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if quantization == "float16":
                converter.target_spec.supported_types = [tf.float16]
            if quantization == "int8":
                _calibrate(converter, self._images)
            yield converter


def is_own(path: pathlib.Path) -> bool:
    """Whether a file was written by `export`."""
    try:
        read_metadata(path.read_bytes())
    except (OSError, UserError):
        return False
    return True


def _network_function(model: keras.Model, config: Config) -> Callable:
    """Build the function from images to box deltas and class logits of all anchors."""

    @tf.function(
        input_signature=[tf.TensorSpec([1, *config.model.image_size, 3], tf.float32, "images")],
        autograph=False,
    )
    def network(images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits, deltas = by_anchor(model(images, training=False))
        return {"box_deltas": tf.concat(deltas, axis=1), "class_logits": tf.concat(logits, axis=1)}

    return network


@contextlib.contextmanager
def _converter(function: Callable, variables: Sequence[tf.Variable] = ()) -> Iterator[Any]:
    """Make a `tf.lite.TFLiteConverter` of a function, which is valid within the context."""
    module = tf.Module(name="efficientdet")
    module.weights = list(variables)
    # Via a SavedModel, which gives the file a signature with names.
    with tempfile.TemporaryDirectory() as folder, without_deprecation():
        tf.saved_model.save(module, folder, signatures={"serving_default": function})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.allow_custom_ops = True
        yield converter


def _calibrate(converter: Any, images: Sequence[np.ndarray]) -> None:
    """Let a converter find the ranges of activations, and take uint8 pixels."""

    def representative() -> Iterator[dict[str, np.ndarray]]:
        for index, image in enumerate(images):
            if not index:
                # The input's scale is 1 and its zero 0 if both ends of its range are seen.
                image = image.copy()
                image[0, 0, 0, :2] = 0, 255
            yield {"images": image}

    converter.representative_dataset = representative
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.uint8
    converter.inference_output_type = tf.float32


def _with_metadata(
    content: bytes, config: Config, label_map: LabelMap, outputs: list[str]
) -> bytes:
    """Order the outputs, and embed what runtimes need to know."""
    parsed = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    order_outputs(parsed, outputs)
    height, width = config.model.image_size
    # MediaPipe always stretches; its users may pad before.
    how = {"pad": "padded at the bottom and right", "stretch": "stretched"}[config.model.resize]
    description = f"EfficientDet, {height} x {width} pixels, RGB, {how}"
    if outputs == _RAW_OUTPUTS:
        anchors = tflite_nms.relative_anchors(config)
        metadata = mediapipe_metadata.raw_metadata(description, anchors, len(label_map))
    else:
        metadata = mediapipe_metadata.detections_metadata(description)
    mediapipe_metadata.add_entry(parsed, mediapipe_metadata.ENTRY, metadata)
    own = Metadata(config, label_map).to_json()
    mediapipe_metadata.add_entry(parsed, ENTRY, own.encode())
    content = bytes(flatbuffer_utils.convert_object_to_bytearray(parsed))
    return mediapipe_metadata.add_labels(content, label_map.names)
