"""Detector: a trained model of any artifact, from images to detections."""

import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tf_keras as keras

from efficientdet_tf import devices
from efficientdet_tf.config import Config
from efficientdet_tf.data import image_files
from efficientdet_tf.data.image_files import Image, read_image
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.errors import UserError
from efficientdet_tf.inference import runtimes
from efficientdet_tf.inference.detections import Detections
from efficientdet_tf.run_directory import RunDirectory


class DetectorError(UserError):
    """A call that a detector cannot answer."""


class ModelError(UserError):
    """A path that holds no model."""


class Detector:
    """A model, wherever it comes from, and its classes.

    Examples:
      detector = Detector.load("runs/bccd")
      [found] = detector.detect("image.jpg")
      for box, score, index in zip(found.boxes, found.scores, found.class_indices):
          print(detector.label_map.names[index], score, box)

    Attributes:
      label_map: class index -> the data set's own category id and name.
    """

    def __init__(self, backend: "runtimes.Backend", label_map: LabelMap) -> None:
        self._backend = backend
        self.label_map = label_map
        image_files.prepare_threads()

    @classmethod
    def from_model(cls, model: keras.Model, config: Config, label_map: LabelMap) -> "Detector":
        """A detector with a model of `efficientdet_tf.model.build(config)`."""
        return cls(runtimes.KerasBackend(model, config), label_map)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Detector":
        """A detector from a run directory, an exported SavedModel folder or .tflite file.

        Of a run directory the best weights are loaded.

        Raises:
          ModelError: when the path holds none of them.
          UserError: when what it holds is damaged.
        """
        devices.let_memory_grow()
        path = pathlib.Path(path)
        if not path.exists():
            raise ModelError(f"{path}: no such file or folder")
        if path.suffix == ".tflite":
            return cls(*runtimes.load_tflite(path))
        if (path / "saved_model.pb").is_file():
            return cls(*runtimes.load_saved_model(path))
        run = RunDirectory(path)
        if run.exists():
            return cls.from_model(run.load_model(), run.config(), run.label_map())
        raise ModelError(
            f"{path}: no model; a run directory (with config.yaml), a SavedModel folder "
            "(with saved_model.pb) or a .tflite file is"
        )

    def detect(self, images: Image | Iterable[Image], batch_size: int = 8) -> list[Detections]:
        """Detect in every image. May be called from several threads at once.

        Args:
          images: each the path of a JPEG, PNG, GIF, BMP or WebP file, the bytes
            of one, or its pixels, uint8 [h, w, 3] RGB. JPEG files are turned
            upright by their EXIF orientation. A single image stands for a list
            of one.
          batch_size: how many images go through the network together, where the
            model allows it; all are decoded before. At least 1.

        Returns:
          One `Detections` for each image, in order; a list also for a single image.

        Raises:
          ImageError: for the first image that cannot be read, naming it.
          UserError: when `images` is none.
          DetectorError: for a batch size below 1.
        """
        if batch_size < 1:
            raise DetectorError(
                f"batch_size: {batch_size} is below 1; use a whole number from 1 on"
            )
        found = []
        for batch in _batches(_as_list(images), batch_size):
            results = self._backend.detect([read_image(image) for image in batch])
            found += [Detections(*result) for result in results]
        return found


def _as_list(images: Image | Iterable[Image]) -> Iterable[Image]:
    """The images, also where a single one is given.

    A path is a sequence of letters, bytes are one of numbers, and pixels one of rows.
    """
    is_pixels = isinstance(images, np.ndarray) and images.ndim == 3
    if is_pixels or isinstance(images, str | os.PathLike | bytes):
        return [images]  # type: ignore[list-item]
    if not isinstance(images, Iterable):
        raise UserError(
            f"images: {type(images).__name__} is no image; give paths, bytes, or uint8 arrays "
            "[height, width, 3]"
        )
    return images


def _batches(items: Iterable, size: int) -> Iterator[Sequence]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
