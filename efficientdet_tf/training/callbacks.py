"""Keras callbacks of a training run: progress, metrics, checkpoints and error checks."""

import csv
import io
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
import tf_keras as keras
from tqdm import tqdm

from efficientdet_tf.data.records import DataError
from efficientdet_tf.errors import UserError
from efficientdet_tf.evaluation.result import EvaluationResult
from efficientdet_tf.files import flush_to_disk, write_atomically
from efficientdet_tf.metrics_history import COLUMNS, read_history, read_skipped_images
from efficientdet_tf.run_directory import RunDirectory, RunDirectoryError
from efficientdet_tf.training import optimizers
from efficientdet_tf.training.recovery import TrainingDiverged
from efficientdet_tf.training.state import checkpoints
from efficientdet_tf.training.stopping import StopRequests
from efficientdet_tf.training.stream import TrainingStream


class ProgressBar(keras.callbacks.Callback):
    """One progress bar over all steps of the run, with losses and the remaining time.

    Args:
      first_step: number of steps done before this process.
      epochs: number of epochs of the run.
      steps: number of steps in an epoch.
    """

    def __init__(self, first_step: int, epochs: int, steps: int) -> None:
        super().__init__()
        self._epochs = epochs
        self._bar = tqdm(
            total=epochs * steps,
            initial=first_step,
            unit="step",
            # Frequent updates would bloat a log file.
            mininterval=0.5 if sys.stderr.isatty() else 30,
            dynamic_ncols=True,
        )

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._bar.set_description(f"epoch {epoch + 1}/{self._epochs}", refresh=False)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        shown: dict[str, Any] = {
            name: f"{logs[name]:.3f}" for name in ("loss", "class_loss") if name in logs
        }
        shown["box_loss"] = f"{logs['box_loss']:.4f}"
        if "images_skipped" in logs:
            shown["skipped"] = logs["images_skipped"]
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def close(self) -> None:
        """Close the bar and leave it on the screen."""
        self._bar.close()


class SkippedImages(keras.callbacks.Callback):
    """Reports each unreadable image once, and counts them in every epoch.

    Args:
      stream: source of the training batches; notified of every step.
      path: CSV file of all unreadable images of the run, with reasons.
    """

    COLUMNS = ("image", "reason")
    # Further ones are listed in the file only.
    MOST_LINES = 20

    def __init__(self, stream: TrainingStream, path: pathlib.Path) -> None:
        super().__init__()
        self._stream = stream
        self._path = path
        self._reasons = read_skipped_images(path)
        self._num_named = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._before = self._stream.num_unread

    def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        self._stream.step_done()
        self.name_new()
        if self._stream.num_unread:
            logs["images_skipped"] = self._stream.num_unread

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        logs["images_skipped"] = self._stream.num_unread - self._before

    def name_new(self) -> None:
        """Report the images found to be unreadable since the last call."""
        found = {record.name: reason for record, reason in self._stream.newly_unreadable()}
        if not found:
            return
        for name, reason in found.items():
            self._num_named += 1
            if self._num_named <= self.MOST_LINES:
                tqdm.write(f"{name}: {reason}; skipped in training", file=sys.stderr)
            elif self._num_named == self.MOST_LINES + 1:
                tqdm.write(f"more images are skipped: see {self._path}", file=sys.stderr)
        self._reasons |= found
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerows([self.COLUMNS, *self._reasons.items()])
        write_atomically(self._path, text.getvalue())


class DrawFirstImages(keras.callbacks.Callback):
    """Draws the first images of a process once, after its first step.

    Args:
      stream: source of the training batches.
      draw: called with the result of `TrainingStream.first_images`.
    """

    def __init__(self, stream: TrainingStream, draw: Callable[[Any], None]) -> None:
        super().__init__()
        self._stream = stream
        self._draw = draw
        self._is_drawn = False

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if not self._is_drawn:
            self._draw(self._stream.first_images())
            self._is_drawn = True


class StopOnDivergence(keras.callbacks.Callback):
    """Raises `TrainingDiverged` at a loss that is NaN or infinite, or has exploded.

    Args:
      images_of_step: called without arguments, returns the image names of the last step.
    """

    # Largest ratio of the mean loss of an epoch to that of the epoch before, and steps until it
    # is one: fewer could be an outlier, unless they are the whole epoch.
    EXPLODED, LEAST_STEPS = 100.0, 10

    def __init__(self, images_of_step: Callable[[], list[str]]) -> None:
        super().__init__()
        self._images_of_step = images_of_step
        self._most = math.inf

    def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        # The mean of the epoch so far.
        loss = logs["loss"]
        is_mean = batch + 1 >= min(self.LEAST_STEPS, self.params["steps"])
        has_exploded = is_mean and loss > self._most
        if math.isfinite(loss) and not has_exploded:
            return
        step = int(self.model.optimizer.iterations.numpy())
        names = self._images_of_step()
        images = f"; its images are {_some(names)}" if names else ""
        raise TrainingDiverged(
            f"the loss became {loss:.6g} at step {step}{images}. "
            "Usual causes: a learning rate that is too high "
            "for the batch size (--set optimizer.learning_rate=...), or broken boxes",
            step,
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        self._most = self.EXPLODED * logs["loss"]


def _some(names: list[str], most: int = 16) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class EvaluationFailed(UserError):
    """The evaluation at the end of an epoch, whose steps are done, cannot be finished."""


class CocoMetrics(keras.callbacks.Callback):
    """COCO metrics on the validation set, and the best weights by AP.

    Evaluates the moving average of the weights if the run has one, adds
    `AP`, `AP50` and `AP75` to the epoch's logs, and writes `last.weights.h5`
    and, when AP improved, `best.weights.h5`.

    Args:
      evaluate: called without arguments, returns an `EvaluationResult`.
      directory: run directory.
      interval_epochs: epochs between evaluations.
      epochs: number of epochs of the run; the last one is always evaluated.
      best_ap: AP of the weights in `best.weights.h5`.
      requests: stop requests; one during an evaluation takes effect immediately.
    """

    def __init__(
        self,
        evaluate: Callable[[], EvaluationResult],
        directory: RunDirectory,
        interval_epochs: int,
        epochs: int,
        best_ap: tf.Variable,
        requests: StopRequests,
    ) -> None:
        super().__init__()
        self._evaluate = evaluate
        self._directory = directory
        self._interval_epochs = interval_epochs
        self._epochs = epochs
        self._best_ap = best_ap
        self._requests = requests

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        with self.model.averaged_weights():
            with self._requests.writing():
                self._directory.save_weights(self.model, "last")
            if epoch + 1 < self._epochs and (epoch + 1) % self._interval_epochs:
                return
            with self._requests.at_once():
                metrics = self._measure()
            logs.update({name: metrics[name] for name in ("AP", "AP50", "AP75")})
            # AP is NaN without counted objects: then the latest weights are the best.
            if not logs["AP"] <= float(self._best_ap):
                self._best_ap.assign(logs["AP"])
                with self._requests.writing():
                    self._directory.copy_weights("last", "best")
        shown = [
            f"{name} {logs[name]:.3f}" for name in ("loss", "AP", "AP50", "AP75") if name in logs
        ]
        if logs.get("images_skipped"):
            shown.append(f"images skipped {logs['images_skipped']}")
        tqdm.write(f"epoch {epoch + 1}: " + "  ".join(shown), file=sys.stderr)

    def _measure(self) -> Mapping[str, float]:
        try:
            return self._evaluate().metrics
        except tf.errors.ResourceExhaustedError as error:
            raise EvaluationFailed(
                "the evaluation needs more memory than there is; use a smaller "
                "training.eval_batch_size"
            ) from error
        except DataError as error:
            raise EvaluationFailed(str(error)) from error


class SaveState(keras.callbacks.Callback):
    """Saves the whole training state after every epoch, and within epochs.

    Args:
      state: training state from `state.restore`.
      directory: run directory.
      keep: number of checkpoints to keep.
      interval_steps: steps between checkpoints within an epoch; 0 is never.
      requests: stop requests; one ends training with `Stopped` after the current step.
      stream: source of the training batches.
    """

    def __init__(
        self,
        state: tf.train.Checkpoint,
        directory: RunDirectory,
        keep: int,
        interval_steps: int,
        requests: StopRequests,
        stream: TrainingStream,
    ) -> None:
        super().__init__()
        self._state = state
        self._stream = stream
        self._iterations = int(state.optimizer.iterations.numpy())
        # Without any checkpoint, a stop before the first step writes one.
        self._is_saved = bool(checkpoints(directory))
        self._interval_steps = interval_steps
        self._requests = requests
        self._steps = int(state.steps_into_epoch)
        self._manager = tf.train.CheckpointManager(
            state, str(directory.checkpoints), max_to_keep=keep
        )

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._requests.step_begins()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self._steps += 1
        self._iterations = int(self._state.optimizer.iterations.numpy())
        self._is_saved = False
        self._requests.check()
        if self._interval_steps and self._steps % self._interval_steps == 0:
            self.save()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._state.epochs_done.assign(epoch + 1)
        self._steps = 0
        self._is_saved = False
        self.save()

    def save(self) -> None:
        """Save a checkpoint of the state after the last step, unless it is already saved.

        Raises:
          RunDirectoryError: when it cannot be written; earlier checkpoints are kept.
        """
        if self._is_saved:
            return
        self._state.steps_into_epoch.assign(self._steps)
        self._state.images_skipped.assign(self._stream.num_skipped)
        # Numbered by steps, which only grow, even when the length of an epoch changes.
        number = self._iterations
        # A step that failed for lack of a batch may still have incremented the counter.
        if int(self._state.optimizer.iterations.numpy()) != number:
            with self.model.distribute_strategy.scope():
                self._state.optimizer.iterations.assign(number)
        # Older checkpoints are deleted once this one is on the disk: a power cut must not
        # destroy both.
        options = tf.train.CheckpointOptions(experimental_write_callbacks=[_flush_checkpoint])
        try:
            with self._requests.writing():
                self._manager.save(number, options=options)
        except (OSError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())[:200]
            raise RunDirectoryError(
                f"{self._manager.directory}: checkpoint {number} cannot be written: {reason}; "
                "earlier ones are kept"
            ) from error
        self._is_saved = True


def _flush_checkpoint(path: str) -> None:
    """Flush the files of a checkpoint that TensorFlow has written to the disk."""
    folder, name = os.path.split(path)
    for file in pathlib.Path(folder).glob(f"{name}.*"):
        flush_to_disk(file)
    flush_to_disk(folder)


class MetricsFile(keras.callbacks.Callback):
    """Adds one line per epoch to `metrics.csv`; metrics that were not measured are empty.

    Args:
      path: path of the file. Damaged lines are removed, and a message counts them.
      epochs_done: number of completed epochs; lines of later ones, which are trained again, are
        removed.
    """

    def __init__(self, path: pathlib.Path, epochs_done: int) -> None:
        super().__init__()
        self._path = path
        self._text = io.StringIO()
        self._writer = csv.DictWriter(self._text, COLUMNS, restval="", extrasaction="ignore")
        self._writer.writeheader()
        history = read_history(path)
        if history.num_unreadable:
            print(f"{path}: {history.num_unreadable} damaged lines removed")
        for row in history.epochs:
            if row["epoch"] <= epochs_done:
                self._writer.writerow({name: f"{value:.6g}" for name, value in row.items()})
        if path.exists():
            write_atomically(path, self._text.getvalue())

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._start = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        self._writer.writerow(
            {
                **{name: f"{value:.6g}" for name, value in logs.items()},
                "epoch": epoch + 1,
                "seconds": f"{time.monotonic() - self._start:.1f}",
                "learning_rate": f"{current_learning_rate(self.model.optimizer):.6g}",
            }
        )
        # Written as a whole: after a power cut an appended line may be incomplete.
        write_atomically(self._path, self._text.getvalue())


def current_learning_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """Return the learning rate of the next step."""
    rate = optimizers.schedule_of(optimizer)
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(optimizer.iterations)
    return float(rate)
