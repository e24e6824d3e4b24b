"""Give it a trained model and images, get detections."""

import dataclasses
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras

from efficientdet_tf import devices
from efficientdet_tf.config import Config
from efficientdet_tf.data.annotations import IMAGE_FORMATS
from efficientdet_tf.data.decoding import decode_image
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.errors import UserError
from efficientdet_tf.inference import runtimes
from efficientdet_tf.run_directory import RunDirectory

# Path, bytes of a file, or uint8 [h, w, 3] RGB.
Image = str | os.PathLike | bytes | np.ndarray


class ImageError(UserError):
    """An image that cannot be read."""


class DetectorError(UserError):
    """A call that a detector cannot answer."""


class ModelError(UserError):
    """A path that holds no model."""


@dataclasses.dataclass(frozen=True)
class Detections:
    """What was found in one image, best first.

    Attributes:
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels of the upright
        image, clipped to it.
      scores: float32 [n], 0..1.
      class_indices: int32 [n], indices of the detector's label map.
    """

    boxes: np.ndarray
    scores: np.ndarray
    class_indices: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, score: float) -> "Detections":
        """Those that score at least `score`."""
        kept = self.scores >= score
        return Detections(self.boxes[kept], self.scores[kept], self.class_indices[kept])


class Detector:
    """A model, wherever it comes from, and its classes.

    Example:
      detector = Detector.load("runs/bccd")
      [found] = detector.detect("image.jpg")
      for box, score, index in zip(found.boxes, found.scores, found.class_indices):
          print(detector.label_map.names[index], score, box)

    Attributes:
      label_map: class index -> the data set's own category id and name.
    """

    def __init__(self, backend: "runtimes.Backend", label_map: LabelMap):
        self._backend = backend
        self.label_map = label_map
        # Traced now: threads that make the first call together would be warned of retracing.
        _decode.get_concrete_function()

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


def read_image(image: str | os.PathLike | bytes | np.ndarray) -> np.ndarray:
    """The upright pixels of an image.

    Args:
      image: as one of `Detector.detect`.

    Returns:
      uint8 [h, w, 3], RGB.

    Raises:
      ImageError: when there is no such file, when it is no image, or when an
        array has another shape or type.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ImageError(
                f"image array: {image.dtype} {list(image.shape)} is not uint8 [height, width, 3]"
            )
        return image
    name = "image bytes" if isinstance(image, bytes) else os.fspath(image)
    try:
        encoded = image if isinstance(image, bytes) else pathlib.Path(image).read_bytes()
    except OSError as error:
        raise ImageError(f"{name}: {error.strerror}") from error
    except ValueError as error:
        raise ImageError(f"{name!r}: not a file name: {error}") from error
    if not encoded:
        raise ImageError(f"{name}: empty")
    try:
        return _decode(encoded).numpy()
    except tf.errors.OpError as error:
        raise ImageError(f"{name}: not a readable {IMAGE_FORMATS} image") from error


@tf.function(input_signature=[tf.TensorSpec([], tf.string)])
def _decode(encoded):
    return decode_image(encoded)


def _as_list(images: Image | Iterable[Image]) -> Iterable[Image]:
    """The images, also where a single one is given.

    A path is a sequence of letters, bytes are one of numbers, and pixels one of rows.
    """
    is_pixels = isinstance(images, np.ndarray) and images.ndim == 3
    if is_pixels or isinstance(images, str | os.PathLike | bytes):
        return [images]
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
