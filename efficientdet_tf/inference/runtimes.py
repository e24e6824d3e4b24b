"""Runtimes of a detector: Keras model, SavedModel, TFLite file; for ONNX see `onnx_runtimes`.

Each takes upright pixels and returns (boxes, scores, class indices) per image, see
`efficientdet_tf.inference.detections.Detections`. All are thread-safe.
"""

import functools
import os
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from efficientdet_tf.boxes import from_fractions
from efficientdet_tf.config import Config
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.errors import UserError
from efficientdet_tf.inference.detection_function import (
    InputResize,
    detection_function,
    raw_postprocessing_function,
)
from efficientdet_tf.inference.metadata import Metadata
from efficientdet_tf.inference.tflite_metadata import MAX_THREADS, read_metadata

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


class KerasBackend:
    """Keras model, or its frozen network, one batch per call."""

    def __init__(self, model: Callable, config: Config) -> None:
        self._resize = compiled_resize(InputResize.from_config(config))
        self._detect = detection_function(model, config).get_concrete_function()

    def detect(self, images: Sequence[np.ndarray]) -> list[Found]:
        inputs = zip(*(self._resize(image) for image in images))
        found = as_arrays(self._detect(*(tf.stack(tensors) for tensors in inputs)))
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


class TFLiteBackend:
    """.tflite file run by LiteRT, one image per call; its NMS, or that of the config.

    A lock serialises threads: an interpreter has one set of tensors and uses all cores
    anyway. An interpreter per thread would need more memory and be no faster.
    """

    def __init__(self, interpreter: Any, metadata: Metadata) -> None:
        self._interpreter = interpreter
        self._lock = threading.Lock()
        self._resize = compiled_resize(InputResize.from_config(metadata.config))
        [details] = interpreter.get_input_details()
        self._takes_bytes = details["dtype"] == np.uint8
        outputs = interpreter.get_signature_list()["serving_default"]["outputs"]
        # From the outputs to detections with boxes in pixels of the input.
        self._in_input_pixels: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
        self._in_input_pixels = functools.partial(_scaled_to, metadata.config.model.image_size)
        if "boxes" not in outputs:
            postprocess = raw_postprocessing_function(metadata.config)
            self._in_input_pixels = lambda raw: as_arrays(postprocess(**raw))

    def detect(self, images: Sequence[np.ndarray]) -> list[Found]:
        return [self._detect_one(image) for image in images]

    def _detect_one(self, image: np.ndarray) -> Found:
        pixels, scale, size = (tensor.numpy() for tensor in self._resize(image))
        if self._takes_bytes:
            pixels = np.rint(pixels).astype(np.uint8)
        with self._lock:
            # The runner returns copies, which the next call does not change.
            outputs = self._interpreter.get_signature_runner()(images=pixels[None])
        found = self._in_input_pixels(outputs)
        return in_original_pixels(found, 0, scale, size)


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


def as_arrays(tensors: dict[str, tf.Tensor]) -> dict[str, np.ndarray]:
    """Return the values of eager tensors."""
    return {name: value.numpy() for name, value in tensors.items()}


def _scaled_to(image_size: tuple[int, int], found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert relative boxes to pixels of an image."""
    return {**found, "boxes": from_fractions(found["boxes"], image_size)}


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


def load_tflite(path: pathlib.Path, threads: int | None = None) -> tuple[TFLiteBackend, LabelMap]:
    """Load a file written by `export.tflite`.

    Args:
      path: path of the file.
      threads: number of threads, at most `MAX_THREADS`; None for that of the processor's cores.
        Default None.

    Raises:
      ArtifactError: when it is damaged or of another program.
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        model = path.read_bytes()
        metadata = read_metadata(model)
        threads = min(threads or os.cpu_count() or 1, MAX_THREADS)
        interpreter = Interpreter(model_content=model, num_threads=threads)
        interpreter.allocate_tensors()
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}") from error
    except (UserError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{path}: not a model of `python -m export --format=tflite`") from error
    return TFLiteBackend(interpreter, metadata), metadata.label_map


def compiled_resize(input_resize: InputResize) -> Callable:
    """Trace an `InputResize` once for images of any size.

    Traced here, because concurrent first calls would cause retracing warnings.
    """
    signature = tf.TensorSpec([None, None, 3], tf.uint8)
    return tf.function(input_resize, autograph=False).get_concrete_function(signature)
