"""Verification of exported files: accuracy, differences and latency beside the Keras model."""

import contextlib
import functools
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import tf_keras as keras

from efficientdet_tf.boxes import pairwise_overlaps
from efficientdet_tf.config import Config
from efficientdet_tf.data.record_images import read_record
from efficientdet_tf.data.records import DataError, DetectionData, LabelMap
from efficientdet_tf.detector import Detector
from efficientdet_tf.errors import UserError
from efficientdet_tf.evaluation.runner import run_detector
from efficientdet_tf.evaluation.verified_files import VerifiedFile
from efficientdet_tf.inference.detections import Detections
from efficientdet_tf.inference.onnx_runtimes import load_onnx
from efficientdet_tf.inference.tflite_runtime import load_tflite
from export.formats import FORMATS
from export.peak_memory import peak_memory

# Images and least score of the detections whose boxes and scores are compared.
_NUM_COMPARED, _LEAST_SCORE = 20, 0.3
_THREADS = (1, 2, 4)
# Runtimes whose number of threads can be chosen, by the suffix of their files.
_LOADERS: dict[str, Callable] = {".tflite": load_tflite, ".onnx": load_onnx}
_TIMED, _UNTIMED = 20, 3


class VerificationError(UserError):
    """An exported file that loses more than allowed."""


class Verification:
    """Measurement of exported files of one model on a data set.

    Args:
      model: model of `efficientdet_tf.model.build(config)`.
      config: settings of the export.
      label_map: classes of the model.
      data: images and ground truth.
      max_ap_drop: largest loss of AP (0..1) that is accepted.

    Raises:
      DataError: if no image can be read; the message is one line.
    """

    def __init__(
        self,
        model: keras.Model,
        config: Config,
        label_map: LabelMap,
        data: DetectionData,
        max_ap_drop: float,
    ) -> None:
        self.results: list[VerifiedFile] = []
        self._model, self._config, self._label_map = model, config, label_map
        self._data = data
        self._max_ap_drop = max_ap_drop
        self._images = first_images(data)
        # AP and detections of the Keras model, by NMS method.
        self._references: dict[str, tuple[float, list[Detections]]] = {}

    def check(
        self, name: str, path: pathlib.Path, size: int, float_layers: Sequence[str] = ()
    ) -> None:
        """Measure an exported file, and refuse it if it loses too much.

        Args:
          name: a key of `export.formats.FORMATS`.
          path: the file or folder.
          size: its bytes.
          float_layers: layers of it that were kept in float32. Default none.

        Raises:
          VerificationError: if AP is lower than allowed; the message is one line.
        """
        path = path / FORMATS[name].model_file
        ap, expected = self._reference(name)
        detector = Detector.load(path)
        metrics = run_detector(detector, self._data).result().metrics
        differences = compare(expected, detector.detect(self._images, batch_size=1))
        ap_drop = ap - metrics["AP"]
        result = VerifiedFile(
            name,
            size,
            metrics["AP"],
            metrics["AP50"],
            ap_drop,
            *differences,
            _latencies(path, self._images),
            peak_memory(path),
            is_kept=ap_drop <= self._max_ap_drop,
            float_layers=tuple(float_layers),
        )
        self.results.append(result)
        if not result.is_kept:
            raise VerificationError(
                f"{name}: AP {result.ap:.3f} on {self._data.source}, {result.ap_drop:.3f} below "
                f"the model's; not kept, as --max_ap_drop={self._max_ap_drop:g} is allowed"
            )

    def _reference(self, name: str) -> tuple[float, list[Detections]]:
        """Return AP and detections of the Keras model with the NMS of a format."""
        config = self._config
        if FORMATS[name].has_hard_nms:
            config = config.override({"detection.nms": "hard"})
        key = config.detection.nms
        if key not in self._references:
            detector = Detector.from_model(self._model, config, self._label_map)
            ap = run_detector(detector, self._data).result().metrics["AP"]
            self._references[key] = ap, detector.detect(self._images, batch_size=1)
        return self._references[key]


def first_images(data: DetectionData) -> list[np.ndarray]:
    """Read the first images of a data set that can be read.

    Raises:
      DataError: if there is none; the message is one line.
    """
    images: list[np.ndarray] = []
    for record in data.records:
        # The evaluation counts and names the others.
        with contextlib.suppress(DataError):
            images.append(read_record(record))
        if len(images) == _NUM_COMPARED:
            break
    if not images:
        raise DataError(f"{data.source}: no image can be read; choose another --data")
    return images


def compare(
    expected: Sequence[Detections], found: Sequence[Detections], least_score: float = _LEAST_SCORE
) -> tuple[float, float, float]:
    """Compare detections of the same images.

    Args:
      expected: detections of the reference.
      found: detections of the other model.
      least_score: score from which detections of the reference count. Default 0.3.

    Returns:
      Largest difference of a box coordinate in pixels, largest difference of a score, and the
      fraction of `expected` without one of `found` of its class and an IoU of at least 0.5.
    """
    box_difference = score_difference = 0.0
    lost = total = 0
    for ours, theirs in zip(expected, found):
        ours = ours.above(least_score)
        total += len(ours)
        for box, score, index in zip(ours.boxes, ours.scores, ours.class_indices):
            of_class = theirs.class_indices == index
            boxes, scores = theirs.boxes[of_class], theirs.scores[of_class]
            overlaps = pairwise_overlaps(box[None], boxes)[0][0]
            candidates = np.flatnonzero(overlaps >= 0.5)
            if not len(candidates):
                lost += 1
                continue
            # Of several, which soft-NMS leaves, the most similar one.
            similarity = overlaps[candidates] - np.abs(scores[candidates] - score)
            best = candidates[np.argmax(similarity)]
            box_difference = max(box_difference, float(np.abs(boxes[best] - box).max()))
            score_difference = max(score_difference, float(abs(scores[best] - score)))
    return box_difference, score_difference, lost / max(total, 1)


def _latencies(path: pathlib.Path, images: Sequence[np.ndarray]) -> dict[int, tuple[float, float]]:
    """Time the detection in one image, by number of threads."""
    load = _LOADERS.get(path.suffix)
    if load is None:
        detector = Detector.load(path)
        return {0: _time(functools.partial(detector.detect, images[:1]))}
    latencies = {}
    for threads in _THREADS:
        backend, _ = load(path, threads=threads)
        latencies[threads] = _time(functools.partial(backend.detect, images[:1]))
    return latencies


def _time(function: Callable[[], object]) -> tuple[float, float]:
    """Return the median and the 95th percentile of a call in milliseconds."""
    durations = []
    for _ in range(_UNTIMED + _TIMED):
        start = time.perf_counter()
        function()
        durations.append(1e3 * (time.perf_counter() - start))
    timed = durations[_UNTIMED:]
    return statistics.median(timed), float(np.percentile(timed, 95))
