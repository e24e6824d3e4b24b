"""The network and its post-processing as one graph; what a Detector runs and an export saves."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras as keras

from efficientdet_tf import anchors as anchor_grid
from efficientdet_tf.config import Config
from efficientdet_tf.data.preprocessing import resize_and_pad
from keras_layers import pre_nms
from keras_layers.postprocessing import Postprocessing


def build_postprocessing(config: Config) -> Postprocessing:
    """The post-processing that `config.detection` describes."""
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


def detection_function(model: keras.Model, config: Config) -> Any:
    """Network and post-processing, traced once for batches of any size.

    Args:
      model: of `efficientdet_tf.model.build(config)`; its weights are read at
        every call.
      config: `model`, `anchors` and `detection` are read.

    Returns:
      A function of images, float32 [B, H, W, 3] as of `resize_and_pad`,
      scale_to_original, float32 [B], and original_size, int32 [B, 2] (height, width).
      It returns what `keras_layers.postprocessing.Postprocessing` does, with boxes in
      original pixels, clipped to the original images: published metrics are of
      unclipped boxes, but nobody wants a box that leaves the image.
    """
    layer = build_postprocessing(config)
    anchors = anchor_grid.from_config(config)

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *config.model.image_size, 3], tf.float32),
            tf.TensorSpec([None], tf.float32),
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
    """The network and the choice of candidates, compiled by XLA.

    All its shapes are static: it is what a TPU can do of `detection_function`.

    Args:
      model, config: of `detection_function`.

    Returns:
      A function of images, float32 [B, H, W, 3], to what `keras_layers.pre_nms.select` gives.
    """
    anchors = anchor_grid.from_config(config)

    @tf.function(jit_compile=True, autograph=False)
    def choose(images: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = model(images, training=False)
        return pre_nms.select(outputs, anchors, config.detection.pre_nms_top_k)

    return choose


@dataclasses.dataclass(frozen=True)
class Letterbox:
    """How an image of any size becomes the network's input.

    Attributes:
      image_size: (height, width) of the network's input in pixels.
      pad_value: RGB of the filling at the bottom or right, 0..255.
    """

    image_size: tuple[int, int]
    pad_value: tuple[float, float, float]

    @classmethod
    def from_config(cls, config: Config) -> "Letterbox":
        """As the model of `config` was trained."""
        return cls(config.model.image_size, config.model.pixel_mean)

    def __call__(self, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Fits one image.

        Args:
          image: uint8 [h, w, 3], RGB.

        Returns:
          float32 [H, W, 3], 0..255; float32 scalar, original pixels in a network
          pixel; int32 [2], the original height and width.
        """
        pixels, scale = resize_and_pad(image, self.image_size, self.pad_value)
        return pixels, scale, tf.shape(image)[:2]

    @property
    def signature(self) -> tuple[tf.TensorSpec, tf.TensorSpec, tf.TensorSpec]:
        """Shapes and types of what a call returns, e.g. for `tf.map_fn`."""
        return (
            tf.TensorSpec([*self.image_size, 3], tf.float32),
            tf.TensorSpec([], tf.float32),
            tf.TensorSpec([2], tf.int32),
        )
