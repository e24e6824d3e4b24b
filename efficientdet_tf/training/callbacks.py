"""What happens around the steps of a run."""

import csv
import math
import pathlib
import sys
import time

import tensorflow as tf
import tf_keras as keras
from tqdm import tqdm

from efficientdet_tf.detection_model import TRACKED
from efficientdet_tf.errors import UserError
from efficientdet_tf.training.run_directory import RunDirectory


class TrainingDiverged(UserError):
    """The loss is no longer a number."""


class ProgressBar(keras.callbacks.Callback):
    """One bar over all steps of the run, with losses and the time left."""

    def __init__(self, first_step: int, total_steps: int):
        super().__init__()
        self._bar = tqdm(
            total=total_steps,
            initial=first_step,
            unit="step",
            # A log file should not grow by ten lines a second.
            mininterval=0.5 if sys.stderr.isatty() else 30,
            dynamic_ncols=True,
        )

    def on_epoch_begin(self, epoch, logs=None):
        self._bar.set_description(f"epoch {epoch + 1}/{self.params['epochs']}", refresh=False)

    def on_train_batch_end(self, batch, logs=None):
        shown = {name: f"{logs[name]:.3f}" for name in ("loss", "class_loss") if name in logs}
        shown["box_loss"] = f"{logs['box_loss']:.4f}"
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def on_train_end(self, logs=None):
        self._bar.close()


class StopOnNaN(keras.callbacks.Callback):
    """Ends the run at the first loss that is not a finite number."""

    def on_train_batch_end(self, batch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise TrainingDiverged(
                f"the loss became {logs['loss']} at step {int(self.model.optimizer.iterations)}; "
                "the last checkpoint is kept. Usual causes: a learning rate that is too high "
                "for the batch size (--set optimizer.learning_rate=...), or broken boxes"
            )


class CocoMetrics(keras.callbacks.Callback):
    """COCO metrics on the validation set, and the weights that earned the best.

    Evaluates the moving average of the weights where the run has one, adds
    `AP`, `AP50` and `AP75` to the epoch's logs, and writes `last.weights.h5`
    and, when AP rose, `best.weights.h5`.

    Args:
      evaluate: called without arguments, returns an `EvaluationResult`.
      directory: of the run.
      every: epochs from one evaluation to the next; the last epoch always has one.
      best_ap: AP of the weights in `best.weights.h5`.
    """

    def __init__(self, evaluate, directory: RunDirectory, every: int, best_ap: tf.Variable):
        super().__init__()
        self._evaluate = evaluate
        self._directory = directory
        self._every = every
        self._best_ap = best_ap
        self.result = None

    def on_epoch_end(self, epoch, logs=None):
        last = epoch + 1 == self.params["epochs"]
        with self.model.averaged_weights():
            self._directory.save_weights(self.model, "last")
            if not last and (epoch + 1) % self._every:
                return
            self.result = self._evaluate()
            logs.update({name: self.result.metrics[name] for name in ("AP", "AP50", "AP75")})
            if logs["AP"] > float(self._best_ap):
                self._best_ap.assign(logs["AP"])
                self._directory.save_weights(self.model, "best")
        tqdm.write(
            f"epoch {epoch + 1}: loss {logs['loss']:.3f}  "
            + "  ".join(f"{name} {logs[name]:.3f}" for name in ("AP", "AP50", "AP75")),
            file=sys.stderr,
        )


class SaveState(keras.callbacks.Callback):
    """Writes the whole training state after every epoch."""

    def __init__(self, manager: tf.train.CheckpointManager):
        super().__init__()
        self._manager = manager

    def on_epoch_end(self, epoch, logs=None):
        self._manager.checkpoint.epochs_done.assign(epoch + 1)
        self._manager.save(epoch + 1)


class MetricsFile(keras.callbacks.Callback):
    """Appends a line an epoch to `metrics.csv`; a metric not measured is empty."""

    COLUMNS = (
        "epoch",
        "seconds",
        "learning_rate",
        *TRACKED,
        "AP",
        "AP50",
        "AP75",
    )

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self._path = path

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        row = {
            **{name: f"{value:.6g}" for name, value in logs.items()},
            "epoch": epoch + 1,
            "seconds": f"{time.monotonic() - self._start:.1f}",
            "learning_rate": f"{current_learning_rate(self.model.optimizer):.6g}",
        }
        is_new = not self._path.exists()
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.COLUMNS, restval="", extrasaction="ignore")
            if is_new:
                writer.writeheader()
            writer.writerow(row)


def current_learning_rate(optimizer: keras.optimizers.Optimizer) -> float:
    """The learning rate of the next step."""
    rate = optimizer._learning_rate
    if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        rate = rate(optimizer.iterations)
    return float(rate)
