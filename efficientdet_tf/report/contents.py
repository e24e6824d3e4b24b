"""All that a report shows, gathered before any of it is drawn."""

import dataclasses
import datetime
import json

import numpy as np

from efficientdet_tf import resuming
from efficientdet_tf.config import Config
from efficientdet_tf.data.records import DetectionData, LabelMap
from efficientdet_tf.data.statistics import DataStatistics, describe
from efficientdet_tf.evaluation.cached_evaluation import Measured
from efficientdet_tf.evaluation.confusion import Confusion, confusion
from efficientdet_tf.evaluation.result import EvaluationResult
from efficientdet_tf.metrics_history import read_history, read_skipped_images
from efficientdet_tf.run_directory import RunDirectory, RunDirectoryError


@dataclasses.dataclass(frozen=True)
class Contents:
    """What is known of a run.

    Attributes:
      config: of the run.
      environment: versions by name.
      label_map: names the classes.
      history: of each epoch what was measured, as of `read_history`.
      ended: when its last epoch ended; of a run without epochs, now.
      result: the metrics of the detections.
      confusion: the same detections, held against the objects one by one.
      train: numbers about the training set; None when it could not be read.
      val: numbers about the validation set.
      skipped_images: those that training could not read, and why, by name.
      changes: of settings, when the run was resumed.
      problems: lines on what was left out of either set, or is ignored, and of the history.
      notes: lines on either set that are worth knowing.
    """

    config: Config
    environment: dict[str, str]
    label_map: LabelMap
    history: list[dict[str, float]]
    ended: datetime.datetime
    result: EvaluationResult
    confusion: Confusion
    train: DataStatistics | None
    val: DataStatistics
    skipped_images: dict[str, str]
    changes: list[resuming.Change]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def column(self, name: str) -> np.ndarray:
        """float64 [epochs], a column of the history; NaN where nothing was measured."""
        return np.array([row.get(name, np.nan) for row in self.history], float)

    @property
    def minutes(self) -> float:
        """How long all epochs took together, evaluations included."""
        return float(np.nansum(self.column("seconds"))) / 60

    @property
    def best_epoch(self) -> dict[str, float] | None:
        """The epoch with the highest AP, the first of several; None without any.

        Of epochs before a change of how AP is measured, none counts.
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
) -> Contents:
    """The contents of a report.

    Args:
      directory: of the run.
      train_data: what it trained on; None when it cannot be read any more.
      val_data: what the detections are of.
      measured: the detections of the run's weights.

    Raises:
      RunDirectoryError: when a file of the run is missing or damaged.
    """
    config = directory.config()
    history_path = directory.path / "metrics.csv"
    seconds = history_path.stat().st_mtime if history_path.exists() else None
    history, num_unreadable = read_history(history_path)
    problems = [f"{history_path}: {num_unreadable} damaged lines"] if num_unreadable else []
    datasets = [data for data in (train_data, val_data) if data is not None]
    return Contents(
        config=config,
        environment=_environment(directory),
        label_map=val_data.label_map,
        history=history,
        ended=datetime.datetime.fromtimestamp(seconds).astimezone()
        if seconds
        else datetime.datetime.now().astimezone(),
        result=measured.result,
        confusion=confusion(val_data, measured.detections),
        train=None if train_data is None else describe(train_data, config.model.image_size),
        val=describe(val_data, config.model.image_size),
        skipped_images=read_skipped_images(directory.path / "skipped_images.csv"),
        changes=resuming.read_changes(directory.path),
        problems=(*problems, *(line for data in datasets for line in data.problems)),
        notes=tuple(f"{data.source}: {note}" for data in datasets for note in data.notes),
    )


def _environment(directory: RunDirectory) -> dict[str, str]:
    path = directory.path / "environment.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): str(value) for name, value in values.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise RunDirectoryError(f"{path}: cannot be read: {error}") from error
