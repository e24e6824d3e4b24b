"""Network and postprocessing as one graph, for Detector and exports."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras as keras

from efficientdet_tf import anchors as anchor_grid
from efficientdet_tf.config import Config
from efficientdet_tf.data.preprocessing import resize
from efficientdet_tf.inference.image_resize import Resizing
from keras_layers import pre_nms
from keras_layers.postprocessing import Postprocessing


def build_postprocessing(config: Config) -> Postprocessing:
    """Build the postprocessing of `config.detection`."""
    detection = config.detection
    return Postprocessing(
        config.model.image_size,
        method=detection.nms,
        scope=detection.nms_scope,
        iou_threshold=detection.iou_threshold,
        sigma=detection.sigma,
        score_threshold=detection.score_threshold,
        pre_nms_top_k=detection.pre_nms_top_k,
        max_detections=detection.max_detections,
    )


def detection_function(model: Callable, config: Config) -> Any:
    """Build the detection function: network and postprocessing, traced once for any batch size.

    Args:
      model: model of `efficientdet_tf.model.build(config)`, whose weights are read at
        every call, or its `frozen_network.freeze_network`.
      config: `model`, `anchors` and `detection` are read.

    Returns:
      A function of the batched results of `InputResize`: images, float32 [B, H, W, 3],
      scale_to_original, float32 [B, 2], and original_size, int32 [B, 2] (height, width).
      It returns the result of `keras_layers.postprocessing.Postprocessing`, with boxes in
      original pixels, clipped to the original images (published metrics are of unclipped
      boxes).
    """
    layer = build_postprocessing(config)
    anchors = anchor_grid.from_config(config)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *config.model.image_size, 3], tf.float32),
            tf.TensorSpec([None, 2], tf.float32),
            tf.TensorSpec([None, 2], tf.int32),
        ],
        autograph=False,
    )
    def detect(
        images: tf.Tensor, scale_to_original: tf.Tensor, original_size: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        return layer(model(images, training=False), anchors, scale_to_original, original_size)

    return detect


def compiled_candidates(model: keras.Model, config: Config) -> Callable:
    """Compile network and pre-NMS top-k by XLA.

    All shapes are static: it is the part of `detection_function` that a TPU can run.

    Args:
      model: see `detection_function`.
      config: see `detection_function`.

    Returns:
      A function from images, float32 [B, H, W, 3], to the result of
      `keras_layers.pre_nms.select`.
    """
    anchors = anchor_grid.from_config(config)

    @tf.function(jit_compile=True, autograph=False)
    def select_candidates(images: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = model(images, training=False)
        return pre_nms.select(outputs, anchors, config.detection.pre_nms_top_k)

    return select_candidates


class InputResize(Resizing):
    """Resizing in a graph."""

    def __call__(self, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Resize one image, uint8 [h, w, 3]; the result is that of `ImageResize.__call__`."""
        pixels, scale = resize(image, self.image_size, self.method, self.pad_value)
        return pixels, scale, tf.shape(image)[:2]

    @property
    def signature(self) -> tuple[tf.TensorSpec, tf.TensorSpec, tf.TensorSpec]:
        """Shapes and dtypes of the result of a call, e.g. for `tf.map_fn`."""
        return (
            tf.TensorSpec([*self.image_size, 3], tf.float32),
            tf.TensorSpec([2], tf.float32),
            tf.TensorSpec([2], tf.int32),
        )
