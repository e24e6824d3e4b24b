"""Export to a self-contained SavedModel, from encoded images to detections."""

import pathlib
from typing import Any

import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.config import Config
from efficientdet_tf.data.decoding import decode_image
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.inference.detection_function import InputResize, detection_function
from efficientdet_tf.inference.frozen_network import freeze_network

# `status` of an image without detections because it could not be decoded.
UNREADABLE = "not a readable JPEG, PNG, GIF, BMP or WebP file"

# Feature of `tf.train.Example`, as in training data.
_FEATURE = "image/encoded"
_PARALLEL_FILES = 8
# Files written by TensorFlow, and our `assets.extra`.
_CONTENTS = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}


def export(
    model: keras.Model, config: Config, label_map: LabelMap, path: pathlib.Path
) -> pathlib.Path:
    """Write a SavedModel with decoding, preprocessing and NMS inside.

    Signatures, for B images:

    - `serving_default` takes `image_bytes`, string [B], encoded JPEG, PNG, GIF, BMP or WebP files
      of any sizes; JPEG is rotated upright by its EXIF orientation. WebP needs TensorFlow 2.20
      for serving; older versions reject only WebP files.
    - `serve_examples` takes `examples`, string [B], serialised `tf.train.Example` with such a
      file as the feature `image/encoded`.
    - `serve_images` takes `images`, uint8 [B, h, w, 3] RGB, of any one size.
    - `classes` takes `class_indices`, int32 [n], and returns `ids` int64 [n], `names` string [n]
      and `num_classes` int32 [n], for clients without the label map.

    The first three return, with M = `config.detection.max_detections`:

    - `boxes` float32 [B, M, 4], ymin, xmin, ymax, xmax in pixels of the (upright)
      image, clipped to it;
    - `scores` float32 [B, M], 0..1, best first;
    - `classes` int64 [B, M], the data set's own category ids;
    - `class_indices` int32 [B, M], from 0, in the order of the label map;
    - `class_names` string [B, M];
    - `num_detections` int32 [B]; later rows are zero, their names empty;
    - `status` string [B], "ok", or `UNREADABLE` for an image that cannot be decoded, which has no
      detections; the others of the request are not affected.

    Label map and config are stored beside the graph, in
    `assets.extra/label_map.json` and `assets.extra/config.yaml`.

    Args:
      model: model of `efficientdet_tf.model.build(config)`.
      config: settings; `model`, `anchors` and `detection` are read.
      label_map: classes of the model.
      path: folder to create; it must not exist.

    Returns:
      `path`.
    """
    served = _Served(model, config, label_map)
    signatures = {
        "serving_default": served.serve_encoded,
        "serve_examples": served.serve_examples,
        "serve_images": served.serve_images,
        "classes": served.classes,
    }
    # A gradient of its own, as swish has, cannot be saved of a frozen graph; nobody trains this.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(served, str(path), signatures=signatures, options=options)
    extra = path / "assets.extra"
    extra.mkdir()
    (extra / "label_map.json").write_text(label_map.to_json(), encoding="utf-8")
    (extra / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    return path


def is_own(path: pathlib.Path) -> bool:
    """Whether a folder was written by `export` and contains nothing else."""
    extra = path / "assets.extra"
    is_whole = all((extra / name).is_file() for name in ("label_map.json", "config.yaml"))
    return is_whole and {item.name for item in path.iterdir()} <= _CONTENTS


class _Served(tf.Module):
    """Serving signatures. The weights are constants of their graph, which is faster."""

    def __init__(self, model: keras.Model, config: Config, label_map: LabelMap) -> None:
        super().__init__(name="efficientdet")
        input_resize = InputResize.from_config(config)
        detect = detection_function(freeze_network(model, config.model.image_size), config)
        # One more entry, for the padding after the last detection.
        category_ids = tf.constant([*label_map.ids, 0], tf.int64)
        names = tf.constant([*label_map.names, ""], tf.string)
        size = config.detection.max_detections

        def respond(found: dict[str, tf.Tensor], status: tf.Tensor) -> dict[str, tf.Tensor]:
            is_detection = tf.sequence_mask(found["num_detections"], size)
            indices = tf.where(is_detection, found["classes"], len(label_map))
            return {
                "boxes": found["boxes"],
                "scores": found["scores"],
                "classes": tf.gather(category_ids, indices),
                "class_indices": found["classes"],
                "class_names": tf.gather(names, indices),
                "num_detections": found["num_detections"],
                "status": status,
            }

        def detect_in_files(files: tf.Tensor) -> dict[str, tf.Tensor]:
            count = tf.size(files)
            readable, inputs = _decode(files, input_resize)
            number = tf.size(readable)

            def placed(values: tf.Tensor) -> tf.Tensor:
                shape = [count, *values.shape[1:]]
                return tf.scatter_nd(readable[:, None], values[:number], shape)

            found = {name: placed(values) for name, values in detect(*inputs).items()}
            is_ok = placed(tf.ones_like(readable)) > 0
            return respond(found, tf.where(is_ok, "ok", UNREADABLE))

        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")], autograph=False
        )
        def serve_encoded(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
            return detect_in_files(image_bytes)

        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.string, "examples")], autograph=False
        )
        def serve_examples(examples: tf.Tensor) -> dict[str, tf.Tensor]:
            # An empty file is unreadable.
            features = {_FEATURE: tf.io.FixedLenFeature([], tf.string, default_value="")}
            return detect_in_files(tf.io.parse_example(examples, features)[_FEATURE])

        @tf.function(
            input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")],
            autograph=False,
        )
        def serve_images(images: tf.Tensor) -> dict[str, tf.Tensor]:
            inputs = tf.map_fn(input_resize, images, fn_output_signature=input_resize.signature)
            return respond(detect(*inputs), tf.fill([tf.shape(images)[0]], "ok"))

        @tf.function(
            input_signature=[tf.TensorSpec([None], tf.int32, "class_indices")], autograph=False
        )
        def classes(class_indices: tf.Tensor) -> dict[str, tf.Tensor]:
            return {
                "ids": tf.gather(category_ids, class_indices),
                "names": tf.gather(names, class_indices),
                "num_classes": tf.fill([tf.size(class_indices)], len(label_map)),
            }

        self.serve_encoded, self.serve_images = serve_encoded, serve_images
        self.serve_examples, self.classes = serve_examples, classes


def _decode(files: tf.Tensor, input_resize: InputResize) -> tuple[tf.Tensor, Any]:
    """Decode and resize files in parallel, leaving out what cannot be decoded.

    Args:
      files: string [B], encoded images.
      input_resize: resizing to the network's input.

    Returns:
      Positions of the n readable files, int32 [n], and the results of `input_resize` for them,
      batched; for n = 0 one image that is none.
    """
    count = tf.size(files, out_type=tf.int64)

    def decode(position: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tf.cast(position, tf.int32), *input_resize(decode_image(files[position]))

    # A data set, as only it continues after an op that fails.
    images = tf.data.Dataset.range(count).map(decode, num_parallel_calls=_PARALLEL_FILES)
    images = images.ignore_errors(log_warning=False)
    # One more, so that there always is a batch.
    nothing = tuple(tf.zeros(spec.shape, spec.dtype) for spec in images.element_spec)
    images = images.concatenate(tf.data.Dataset.from_tensors(nothing)).batch(count + 1)
    options = tf.data.Options()
    # They are for long streams, and cost half a millisecond.
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    positions, *inputs = images.with_options(options).get_single_element()
    positions = positions[:-1]
    # An empty batch would fail in the convolutions.
    number = tf.maximum(tf.size(positions), 1)
    return positions, [values[:number] for values in inputs]
