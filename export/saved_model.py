"""Export to a self-contained SavedModel, from encoded images to detections."""

import pathlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.config import Config
from efficientdet_tf.data.decoding import decode_image, is_webp
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.inference.detection_function import InputResize, detection_function
from efficientdet_tf.inference.frozen_network import freeze_network

# Files written by TensorFlow, and our `assets.extra`.
_CONTENTS = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}


def export(
    model: keras.Model, config: Config, label_map: LabelMap, path: pathlib.Path
) -> pathlib.Path:
    """Write a SavedModel with decoding, preprocessing and NMS inside.

    Signature `serving_default` takes `images`, string [B], encoded JPEG, PNG, GIF,
    BMP or WebP files of any sizes; JPEG is rotated upright by its EXIF orientation.
    WebP needs TensorFlow 2.20 for serving; older versions reject only WebP files.
    `serve_images` takes `images`, uint8 [B, h, w, 3] RGB, of any one size. Both
    return, with M = `config.detection.max_detections`:

    - `boxes` float32 [B, M, 4], ymin, xmin, ymax, xmax in pixels of the (upright)
      image, clipped to it;
    - `scores` float32 [B, M], 0..1, best first;
    - `classes` int64 [B, M], the data set's own category ids;
    - `class_names` string [B, M];
    - `num_detections` int32 [B]; later rows are zero, their names empty.

    A request with an item that is not an image fails as a whole; the error names the
    item's position, unless only the later content of the file is damaged.

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
        "serve_images": served.serve_images,
    }
    tf.saved_model.save(served, str(path), signatures=signatures)
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

        def respond(inputs: Any) -> dict[str, tf.Tensor]:
            found = detect(*inputs)
            size = config.detection.max_detections
            is_detection = tf.sequence_mask(found["num_detections"], size)
            indices = tf.where(is_detection, found["classes"], len(label_map))
            classes, class_names = tf.gather(category_ids, indices), tf.gather(names, indices)
            return {**found, "classes": classes, "class_names": class_names}

        def prepare(images: tf.Tensor, function: Callable) -> Any:
            return tf.map_fn(function, images, fn_output_signature=input_resize.signature)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "images")], autograph=False)
        def serve_encoded(images: tf.Tensor) -> dict[str, tf.Tensor]:
            with tf.control_dependencies([_check_formats(images)]):
                images = tf.identity(images)
            return respond(prepare(images, lambda image: input_resize(decode_image(image))))

        @tf.function(
            input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")],
            autograph=False,
        )
        def serve_images(images: tf.Tensor) -> dict[str, tf.Tensor]:
            return respond(prepare(images, input_resize))

        self.serve_encoded, self.serve_images = serve_encoded, serve_images


def _check_formats(images: tf.Tensor) -> tf.Operation:
    """Assert that files start like images; the error names the positions of others."""
    beginnings = ("\xff\xd8\xff", "\x89PNG", "GIF8", "BM")
    known = [
        tf.strings.substr(images, 0, len(start)) == start.encode("latin-1") for start in beginnings
    ]
    bad = tf.where(~tf.reduce_any([*known, is_webp(images)], axis=0))[:, 0]
    return tf.debugging.Assert(
        tf.size(bad) == 0,
        ["images: not JPEG, PNG, GIF, BMP or WebP at these positions of the request:", bad],
    )
