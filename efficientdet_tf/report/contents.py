"""Contents of a report, gathered before drawing."""

import dataclasses
import datetime
import json
import pathlib
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import tf_keras as keras

from efficientdet_tf import resuming
from efficientdet_tf.config import Config
from efficientdet_tf.data.records import DetectionData, LabelMap
from efficientdet_tf.data.statistics import DataStatistics, describe
from efficientdet_tf.evaluation import verified_files
from efficientdet_tf.evaluation.cached_evaluation import Measured
from efficientdet_tf.evaluation.comparison import Comparison
from efficientdet_tf.evaluation.confusion import Confusion, ImageOutcome, confusion
from efficientdet_tf.evaluation.diagnosis import Diagnosis, diagnose
from efficientdet_tf.evaluation.result import EvaluationResult
from efficientdet_tf.evaluation.verified_files import VerifiedFile
from efficientdet_tf.inference import compared_runtimes
from efficientdet_tf.inference.compared_runtimes import RuntimeComparison
from efficientdet_tf.inference.explanation import Explanation
from efficientdet_tf.metrics_history import read_history, read_skipped_images
from efficientdet_tf.report.false_positive_maps import explain_false_positives
from efficientdet_tf.report.fusion_weights import NodeWeights, fusion_weights
from efficientdet_tf.run_directory import RunDirectory, RunDirectoryError

_MOST_WORST = 12
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Contents:
    """Contents of a report.

    Attributes:
      config: config of the run.
      environment: versions by package name.
      label_map: classes.
      history: metrics of each epoch, from `read_history`.
      ended: end of the last epoch; now for a run without epochs.
      result: metrics of the detections.
      confusion: confusion matrix of the same detections.
      diagnosis: what most likely costs AP.
      train: statistics of the training set; None when it is unreadable.
      val: statistics of the validation set.
      skipped_images: {name: reason} of the images that training could not read.
      changes: changes of settings when the run was resumed.
      problems: lines on skipped or ignored items of both sets and of the history.
      notes: further notes on both sets.
      fusion_weights: learned weights of the feature network's fusion nodes.
      worst_images: the images with most errors, see `Confusion.worst_images`.
      explanations: explanation of a false positive in each of these images, by image id.
      exported: measurements of the files in the run's folder `export`.
      comparison: comparison with another run; None without any.
      runtimes: comparison of runtimes in the same folder; None if there is none.
      range_test: PNG file of the chart of the learning-rate range test; None if there is none.
      weights: the evaluated weights, "best" or "last"; "" for those of the epoch with their AP.
    """

    config: Config
    environment: dict[str, str]
    label_map: LabelMap
    history: list[dict[str, float]]
    ended: datetime.datetime
    result: EvaluationResult
    confusion: Confusion
    diagnosis: Diagnosis
    train: DataStatistics | None
    val: DataStatistics
    skipped_images: dict[str, str]
    changes: list[resuming.Change]
    problems: tuple[str, ...]
    notes: tuple[str, ...]
    fusion_weights: list[NodeWeights]
    worst_images: list[ImageOutcome]
    explanations: dict[int, Explanation]
    exported: list[VerifiedFile]
    comparison: Comparison | None
    runtimes: RuntimeComparison | None
    range_test: bytes | None
    weights: str

    def column(self, name: str) -> np.ndarray:
        """Return a column of the history, float64 [epochs], NaN where not measured."""
        return np.array([row.get(name, np.nan) for row in self.history], float)

    @property
    def minutes(self) -> float:
        """Duration of all epochs in minutes, evaluations included."""
        return float(np.nansum(self.column("seconds"))) / 60

    @property
    def best_epoch(self) -> dict[str, float] | None:
        """Epoch with the highest AP, the first of equal ones; None without any.

        Epochs before the last change of how AP is measured do not count.
        """
        since = resuming.measured_since(self.changes).epoch
        measured = [
            row
            for row in self.history
            if np.isfinite(row.get("AP", np.nan)) and row["epoch"] > since
        ]
        return max(measured, key=lambda row: row["AP"]) if measured else None


def gather(
    directory: RunDirectory,
    train_data: DetectionData | None,
    val_data: DetectionData,
    measured: Measured,
    model: keras.Model | None = None,
    comparison: Comparison | None = None,
    weights: str = "",
) -> Contents:
    """Gather the contents of a report.

    Args:
      directory: run directory.
      train_data: training set; None when it is no longer readable.
      val_data: validation set.
      measured: evaluation of the run's weights on the validation set.
      model: network with these weights; None to leave out its fusion weights and heat maps.
        Default None.
      comparison: comparison with another run. Default None.
      weights: as in `Contents`. Default "".

    Raises:
      RunDirectoryError: when a file of the run is missing or damaged.
    """
    config = directory.config()
    history_path = directory.path / "metrics.csv"
    seconds = history_path.stat().st_mtime if history_path.exists() else None
    history, num_unreadable = read_history(history_path)
    problems = [f"{history_path}: {num_unreadable} damaged lines"] if num_unreadable else []
    datasets = [data for data in (train_data, val_data) if data is not None]
    shape = config.model.image_size, config.model.resize
    folder = directory.path / "export"
    exported, unreadable = _measurements(folder / verified_files.FILE_NAME, verified_files.read)
    runtimes, also_unreadable = _measurements(
        folder / compared_runtimes.FILE_NAME, compared_runtimes.read
    )
    problems += unreadable + also_unreadable
    matched = confusion(val_data, measured.detections)
    worst = matched.worst_images(_MOST_WORST)
    return Contents(
        config=config,
        environment=_environment(directory),
        label_map=val_data.label_map,
        history=history,
        ended=datetime.datetime.fromtimestamp(seconds).astimezone()
        if seconds
        else datetime.datetime.now().astimezone(),
        result=measured.result,
        confusion=matched,
        diagnosis=diagnose(val_data, measured.detections, config.detection.max_detections),
        train=None if train_data is None else describe(train_data, *shape),
        val=describe(val_data, *shape),
        skipped_images=read_skipped_images(directory.path / "skipped_images.csv"),
        changes=resuming.read_changes(directory.path),
        problems=(*problems, *(line for data in datasets for line in data.problems)),
        notes=tuple(f"{data.source}: {note}" for data in datasets for note in data.notes),
        fusion_weights=[] if model is None else fusion_weights(model),
        worst_images=worst,
        explanations={}
        if model is None
        else explain_false_positives(model, config, val_data.label_map, worst),
        exported=exported or [],
        comparison=comparison,
        runtimes=runtimes,
        range_test=_range_test(directory, config),
        weights=weights,
    )


def _range_test(directory: RunDirectory, config: Config) -> bytes | None:
    """Read the chart of the learning-rate range test of a run."""
    path = directory.training_images / "learning_rate.png"
    has_test = config.optimizer.auto_learning_rate and path.is_file()
    return path.read_bytes() if has_test else None


def _measurements(
    path: pathlib.Path, read: Callable[[pathlib.Path], _T]
) -> tuple[_T | None, list[str]]:
    """Read measurements of exported files if there are any, or say why they cannot be read."""
    try:
        return (read(path) if path.exists() else None), []
    except (OSError, ValueError) as error:
        return None, [f"{path}: cannot be read: {error}"]


def _environment(directory: RunDirectory) -> dict[str, str]:
    path = directory.path / "environment.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): str(value) for name, value in values.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise RunDirectoryError(f"{path}: cannot be read: {error}") from error
