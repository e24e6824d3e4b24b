"""Runtimes of a detector in TensorFlow: Keras model and SavedModel."""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from efficientdet_tf.config import Config
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.errors import UserError
from efficientdet_tf.inference.detection_function import detection_function
from efficientdet_tf.inference.image_resize import ImageResize
from efficientdet_tf.inference.runtimes import ArtifactError, Found


class KerasBackend:
    """Keras model, or its frozen network, one batch per call."""

    def __init__(self, model: Callable, config: Config) -> None:
        self._resize = ImageResize.from_config(config)
        self._detect = detection_function(model, config).get_concrete_function()

    def detect(self, images: Sequence[np.ndarray]) -> list[Found]:
        inputs = zip(*(self._resize(image) for image in images))
        found = as_arrays(self._detect(*(tf.constant(np.stack(arrays)) for arrays in inputs)))
        boxes, scores, classes = (found[name] for name in ("boxes", "scores", "classes"))
        return [
            (boxes[i, :count], scores[i, :count], classes[i, :count])
            for i, count in enumerate(found["num_detections"])
        ]


class SavedModelBackend:
    """Exported SavedModel, one image per call, as its batches need images of equal size."""

    def __init__(self, serve_images: Callable) -> None:
        self._serve = serve_images

    def detect(self, images: Sequence[np.ndarray]) -> list[Found]:
        return [self._detect_one(image) for image in images]

    def _detect_one(self, image: np.ndarray) -> Found:
        found = as_arrays(self._serve(images=tf.constant(image[None])))
        count = int(found["num_detections"][0])
        boxes, scores, classes = (found[name] for name in ("boxes", "scores", "class_indices"))
        return boxes[0, :count], scores[0, :count], classes[0, :count]


def load_saved_model(path: pathlib.Path) -> tuple[SavedModelBackend, LabelMap]:
    """Load a folder written by `export.saved_model`.

    Raises:
      ArtifactError: when it is damaged or of another program.
    """
    try:
        label_map = LabelMap.from_json(
            (path / "assets.extra" / "label_map.json").read_text(encoding="utf-8")
        )
        serve_images = tf.saved_model.load(str(path)).signatures["serve_images"]
    except UserError as error:
        raise ArtifactError(f"{path}: assets.extra/label_map.json: {error}") from error
    except (OSError, KeyError, ValueError, tf.errors.OpError) as error:
        raise ArtifactError(f"{path}: not a SavedModel of `python -m export`") from error
    return SavedModelBackend(serve_images), label_map


def as_arrays(tensors: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
    """Return the values of eager tensors."""
    return {name: value.numpy() for name, value in tensors.items()}
