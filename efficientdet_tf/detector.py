"""Detector: a trained model of any exported artifact, from images to detections."""

import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from efficientdet_tf import devices
from efficientdet_tf.checkpoints.published_run import local_model
from efficientdet_tf.config import Config
from efficientdet_tf.data.image_files import Image, read_image
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.errors import UserError
from efficientdet_tf.inference import onnx_runtimes, runtime_choice, tflite_runtime
from efficientdet_tf.inference.detections import Detections
from efficientdet_tf.inference.runtimes import Backend
from efficientdet_tf.inference.test_time_augmentation import FusedBackend, check_classes
from efficientdet_tf.inference.views import build_views
from efficientdet_tf.run_directory import RunDirectory

if TYPE_CHECKING:
    import tf_keras as keras


class DetectorError(UserError):
    """An invalid call of a detector."""


class ModelError(UserError):
    """A path that holds no model."""


class Detector:
    """A model of any source, with its classes.

    Examples:
      detector = Detector.load("runs/bccd")
      [found] = detector.detect("image.jpg")
      for box, score, index in zip(found.boxes, found.scores, found.class_indices):
          print(detector.label_map.names[index], score, box)

    Attributes:
      label_map: class index -> category id and class name of the data set.
      description: file and runtime in words if the detector of a run was chosen by measurements;
        else "".
    """

    def __init__(self, backend: Backend, label_map: LabelMap, description: str = "") -> None:
        self._backend = backend
        self.label_map = label_map
        self.description = description

    @classmethod
    def from_model(cls, model: Callable, config: Config, label_map: LabelMap) -> "Detector":
        """Make a detector from a model of `efficientdet_tf.model.build(config)`.

        It follows later changes of the model's weights.
        """
        from efficientdet_tf.inference.keras_runtimes import KerasBackend

        return cls(KerasBackend(model, config), label_map)

    @classmethod
    def from_frozen(cls, model: "keras.Model", config: Config, label_map: LabelMap) -> "Detector":
        """Make a detector from the current weights of a model, faster than `from_model`.

        It does not follow later changes of the model's weights.
        """
        from efficientdet_tf.inference.frozen_network import freeze_network

        return cls.from_model(freeze_network(model, config.model.image_size), config, label_map)

    @classmethod
    def load(cls, path: str | os.PathLike, runtime: str = "auto") -> "Detector":
        """Load a detector from a run directory, or an exported SavedModel, .tflite or .onnx file.

        For a run directory, the best weights are loaded. Where `python -m export --compare` has
        measured its files on this machine, the fastest one with the same detections takes their
        place, see `efficientdet_tf.inference.runtime_choice`. A .tflite or .onnx file does
        without TensorFlow.

        Args:
          path: path of the directory or file, or the name of a published model, as
            "efficientdet-d0", whose weights are downloaded once.
          runtime: runtime of an .onnx file: "onnxruntime", "openvino", or "openvino_bf16", which
            computes in bfloat16 where the processor can; see
            `efficientdet_tf.inference.onnx_runtimes`. "keras" for a run directory, whatever was
            measured. Default "auto": the first of the former that is installed; the fastest for a
            run directory; the only one for the others.

        Raises:
          ModelError: when the path contains none of them, or has no choice of a runtime.
          UserError: when the model is damaged, or the runtime is not installed. TensorFlow need
            only be for a SavedModel or a run.
        """
        path = local_model(path)
        if not path.exists():
            raise ModelError(f"{path}: no such file or folder")
        if path.suffix == ".onnx":
            return cls(*onnx_runtimes.load_onnx(path, runtime))
        run = RunDirectory(path)
        if runtime != "auto" and not (run.exists() and runtime == "keras"):
            choices = "auto or keras" if run.exists() else "auto"
            raise ModelError(f"{path}: runtime {runtime!r} is for .onnx files only; use {choices}")
        if path.suffix == ".tflite":
            return cls(*tflite_runtime.load_tflite(path))
        if (path / "saved_model.pb").is_file():
            _prepare_tensorflow(path)
            from efficientdet_tf.inference.keras_runtimes import load_saved_model

            return cls(*load_saved_model(path))
        if run.exists():
            return cls._load_run(run, runtime)
        raise ModelError(
            f"{path}: no model; use a run directory (with config.yaml), a SavedModel folder "
            "(with saved_model.pb), or a .tflite or .onnx file"
        )

    @classmethod
    def _load_run(cls, run: RunDirectory, runtime: str) -> "Detector":
        chosen = runtime_choice.fastest_exact(run) if runtime == "auto" else None
        if chosen is not None:
            chosen_runtime = chosen.runtime if chosen.path.suffix == ".onnx" else "auto"
            detector = cls.load(chosen.path, chosen_runtime)
            detector.description = f"{chosen.path} in {chosen.runtime}"
            return detector
        _prepare_tensorflow(run.path)
        return cls.from_run(run)

    @classmethod
    def from_run(
        cls,
        run: RunDirectory,
        weights: str = "best",
        overrides: Mapping[str, object] | None = None,
    ) -> "Detector":
        """Make a detector of a run, in Keras.

        Args:
          run: the run.
          weights: "best" or "last". Default "best".
          overrides: dotted keys -> values of settings of `detection`. Default none.

        Raises:
          RunDirectoryError: when the weights are missing or do not fit the config.
          ConfigError: for an unknown setting or an invalid value.
        """
        config = run.config().override(overrides or {})
        return cls.from_frozen(run.load_model(weights), config, run.label_map())

    @classmethod
    def from_server(cls, address: str, model: str = "detector") -> "Detector":
        """Make a detector of a model in TensorFlow Serving, see `export.serving`.

        Args:
          address: "host:port" for gRPC, which needs the extra `[serving]`, or "http://host:port".
          model: name of the model on the server. Default "detector".

        Raises:
          ServerError: when the server cannot be reached or has no such model.
        """
        from efficientdet_tf.inference import server

        connection = server.connect(address, model)
        label_map = server.label_map(connection)
        return cls(server.ServerBackend(connection, len(label_map)), label_map)

    @classmethod
    def ensemble(cls, detectors: Mapping[str, "Detector"], views: Sequence[str] = ()) -> "Detector":
        """Make a detector that fuses the detections of several models, and of views of an image.

        Scores are lower than those of one model where only some of the models or views detect an
        object, see `efficientdet_tf.inference.box_fusion`.

        Examples:
          paths = ["runs/a", "runs/b"]
          detector = Detector.ensemble({path: Detector.load(path) for path in paths}, ["flip"])

        Args:
          detectors: name of each, for messages -> detector with the same classes; at least one.
          views: of "flip" and "scale": in which views of an image each model detects, see
            `efficientdet_tf.inference.views`. Default (), the image as it is.

        Raises:
          EnsembleError: when two have different classes.
          ViewError: for an unknown view.
        """
        label_map = check_classes({name: one.label_map for name, one in detectors.items()})
        chosen_views = build_views(views)
        first, *others = detectors.values()
        if not others and len(chosen_views) == 1:
            return first
        backends = [one._backend for one in (first, *others)]
        return cls(FusedBackend(backends, chosen_views), label_map)

    def augmented(self, views: Sequence[str]) -> "Detector":
        """Make a detector with test-time augmentation.

        Examples:
          detector = Detector.load("runs/bccd").augmented(["flip", "scale"])

        Args:
          views: see `ensemble`.

        Raises:
          ViewError: for an unknown view.
        """
        return Detector.ensemble({"": self}, views)

    def detect(self, images: Image | Iterable[Image], batch_size: int = 8) -> list[Detections]:
        """Detect in images. Thread-safe.

        Args:
          images: each the path or the bytes of a JPEG, PNG, GIF, BMP or WebP file, or
            pixels, uint8 [h, w, 3] RGB. JPEG files are rotated upright by their EXIF
            orientation. A single image is a list of one.
          batch_size: number of images per call of the network, where the model allows
            it; they are decoded together. At least 1. Default 8.

        Returns:
          One `Detections` for each image, in order; a list even for a single image.

        Raises:
          ImageError: for the first unreadable image; the message names it.
          UserError: when `images` is of another type.
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


def _prepare_tensorflow(path: pathlib.Path) -> None:
    try:
        devices.let_memory_grow()
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{path}: needs {error.name}, which is not installed; use an exported .tflite or .onnx "
            "file, or install the package with all it requires"
        ) from error


def _as_list(images: Image | Iterable[Image]) -> Iterable[Image]:
    """Wrap a single image in a list.

    Paths, bytes and pixel arrays are iterable themselves.
    """
    # Of two dimensions: a grey image, which is refused by its shape instead of that of a row.
    is_pixels = isinstance(images, np.ndarray) and images.ndim in (2, 3)
    if is_pixels or isinstance(images, str | os.PathLike | bytes):
        return [images]  # type: ignore[list-item]
    if not isinstance(images, Iterable) or isinstance(images, bytearray | memoryview):
        raise UserError(
            f"images: {type(images).__name__} is no image; use paths, bytes, or uint8 arrays "
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
