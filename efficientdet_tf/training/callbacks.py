"""What happens around the steps of a run."""

import csv
import io
import math
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras as keras
from tqdm import tqdm

from efficientdet_tf.errors import UserError
from efficientdet_tf.evaluation.result import EvaluationResult
from efficientdet_tf.files import flush_to_disk, write_atomically
from efficientdet_tf.metrics_history import COLUMNS, read_history, read_skipped_images
from efficientdet_tf.run_directory import RunDirectory, RunDirectoryError
from efficientdet_tf.training.state import checkpoints
from efficientdet_tf.training.stopping import StopRequests
from efficientdet_tf.training.stream import TrainingStream


class TrainingDiverged(UserError):
    """The loss is no longer a number."""


class ProgressBar(keras.callbacks.Callback):
    """One bar over all steps of the run, with losses and the time left.

    Args:
      first_step: steps done before.
      epochs, steps: of the run, and of an epoch.
    """

    def __init__(self, first_step: int, epochs: int, steps: int) -> None:
        super().__init__()
        self._epochs = epochs
        self._bar = tqdm(
            total=epochs * steps,
            initial=first_step,
            unit="step",
            # A log file should not grow by ten lines a second.
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
        """Leaves the bar as it is."""
        self._bar.close()


class SkippedImages(keras.callbacks.Callback):
    """Names the images that cannot be read, each once, and counts them in every epoch.

    Args:
      stream: that the steps take their batches from; told of every step.
      path: of a CSV file with all that were named in the run, and why.
    """

    COLUMNS = ("image", "reason")
    # More are named in the file only.
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
        """Write what was found to be unreadable since the last time."""
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


class StopOnNaN(keras.callbacks.Callback):
    """Ends the run at the first loss that is not a finite number.

    Args:
      images_of_step: called without arguments, names the images of the step that is done.
    """

    def __init__(self, images_of_step: Callable[[], list[str]]) -> None:
        super().__init__()
        self._images_of_step = images_of_step

    def on_train_batch_end(self, batch: int, logs: dict[str, Any]) -> None:
        if not math.isfinite(logs["loss"]):
            step = int(self.model.optimizer.iterations.numpy())
            raise TrainingDiverged(
                f"the loss became {logs['loss']} at step {step}; "
                f"its images are {_some(self._images_of_step())}. "
                "The last checkpoint is kept. Usual causes: a learning rate that is too high "
                "for the batch size (--set optimizer.learning_rate=...), or broken boxes"
            )


def _some(names: list[str], most: int = 16) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class CocoMetrics(keras.callbacks.Callback):
    """COCO metrics on the validation set, and the weights that earned the best.

    Evaluates the moving average of the weights where the run has one, adds
    `AP`, `AP50` and `AP75` to the epoch's logs, and writes `last.weights.h5`
    and, when AP rose, `best.weights.h5`.

    Args:
      evaluate: called without arguments, returns an `EvaluationResult`.
      directory: of the run.
      every: epochs from one evaluation to the next.
      epochs: of the run; the last one always has an evaluation.
      best_ap: AP of the weights in `best.weights.h5`.
      requests: a stop that is asked for while this evaluates is answered at once.
    """

    def __init__(
        self,
        evaluate: Callable[[], EvaluationResult],
        directory: RunDirectory,
        every: int,
        epochs: int,
        best_ap: tf.Variable,
        requests: StopRequests,
    ) -> None:
        super().__init__()
        self._evaluate = evaluate
        self._directory = directory
        self._every = every
        self._epochs = epochs
        self._best_ap = best_ap
        self._requests = requests

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        with self.model.averaged_weights():
            with self._requests.writing():
                self._directory.save_weights(self.model, "last")
            if epoch + 1 < self._epochs and (epoch + 1) % self._every:
                return
            with self._requests.at_once():
                metrics = self._evaluate().metrics
            logs.update({name: metrics[name] for name in ("AP", "AP50", "AP75")})
            # Not a number where no object counts: then the latest weights are the best.
            if not logs["AP"] <= float(self._best_ap):
                self._best_ap.assign(logs["AP"])
                with self._requests.writing():
                    self._directory.save_weights(self.model, "best")
        shown = [
            f"{name} {logs[name]:.3f}" for name in ("loss", "AP", "AP50", "AP75") if name in logs
        ]
        if logs.get("images_skipped"):
            shown.append(f"images skipped {logs['images_skipped']}")
        tqdm.write(f"epoch {epoch + 1}: " + "  ".join(shown), file=sys.stderr)


class SaveState(keras.callbacks.Callback):
    """Writes the whole training state after every epoch, and within epochs.

    Args:
      state: of `state.restore`.
      directory: of the run.
      keep: so many checkpoints are kept.
      every: steps from one checkpoint within an epoch to the next; 0 is never.
      requests: a stop that is asked for ends training, by `Stopped`, after the step.
      stream: that the steps take their batches from.
    """

    def __init__(
        self,
        state: tf.train.Checkpoint,
        directory: RunDirectory,
        keep: int,
        every: int,
        requests: StopRequests,
        stream: TrainingStream,
    ) -> None:
        super().__init__()
        self._state = state
        self._stream = stream
        self._iterations = int(state.optimizer.iterations.numpy())
        # Where there is none yet, a stop before the first step writes one.
        self._is_saved = bool(checkpoints(directory))
        self._every = every
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
        if self._every and self._steps % self._every == 0:
            self.save()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._state.epochs_done.assign(epoch + 1)
        self._steps = 0
        self._is_saved = False
        self.save()

    def save(self) -> None:
        """Write a checkpoint as of the end of the last step, unless it is written.

        Raises:
          RunDirectoryError: when it cannot be written; those before are kept.
        """
        if self._is_saved:
            return
        self._state.steps_into_epoch.assign(self._steps)
        self._state.images_skipped.assign(self._stream.num_skipped)
        # The number of steps: it only grows, also when the length of an epoch changes.
        number = self._iterations
        # A step that failed, as there was no batch, may have counted itself all the same.
        if int(self._state.optimizer.iterations.numpy()) != number:
            with self.model.distribute_strategy.scope():
                self._state.optimizer.iterations.assign(number)
        # The older ones go when this one is on the disk: a power cut must not take both.
        options = tf.train.CheckpointOptions(experimental_write_callbacks=[_flush_checkpoint])
        try:
            with self._requests.writing():
                self._manager.save(number, options=options)
        except (OSError, tf.errors.OpError) as error:
            reason = " ".join(str(error).split())[:200]
            raise RunDirectoryError(
                f"{self._manager.directory}: checkpoint {number} cannot be written: {reason}; "
                "those before are kept"
            ) from error
        self._is_saved = True


def _flush_checkpoint(path: str) -> None:
    """Waits until the files of a checkpoint, which TensorFlow has written, are on the disk."""
    folder, name = os.path.split(path)
    for file in pathlib.Path(folder).glob(f"{name}.*"):
        flush_to_disk(file)
    flush_to_disk(folder)


class MetricsFile(keras.callbacks.Callback):
    """Adds a line an epoch to `metrics.csv`; a metric not measured is empty.

    Args:
      path: of the file. Damaged lines in it are left out, and counted in a message.
      epochs_done: lines of later epochs, which are trained again, are taken out.
    """

    def __init__(self, path: pathlib.Path, epochs_done: int) -> None:
        super().__init__()
        self._path = path
        self._text = io.StringIO()
        self._writer = csv.DictWriter(self._text, COLUMNS, restval="", extrasaction="ignore")
        self._writer.writeheader()
        history = read_history(path)
        if history.num_unreadable:
            print(f"{path}: {history.num_unreadable} damaged lines are left out")
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
        # As a whole: what is appended may be half there after a power cut.
        write_atomically(self._path, self._text.getvalue())


def current_learning_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """The learning rate of the next step."""
    rate = getattr(optimizer, "inner_optimizer", optimizer)._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(optimizer.iterations)
    return float(rate)
