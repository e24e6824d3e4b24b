"""Comparison of a run and its exported files in every runtime of this machine."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.detector import Detector
from efficientdet_tf.devices import num_cores
from efficientdet_tf.evaluation.runner import run_detector
from efficientdet_tf.inference.compared_runtimes import RUN, ComparedRuntime, RuntimeComparison
from efficientdet_tf.inference.detections import Detections
from efficientdet_tf.inference.onnx_runtimes import available_runtimes
from efficientdet_tf.inference.runtime_choice import describe_machine, file_digest, run_digest
from efficientdet_tf.run_directory import RunDirectory
from export.formats import FORMATS, size_of
from export.peak_memory import peak_memory
from export.runtime_timing import Candidate, Speed, measure_in_own_process
from export.verification import compare, first_images

# Largest differences of a box in pixels and of a score of the same detections, from a score at
# which soft-NMS leaves others than hard NMS.
_SAME_BOX, _SAME_SCORE, _LEAST_SCORE = 0.05, 1e-4, 0.01


def compare_runtimes(
    run_directory: RunDirectory,
    files: Mapping[str, pathlib.Path],
    folder: pathlib.Path,
    settings: dict[str, str],
    data: DetectionData,
    max_ap_drop: float,
) -> RuntimeComparison:
    """Measure a run and its exported files in every runtime that is installed.

    Args:
      run_directory: the run; its best weights are measured.
      files: {key of `export.formats.FORMATS`: exported file or folder}.
      folder: folder of the exports.
      settings: settings of the postprocessing by which the run's own are overridden.
      data: images and ground truth.
      max_ap_drop: largest loss of AP, 0..1, of what may be advised.

    Returns:
      The comparison; each runtime is printed once it is measured.

    Raises:
      DataError: if no image can be read; the message is one line.
    """
    images = first_images(data)
    candidates = [Candidate(RUN, "keras", run_directory.path), *_candidates(files)]
    accuracies = _accuracies(candidates, settings, data, images)
    speeds = {}
    for threads in sorted({1, num_cores()}):
        print(f"Timing {len(candidates)} runtimes with {threads} threads", flush=True)
        speeds[threads] = measure_in_own_process(candidates, settings, images, threads)
    runtimes = [
        _row(
            candidate, folder, accuracy, {threads: rows[index] for threads, rows in speeds.items()}
        )
        for index, (candidate, accuracy) in enumerate(zip(candidates, accuracies))
    ]
    digest = run_digest(run_directory, settings)
    source = data.source or ""
    return RuntimeComparison(describe_machine(), digest, source, max_ap_drop, tuple(runtimes))


def _candidates(files: Mapping[str, pathlib.Path]) -> list[Candidate]:
    """Pair each file with the runtimes that take it."""
    runtimes = {".tflite": ["litert"], ".onnx": available_runtimes()}
    models = {name: path / FORMATS[name].model_file for name, path in files.items()}
    return [
        Candidate(name, runtime, path)
        for name, path in models.items()
        for runtime in runtimes.get(path.suffix, ["tensorflow"])
    ]


def _accuracies(
    candidates: Sequence[Candidate],
    settings: dict[str, str],
    data: DetectionData,
    images: Sequence[np.ndarray],
) -> list[tuple[float, bool]]:
    """Return AP of each model, and whether its detections are those of the first."""
    accuracies: list[tuple[float, bool]] = []
    expected: list[Detections] = []
    for candidate in candidates:
        detector = _detector(candidate, settings)
        ap = run_detector(detector, data).result().metrics["AP"]
        found = detector.detect(images, batch_size=1)
        expected = expected or found
        accuracies.append((ap, _are_equal(expected, found) and _are_equal(found, expected)))
        print(f"{candidate.format} in {candidate.runtime}: AP {ap:.3f}", flush=True)
    return accuracies


def _are_equal(expected: Sequence[Detections], found: Sequence[Detections]) -> bool:
    """Tell whether all detections are among others; without any, nothing can be told."""
    box, score, lost = compare(expected, found, _LEAST_SCORE)
    has_any = any(len(each.above(_LEAST_SCORE)) for each in expected)
    return has_any and not lost and box < _SAME_BOX and score < _SAME_SCORE


def _detector(candidate: Candidate, settings: dict[str, str]) -> Detector:
    name, runtime, path = candidate
    if name != RUN:
        return Detector.load(path, runtime if path.suffix == ".onnx" else "auto")
    run = RunDirectory(path)
    config = run.config().override(settings)
    return Detector.from_model(run.load_model(), config, run.label_map())


def _row(
    candidate: Candidate,
    folder: pathlib.Path,
    accuracy: tuple[float, bool],
    speeds: Mapping[int, Speed],
) -> ComparedRuntime:
    ap, is_exact = accuracy
    path, is_run = candidate.path, candidate.format == RUN
    return ComparedRuntime(
        candidate.format,
        candidate.runtime,
        size_of(path / "best.weights.h5" if is_run else path),
        ap,
        is_exact,
        peak_memory(path, candidate.runtime),
        "" if is_run else path.relative_to(folder).as_posix(),
        file_digest(path) if path.is_file() else "",
        {threads: speed.latency_ms for threads, speed in speeds.items()},
        {threads: speed.throughput for threads, speed in speeds.items()},
    )
