"""Training loop: run `fit` from the restored state to the last epoch."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.config import Config
from efficientdet_tf.data.image_verification import is_decoded_first
from efficientdet_tf.data.record_columns import training_records
from efficientdet_tf.data.records import DataError, DetectionData
from efficientdet_tf.errors import UserError
from efficientdet_tf.evaluation.cached_evaluation import CachedEvaluation, Measured
from efficientdet_tf.evaluation.result import EvaluationResult
from efficientdet_tf.evaluation.runner import Evaluation
from efficientdet_tf.files import WriteError
from efficientdet_tf.report.page import write_report
from efficientdet_tf.run_directory import RunDirectory, RunDirectoryError
from efficientdet_tf.training import callbacks, stopping, strategy
from efficientdet_tf.training.background_verification import BackgroundVerification
from efficientdet_tf.training.data_wait import DataWait, advise
from efficientdet_tf.training.detection_model import EfficientDet
from efficientdet_tf.training.early_stopping import EarlyStopping
from efficientdet_tf.training.stopping import StopRequests
from efficientdet_tf.training.stream import TrainingStream
from efficientdet_tf.training.tensorboard_images import TensorBoardImages
from efficientdet_tf.visualization.training_batch import draw_training_batch

# Raised by collective operations when a worker no longer responds.
_PEER_ERRORS = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)


@dataclasses.dataclass(frozen=True)
class TrainingLoop:
    """Trainer of a run, from its restored state to its end.

    Attributes:
      config: resolved config.
      model: restored model of `compiled_model`.
      train_data: training set.
      val_data: validation set.
      steps: number of steps in an epoch.
      progress: training state from `state.restore`.
      output: directory this process writes to.
      patience: early-stopping callback.
    """

    config: Config
    model: EfficientDet
    train_data: DetectionData
    val_data: DetectionData
    steps: int
    progress: tf.train.Checkpoint
    output: RunDirectory
    patience: EarlyStopping

    @property
    def epochs_done(self) -> int:
        """Number of completed epochs."""
        return int(self.progress.epochs_done)

    @property
    def steps_into_epoch(self) -> int:
        """Number of steps done in the current epoch."""
        # More in checkpoints of earlier versions when steps per epoch were reduced.
        return min(self.steps, int(self.progress.steps_into_epoch))

    @property
    def _first_plain_step(self) -> int | None:
        """Number of the first step of the last epochs, without strong augmentation; None if off."""
        plain_epochs = self.config.augmentation.plain_epochs
        epochs = max(0, self.config.training.epochs - plain_epochs)
        return epochs * self.steps if plain_epochs else None

    def finish(self) -> EvaluationResult | None:
        """Train the remaining epochs.

        Returns:
          The last evaluation; None when there was nothing left to train.
        """
        training = self.config.training
        is_chief = strategy.is_chief(self.model.distribute_strategy)
        if lines := describe_end(
            self.output, training.epochs, self.epochs_done, self.patience, is_chief
        ):
            print(*lines, sep="\n")
            return None
        with stopping.StopRequests() as requests, self._verifying():
            stream = TrainingStream(
                self.train_data,
                self.config,
                self.model.distribute_strategy,
                int(self.progress.images_skipped),
                self._first_plain_step,
            )
            saver = callbacks.SaveState(
                self.progress,
                self.output,
                training.keep_checkpoints,
                training.checkpoint_interval_steps,
                requests,
                stream,
            )
            error: UserError | None
            try:
                evaluation = self._fit(stream, saver, requests)
            except stopping.Stopped as stop:
                error = stop.with_advice(self._save(saver))
            except callbacks.EvaluationFailed as failure:
                error = callbacks.EvaluationFailed(f"{failure}; {self._save(saver)}")
            except tf.errors.OpError as failure:
                error = self._explain(failure, stream, saver)
                if error is None:
                    raise
            except WriteError as failure:
                error = RunDirectoryError(
                    f"{failure}; the checkpoints are kept, the same command resumes from the last"
                )
            else:
                return self._report(evaluation, requests)
            # Ends prefetching threads; where a read blocks them, the watch ends the process.
            requests.end(error)
        raise error

    def _verifying(self) -> contextlib.AbstractContextManager:
        """Return the context that decodes, beside the training, what was not decoded before."""
        verify = self.config.data.verify
        sets = [
            data
            for data in (self.train_data, self.val_data)
            if not is_decoded_first(verify, len(training_records(data)))
        ]
        # One process is enough for the images of all.
        is_chief = strategy.is_chief(self.model.distribute_strategy)
        if verify == "header" or not sets or not is_chief:
            return contextlib.nullcontext()
        return BackgroundVerification(*sets)

    def _explain(
        self, failure: tf.errors.OpError, stream: TrainingStream, saver: callbacks.SaveState
    ) -> UserError | None:
        """Return the user error behind a failure of TensorFlow; None for a defect."""
        error = stream.explain(failure)
        if error is not None:
            return DataError(f"{error}; {self._save(saver)}")
        peers = strategy.has_peers(self.model.distribute_strategy)
        if peers and isinstance(failure, _PEER_ERRORS):
            return stopping.WorkerLost(failure)
        return None

    def _save(self, saver: callbacks.SaveState) -> str:
        """Save the state and return a message on how to resume."""
        if strategy.has_peers(self.model.distribute_strategy):
            # Saving a checkpoint needs all workers, and the others do not take part.
            return "restart all workers to resume from the last checkpoint"
        try:
            saver.save()
        except RunDirectoryError as error:
            return str(error)
        return "checkpoint saved; run the same command to resume"

    def _fit(self, stream: TrainingStream, saver: Any, requests: StopRequests) -> CachedEvaluation:
        first_step = self.epochs_done * self.steps + self.steps_into_epoch
        bar = callbacks.ProgressBar(first_step, self.config.training.epochs, self.steps)
        evaluation = CachedEvaluation(Evaluation(self.model, self.val_data, self.config).detect)
        epoch_end_callbacks = [*self._metrics_callbacks(evaluation, requests), self.patience, saver]
        all_callbacks = [
            # First: the time of the others is no part of a step.
            DataWait(stream, advise(self.config, self.train_data)),
            callbacks.SkippedImages(stream, self.output.path / "skipped_images.csv"),
            callbacks.DrawFirstImages(stream, self._draw),
            callbacks.StopOnDivergence(stream.images_of_last_step),
            *epoch_end_callbacks[:2],
            *self._tensorboard_callbacks(evaluation),
            *epoch_end_callbacks[2:],
            bar,
        ]
        with contextlib.closing(bar):
            for epoch, end, done in self._fit_ranges():
                if self.patience.is_over:
                    break
                if done == self.steps:
                    self._end_epoch(epoch, epoch_end_callbacks)
                    continue
                self.model.fit(
                    stream.batches(epoch * self.steps + done),
                    initial_epoch=epoch,
                    epochs=end,
                    steps_per_epoch=self.steps - done,
                    verbose=0,
                    callbacks=all_callbacks,
                )
        return evaluation

    def _report(
        self, evaluation: CachedEvaluation, requests: StopRequests
    ) -> EvaluationResult | None:
        """Write the report of the finished training, and return its last evaluation."""
        if evaluation.latest is None or evaluation.best is None:
            return None
        data = self.train_data, self.val_data
        advice = f"the training is done; {_report_command(self.output)} writes the report"
        latest, best = evaluation.latest.result, evaluation.best
        try:
            with requests.at_once(), self.model.averaged_weights():
                measured, model, weights = self._best(best, is_latest=best is evaluation.latest)
                write_report(self.output, *data, measured, model, weights=weights)
        except stopping.Stopped as stop:
            raise stop.with_advice(advice) from None
        except WriteError as failure:
            raise RunDirectoryError(f"{failure}; {advice}") from failure
        if self._has_better_weights(latest):
            print(
                f"best AP {float(self.progress.best_ap):.3f}: of best.weights.h5, which eval, "
                "export and predict use; the last epoch has:"
            )
        return latest

    def _best(self, best: Measured, is_latest: bool) -> tuple[Measured, keras.Model | None, str]:
        """Return what the report shows: an evaluation, a model with its weights, and which.

        Those of a resumed run may be of an earlier process, and are measured again.

        Args:
          best: best evaluation of this process.
          is_latest: whether it is of the present weights.
        """
        is_earlier = self._has_better_weights(best.result)
        # With several replicas, each read of a statistic of BatchNorm is a reduction.
        is_single = self.model.distribute_strategy.num_replicas_in_sync == 1
        if is_latest and is_single and not is_earlier:
            return best, self.model, ""
        if not (self.output.path / "best.weights.h5").is_file():
            return best, None, ""
        model = self.output.load_model("best")
        if is_earlier:
            best = Measured.from_evaluator(Evaluation(model, self.val_data, self.config).detect())
        return best, model, "best" if is_earlier else ""

    def _has_better_weights(self, result: EvaluationResult) -> bool:
        """Whether the run has weights with a better AP than that of an evaluation."""
        # With the precision of the checkpoint.
        return bool(float(self.progress.best_ap) > np.float32(result.metrics["AP"]))

    def _metrics_callbacks(
        self, evaluation: CachedEvaluation, requests: StopRequests
    ) -> list[keras.callbacks.Callback]:
        """Return the callbacks that evaluate an epoch and record its metrics, in order."""
        training = self.config.training
        coco = callbacks.CocoMetrics(
            evaluation.run,
            self.output,
            training.eval_interval_epochs,
            training.epochs,
            self.progress.best_ap,
            requests,
        )
        return [coco, callbacks.MetricsFile(self.output.path / "metrics.csv", self.epochs_done)]

    def _tensorboard_callbacks(
        self, evaluation: CachedEvaluation
    ) -> list[keras.callbacks.Callback]:
        folder = self.output.path / "tensorboard"
        scalars = keras.callbacks.TensorBoard(
            str(folder),
            write_graph=False,
            histogram_freq=self.config.training.histogram_interval_epochs,
        )
        return [scalars, TensorBoardImages(evaluation, self.val_data, folder)]

    def _fit_ranges(self) -> Iterator[tuple[int, int, int]]:
        """Yield first epoch, end epoch and steps done in the first, for each call of `fit`."""
        epoch, end = self.epochs_done, self.config.training.epochs
        if self.steps_into_epoch:
            yield epoch, epoch + 1, self.steps_into_epoch
            epoch += 1
        if epoch < end:
            yield epoch, end, 0

    def _end_epoch(self, epoch: int, epoch_end_callbacks: list[keras.callbacks.Callback]) -> None:
        """Run the end-of-epoch callbacks of an epoch that was stopped after its last step."""
        logs: dict[str, float] = {}
        for callback in epoch_end_callbacks:
            callback.set_model(self.model)
            callback.on_epoch_begin(epoch)
            callback.on_epoch_end(epoch, logs)

    def _draw(self, batch: tuple[np.ndarray, dict[str, np.ndarray]]) -> None:
        path = self.output.training_images / "training_batch.png"
        draw_training_batch(batch, self.config, self.train_data.label_map, path)


def describe_end(
    directory: RunDirectory, epochs: int, epochs_done: int, patience: EarlyStopping, is_chief: bool
) -> list[str]:
    """Say in lines why a run has nothing left to train; [] when it has.

    Args:
      directory: run directory.
      epochs: number of epochs of the run.
      epochs_done: number of completed epochs.
      patience: early-stopping callback.
      is_chief: whether this process writes the files of the run.
    """
    if epochs_done >= epochs:
        lines = [f"{directory.path}: all {epochs} epochs are done"]
        if is_chief and not (directory.path / "report.html").exists():
            lines.append(f"report.html is missing: {_report_command(directory)} writes it")
        return lines
    if patience.is_over:
        advice = "set a larger training.patience to resume"
        return [f"{directory.path}: early stopping: no AP improvement; {advice}"]
    return []


def _report_command(directory: RunDirectory) -> str:
    return f"python -m efficientdet_tf report --model_dir={directory.path}"
