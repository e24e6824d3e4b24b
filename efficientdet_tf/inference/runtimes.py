"""Interface of the runtimes of a detector.

Each takes upright pixels and returns (boxes, scores, class indices) per image, see
`efficientdet_tf.inference.detections.Detections`. All are thread-safe. Those of .tflite and
.onnx files do without TensorFlow, whose import takes seconds and half a gigabyte.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from efficientdet_tf.errors import UserError

Found = tuple[np.ndarray, np.ndarray, np.ndarray]


class ArtifactError(UserError):
    """An exported model that cannot be used."""


class Backend(Protocol):
    """Interface of a runtime of `Detector`."""

    def detect(self, images: Sequence[np.ndarray]) -> list[Found]:
        """Detect in images, each uint8 [h, w, 3] RGB of any size.

        Returns:
          For each image: boxes float32 [n, 4], scores float32 [n] and class
          indices int32 [n].
        """


def in_original_pixels(
    found: dict[str, np.ndarray], index: int, scale: np.ndarray, size: np.ndarray
) -> Found:
    """Convert detections in network pixels to those of an image.

    Args:
      found: arrays of a batch, the result of `keras_layers.postprocessing.Postprocessing`.
      index: position of the image in the batch.
      scale: float32 [2], original pixels per network pixel, vertically and horizontally.
      size: int32 [2], height and width of the image in pixels, to which boxes are clipped.
    """
    count = int(found["num_detections"][index])
    boxes = found["boxes"][index, :count] * np.tile(scale, 2)
    boxes = np.clip(boxes, 0, np.tile(size, 2), dtype=np.float32)
    scores, classes = found["scores"][index, :count], found["classes"][index, :count]
    return boxes, scores, classes.astype(np.int32)
