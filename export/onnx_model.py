"""Export to an .onnx file, for ONNX Runtime, OpenVINO and other runtimes of the standard."""

import contextlib
import functools
import importlib
import logging
import os
import pathlib
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from efficientdet_tf import __version__
from efficientdet_tf import anchors as anchor_grid
from efficientdet_tf.config import Config
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.errors import UserError
from efficientdet_tf.inference.metadata import ENTRY, Metadata
from export import onnx_nms
from keras_layers.level_maps import by_anchor

if TYPE_CHECKING:
    import onnx

# The first with the axes of a Resize, and the last that tf2onnx writes.
_OPSET = 18


class OnnxError(UserError):
    """A missing package of the export."""


def export(
    model: keras.Model, config: Config, label_map: LabelMap, path: pathlib.Path
) -> pathlib.Path:
    """Write a model with NMS inside; see `OnnxExporter`."""
    return OnnxExporter(model, config, label_map).write(path)


class OnnxExporter:
    """Writer of ONNX models in float32, opset 18, of standard operators only.

    Input `images`: float32 [B, H, W, 3], RGB on the 0..255 scale, as
    `efficientdet_tf.data.preprocessing.resize` makes it; normalisation is inside. The batch size
    B is free.

    Outputs with NMS, where M = `config.detection.max_detections`:

    - `boxes` float32 [B, M, 4], ymin, xmin, ymax, xmax in pixels of the input;
    - `class_indices` int32 [B, M], indices of the label map;
    - `scores` float32 [B, M], 0..1, best first;
    - `num_detections` int32 [B]; later rows are zero.

    NMS is hard whatever the config, with its IoU and score thresholds and scope, on the
    `config.detection.pre_nms_top_k` anchors of highest score; if that is 0, on the best class of
    every anchor.

    Outputs without NMS, with N anchors:

    - `box_deltas` float32 [B, N, 4], (ty, tx, th, tw);
    - `class_logits` float32 [B, N, classes];
    - `anchors` float32 [N, 4], constant: ymin, xmin, ymax, xmax in pixels of the input.

    Label map, input size, padding colour and settings are embedded in the file, as the value of
    `efficientdet_tf.inference.metadata.ENTRY` in `metadata_props`.

    Args:
      model: model of `efficientdet_tf.model.build(config)`.
      config: settings; `model`, `anchors` and `detection` are read.
      label_map: classes of the model.
    """

    def __init__(self, model: keras.Model, config: Config, label_map: LabelMap) -> None:
        self._model, self._config, self._label_map = model, config, label_map

    def write(self, path: pathlib.Path, with_nms: bool = True) -> pathlib.Path:
        """Write a file.

        Args:
          path: file to write.
          with_nms: whether NMS is inside. Default True.

        Returns:
          `path`.

        Raises:
          OnnxError: if the packages of the extra `[onnx]` are not installed.
        """
        if with_nms:
            proto = onnx_nms.append_nms(self._network, self._config)
        else:
            proto = _with_anchors(self._network, anchor_grid.from_config(self._config))
        proto = self._with_metadata(proto)
        path.write_bytes(proto.SerializeToString())
        return path

    @functools.cached_property
    def _network(self) -> "onnx.ModelProto":
        return _converted(self._model, self._config)

    def _with_metadata(self, proto: "onnx.ModelProto") -> "onnx.ModelProto":
        onnx = _package("onnx")
        height, width = self._config.model.image_size
        proto.producer_name, proto.producer_version = "efficientdet-tf", __version__
        proto.doc_string = f"EfficientDet, {height} x {width} pixels, RGB"
        metadata = Metadata(self._config, self._label_map)
        onnx.helper.set_model_props(proto, {ENTRY: metadata.to_json()})
        return proto


def is_own(path: pathlib.Path) -> bool:
    """Whether a file was written by `OnnxExporter`.

    Raises:
      OnnxError: if the packages of the extra `[onnx]` are not installed.
    """
    onnx = _package("onnx")
    try:
        proto = onnx.load(path)
    # DecodeError is of protobuf's implementation.
    except Exception:
        return False
    return any(entry.key == ENTRY for entry in proto.metadata_props)


def _package(name: str) -> Any:
    """Import a package of the extra `[onnx]`."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        # Without a name: one of its libraries is missing.
        missing = f"{error.name} is not installed" if error.name else f"{name}: {error}"
        raise OnnxError(f"--format=onnx: {missing}; pip install '.[onnx]'") from error


def _converted(model: keras.Model, config: Config) -> "onnx.ModelProto":
    """Convert the network, from images to box deltas and class logits of all anchors."""
    signature = [tf.TensorSpec([None, *config.model.image_size, 3], tf.float32, "images")]

    @tf.function(input_signature=signature, autograph=False)
    def network(images: tf.Tensor) -> dict[str, tf.Tensor]:
        logits, deltas = by_anchor(model(images, training=False))
        return {"box_deltas": tf.concat(deltas, axis=1), "class_logits": tf.concat(logits, axis=1)}

    with _quiet():
        tf2onnx = _package("tf2onnx")
        proto, _ = tf2onnx.convert.from_function(
            network,
            signature,
            opset=_OPSET,
            custom_op_handlers={"ResizeNearestNeighbor": (_resize_by_sizes, [])},
        )
    for value in [*proto.graph.input, *proto.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    # Others than the standard's are not used.
    standard = [entry for entry in proto.opset_import if not entry.domain]
    del proto.opset_import[:]
    proto.opset_import.extend(standard)
    return proto


def _resize_by_sizes(context: Any, node: Any, name: str, args: Any) -> None:
    """Convert a resize by nearest neighbour, as tf2onnx asks of a handler.

    tf2onnx writes the scale, by which ONNX Runtime computes the output's size: 3 rows times
    5 / 3 are 4 rows to it.
    """
    del name, args
    rows_and_columns = np.array(node.inputs[1].get_tensor_value(), np.int64)
    sizes = context.make_const(f"{node.name}_sizes", rows_and_columns)
    images = context.make_node("Transpose", [node.input[0]], {"perm": [0, 3, 1, 2]})
    resized = context.make_node(
        "Resize",
        [images.output[0], "", "", sizes.output[0]],
        {
            "axes": [2, 3],
            "mode": "nearest",
            "nearest_mode": "floor",
            # Without the half-pixel shift, see `keras_layers.resample.upsample_to`.
            "coordinate_transformation_mode": "asymmetric",
        },
    )
    shapes, dtypes = node.output_shapes, node.output_dtypes
    context.remove_node(node.name)
    context.make_node(
        "Transpose",
        resized.output,
        {"perm": [0, 2, 3, 1]},
        name=node.name,
        outputs=node.output,
        shapes=shapes,
        dtypes=dtypes,
    )


def _with_anchors(network: "onnx.ModelProto", anchors: np.ndarray) -> "onnx.ModelProto":
    """Add the anchors as an output, so that one needs no other file to decode boxes."""
    onnx = _package("onnx")
    proto = onnx.ModelProto()
    proto.CopyFrom(network)
    tensor = onnx.numpy_helper.from_array(anchors, "anchor_values")
    proto.graph.initializer.append(tensor)
    proto.graph.node.append(onnx.helper.make_node("Identity", ["anchor_values"], ["anchors"]))
    proto.graph.output.append(
        onnx.helper.make_tensor_value_info("anchors", tensor.data_type, anchors.shape)
    )
    return proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the converter, which logs each pass, and sets a variable when it is imported."""
    logger, name = logging.getLogger("tf2onnx"), "TF_CPP_MIN_LOG_LEVEL"
    level, value = logger.level, os.environ.get(name)
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        # TensorFlow would be silent in processes that this one starts.
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
