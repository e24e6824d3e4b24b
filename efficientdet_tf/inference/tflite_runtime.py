"""Runtime of .tflite files: LiteRT."""

import functools
import pathlib
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from efficientdet_tf.boxes import from_fractions
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.devices import num_cores
from efficientdet_tf.errors import UserError
from efficientdet_tf.inference.array_postprocessing import ArrayPostprocessing
from efficientdet_tf.inference.image_resize import ImageResize
from efficientdet_tf.inference.metadata import Metadata
from efficientdet_tf.inference.runtimes import ArtifactError, Found, in_original_pixels
from efficientdet_tf.inference.tflite_metadata import MAX_THREADS, read_metadata


class TFLiteBackend:
    """.tflite file run by LiteRT, one image per call; its NMS, or that of the config.

    A lock serialises threads: an interpreter has one set of tensors and uses all cores
    anyway. An interpreter per thread would need more memory and be no faster.
    """

    def __init__(self, interpreter: Any, metadata: Metadata) -> None:
        self._interpreter = interpreter
        self._lock = threading.Lock()
        self._resize = ImageResize.from_config(metadata.config)
        [details] = interpreter.get_input_details()
        self._takes_bytes = details["dtype"] == np.uint8
        outputs = interpreter.get_signature_list()["serving_default"]["outputs"]
        # From the outputs to detections with boxes in pixels of the input.
        self._in_input_pixels: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
        self._in_input_pixels = functools.partial(_scaled_to, metadata.config.model.image_size)
        if "boxes" not in outputs:
            self._in_input_pixels = ArrayPostprocessing(metadata.config)

    def detect(self, images: Sequence[np.ndarray]) -> list[Found]:
        return [self._detect_one(image) for image in images]

    def _detect_one(self, image: np.ndarray) -> Found:
        pixels, scale, size = self._resize(image)
        if self._takes_bytes:
            pixels = np.rint(pixels).astype(np.uint8)
        with self._lock:
            # The runner returns copies, which the next call does not change.
            outputs = self._interpreter.get_signature_runner()(images=pixels[None])
        found = self._in_input_pixels(outputs)
        return in_original_pixels(found, 0, scale, size)


def load_tflite(path: pathlib.Path, threads: int | None = None) -> tuple[TFLiteBackend, LabelMap]:
    """Load a file written by `export.tflite`.

    Args:
      path: path of the file.
      threads: number of threads, at most `MAX_THREADS`; None for that of the cores that this
        process may use. Default None.

    Raises:
      ArtifactError: when it is damaged or of another program.
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        model = path.read_bytes()
        metadata = read_metadata(model)
        threads = min(threads or num_cores(), MAX_THREADS)
        interpreter = Interpreter(model_content=model, num_threads=threads)
        interpreter.allocate_tensors()
    except OSError as error:
        raise ArtifactError(f"{path}: {error.strerror}") from error
    except (UserError, ValueError, RuntimeError) as error:
        raise ArtifactError(f"{path}: not a model of `python -m export --format=tflite`") from error
    return TFLiteBackend(interpreter, metadata), metadata.label_map


def _scaled_to(image_size: tuple[int, int], found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Convert relative boxes to pixels of an image."""
    return {**found, "boxes": from_fractions(found["boxes"], image_size)}
