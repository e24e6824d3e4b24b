"""The training loop around Keras' own: from where a run is to its end."""

import contextlib
import dataclasses
from collections.abc import Iterator

import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.config import Config
from efficientdet_tf.data import pipeline
from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.detection_model import EfficientDet
from efficientdet_tf.evaluation.remembered import RememberedEvaluation
from efficientdet_tf.evaluation.result import EvaluationResult
from efficientdet_tf.evaluation.runner import Evaluation
from efficientdet_tf.files import WriteError
from efficientdet_tf.report.page import write_report
from efficientdet_tf.training import callbacks, stopping, strategy
from efficientdet_tf.training.early_stopping import EarlyStopping
from efficientdet_tf.training.pictures import MOST_IMAGES, draw_training_batch
from efficientdet_tf.training.run_directory import RunDirectory, RunDirectoryError
from efficientdet_tf.training.tensorboard_images import TensorBoardImages

# What collective operations raise when a worker does not answer any more.
_PEER_ERRORS = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)


@dataclasses.dataclass(frozen=True)
class Fitting:
    """A run from where its checkpoint left it to its end.

    Attributes:
      config: resolved.
      model: of `compiled_model`, restored.
      train_data, val_data: of `load_data`.
      steps: in an epoch.
      progress: of `state.restore`.
      output: what this process writes to.
      patience: when to end before the last epoch.
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
        """Epochs that are whole."""
        return int(self.progress.epochs_done)

    @property
    def steps_into_epoch(self) -> int:
        """Steps that are done of the next epoch."""
        # More when steps per epoch were changed in between: then the epoch is over.
        return min(self.steps, int(self.progress.steps_into_epoch))

    def finish(self) -> EvaluationResult | None:
        """Trains the epochs that are left, and returns the last evaluation."""
        training = self.config.training
        if self.epochs_done >= training.epochs:
            print(f"{self.output.path}: all {training.epochs} epochs are done")
            return None
        if self.patience.is_over:
            print(f"{self.output.path}: AP rose no more; a larger training.patience goes on")
            return None
        with stopping.StopRequests() as requests:
            saver = callbacks.SaveState(
                self.progress,
                self.output,
                training.keep_checkpoints,
                training.checkpoint_steps,
                requests,
            )
            try:
                return self._fit(saver, requests)
            except stopping.Stopped as stop:
                raise self._saved(saver, stop) from None
            except _PEER_ERRORS as error:
                if not strategy.has_peers(self.model.distribute_strategy):
                    raise
                raise stopping.WorkerLost(error) from error
            except WriteError as error:
                raise RunDirectoryError(
                    f"{error}; the checkpoints are kept, the same command goes on from the last"
                ) from error

    def _saved(self, saver: callbacks.SaveState, stop: stopping.Stopped) -> stopping.Stopped:
        """The same, with a message of what the user finds."""
        if strategy.has_peers(self.model.distribute_strategy):
            # A checkpoint takes all workers, and the others know nothing of this.
            return stop.with_advice("start all workers again to go on from the last checkpoint")
        saver.save()
        return stop.with_advice("the checkpoint is written; the same command goes on from here")

    def _fit(self, saver, requests) -> EvaluationResult | None:
        first_step = self.epochs_done * self.steps + self.steps_into_epoch
        bar = callbacks.ProgressBar(first_step, self.config.training.epochs, self.steps)
        evaluation = RememberedEvaluation(Evaluation(self.model, self.val_data, self.config).detect)
        at_end = [*self._measuring(evaluation, requests), self.patience, saver]
        around = [
            callbacks.StopOnNaN(lambda step: self._images_of_step(first_step + step)),
            *at_end[:2],
            *self._tensorboard(evaluation),
            *at_end[2:],
            bar,
        ]
        self._draw_first_batch(first_step)
        with contextlib.closing(bar):
            for epoch, end, done in self._portions():
                if self.patience.is_over:
                    break
                if done == self.steps:
                    self._end_epoch(epoch, at_end)
                    continue
                self.model.fit(
                    self._batches(epoch * self.steps + done),
                    initial_epoch=epoch,
                    epochs=end,
                    steps_per_epoch=self.steps - done,
                    verbose=0,
                    callbacks=around,
                )
        write_report(self.output, self.train_data, self.val_data, evaluation.best)
        return evaluation.latest.result if evaluation.latest else None

    def _measuring(self, evaluation, requests) -> list[keras.callbacks.Callback]:
        """What evaluates an epoch and writes it down, in this order."""
        training = self.config.training
        coco = callbacks.CocoMetrics(
            evaluation.run,
            self.output,
            training.eval_every,
            training.epochs,
            self.progress.best_ap,
            requests,
        )
        return [coco, callbacks.MetricsFile(self.output.path / "metrics.csv", self.epochs_done)]

    def _tensorboard(self, evaluation) -> list[keras.callbacks.Callback]:
        folder = self.output.path / "tensorboard"
        scalars = keras.callbacks.TensorBoard(
            str(folder),
            write_graph=False,
            histogram_freq=self.config.training.histogram_every,
        )
        return [scalars, TensorBoardImages(evaluation, self.val_data, folder)]

    def _portions(self) -> Iterator[tuple[int, int, int]]:
        """First epoch, last one + 1, and steps that are done of the first, for each `fit`."""
        epoch, end = self.epochs_done, self.config.training.epochs
        if self.steps_into_epoch:
            yield epoch, epoch + 1, self.steps_into_epoch
            epoch += 1
        if epoch < end:
            yield epoch, end, 0

    def _end_epoch(self, epoch: int, around: list[keras.callbacks.Callback]) -> None:
        """What is left of an epoch that was stopped after its last step."""
        logs = {}
        for callback in around:
            callback.set_model(self.model)
            callback.on_epoch_begin(epoch)
            callback.on_epoch_end(epoch, logs)

    def _batches(self, first_step: int):
        """Batches from a step on, counted over the whole run, for all devices."""
        training = self.config.training

        def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
            return pipeline.training_dataset(
                self.train_data,
                self.config,
                training.batch_size,
                seed=training.seed,
                first_image=first_step * training.batch_size,
                worker=context,
            )

        return self.model.distribute_strategy.distribute_datasets_from_function(of_worker)

    def _images_of_step(self, step: int) -> list[str]:
        batch_size = self.config.training.batch_size
        positions = pipeline.training_positions(
            self.train_data,
            seed=self.config.training.seed,
            first_image=step * batch_size,
            count=batch_size,
        )
        records = [self.train_data.records[position] for position in positions]
        return [f"{record.image_id} ({record.name})" for record in records]

    def _draw_first_batch(self, first_step: int) -> None:
        batches = pipeline.training_dataset(
            self.train_data,
            self.config,
            min(MOST_IMAGES, self.config.training.batch_size),
            seed=self.config.training.seed,
            first_image=first_step * self.config.training.batch_size,
        )
        draw_training_batch(
            next(iter(batches)),
            self.config,
            self.train_data.label_map,
            self.output.pictures / "training_batch.png",
        )
