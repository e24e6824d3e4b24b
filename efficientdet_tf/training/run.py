"""A training run from a config to a folder."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf
import tf_keras as keras

from efficientdet_tf import class_weights
from efficientdet_tf import data as data_lib
from efficientdet_tf import model as model_lib
from efficientdet_tf.checkpoints import registry
from efficientdet_tf.checkpoints.pretrained import load_pretrained
from efficientdet_tf.config import Config
from efficientdet_tf.data import pipeline
from efficientdet_tf.data.records import DataError, DetectionData
from efficientdet_tf.evaluation.remembered import RememberedEvaluation
from efficientdet_tf.evaluation.result import EvaluationResult
from efficientdet_tf.evaluation.runner import Evaluation
from efficientdet_tf.losses import DetectionLoss
from efficientdet_tf.report.page import write_report
from efficientdet_tf.training import callbacks, optimizers, state, stopping, strategy
from efficientdet_tf.training.early_stopping import EarlyStopping
from efficientdet_tf.training.freezing import freeze
from efficientdet_tf.training.pictures import MOST_IMAGES, draw_training_batch
from efficientdet_tf.training.run_directory import RunDirectory
from efficientdet_tf.training.tensorboard_images import TensorBoardImages

# What collective operations raise when a worker does not answer any more.
_PEER_ERRORS = (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError)


def train(config: Config, model_dir: str) -> EvaluationResult | None:
    """Trains, evaluates as it goes, and resumes where an earlier call stopped.

    Args:
      config: `model.num_classes` is taken from the training data.
      model_dir: see `RunDirectory`; made where it does not exist. A run that
        starts there loads `training.pretrained`; one that goes on does not.

    Returns:
      The last evaluation; None when the run was finished already.

    Raises:
      UserError: one line, on settings, data, weights, the folder, or a loss that
        is no longer a number.
    """
    directory = RunDirectory(model_dir)
    pretrained = "" if state.checkpoints(directory) else config.training.pretrained
    if pretrained:
        # Before data sets are read: a wrong name is answered at once.
        registry.find(pretrained)
    if config.training.deterministic:
        tf.config.experimental.enable_op_determinism()
    devices = strategy.create(config.training.strategy, config.training.tpu)
    strategy.check_batch(devices, config.training.batch_size, config.training.accumulate)
    keras.utils.set_random_seed(config.training.seed)
    train_data, val_data = load_data(config)
    config = config.override({"model.num_classes": len(train_data.label_map)})
    config = config.override(class_weights.settings(config.loss, train_data))
    directory.check(config, train_data.label_map)
    steps = steps_per_epoch(config, len(train_data))
    with devices.scope():
        model = compiled_model(config, steps)
        if pretrained:
            print(load_pretrained(model, config, pretrained))
    with strategy.writable(directory, devices) as output:
        # Weights that do not fit leave no folder behind.
        output.create(config, train_data.label_map)
        progress = state.restore(directory, model)
        state.check_space(output, progress, config.training.keep_checkpoints)
        patience = EarlyStopping(
            # Of the run's folder, which not every process writes to.
            config.training.patience,
            directory.path / "metrics.csv",
            int(progress.epochs_done),
        )
        run = _Run(config, model, train_data, val_data, steps, progress, output, patience)
        return run.finish()


class _Run:
    """A run from where its checkpoint left it to its end.

    Args:
      config: resolved.
      model: of `compiled_model`, restored.
      train_data, val_data: of `load_data`.
      steps: in an epoch.
      progress: of `state.restore`.
      output: what this process writes to.
      patience: when to end before the last epoch.
    """

    def __init__(self, config, model, train_data, val_data, steps, progress, output, patience):
        self._config = config
        self._model = model
        self._train_data = train_data
        self._val_data = val_data
        self._steps = steps
        self._progress = progress
        self._output = output
        self._patience = patience
        self._epochs_done = int(progress.epochs_done)
        # More when steps per epoch were changed in between: then the epoch is over.
        self._steps_into_epoch = min(steps, int(progress.steps_into_epoch))

    def finish(self) -> EvaluationResult | None:
        """Trains the epochs that are left, and returns the last evaluation."""
        training = self._config.training
        if self._epochs_done >= training.epochs:
            print(f"{self._output.path}: all {training.epochs} epochs are done")
            return None
        if self._patience.is_over:
            print(f"{self._output.path}: AP rose no more; a larger training.patience goes on")
            return None
        with stopping.StopRequests() as requests:
            saver = callbacks.SaveState(
                self._progress,
                self._output,
                training.keep_checkpoints,
                training.checkpoint_steps,
                requests,
            )
            try:
                return self._fit(saver, requests)
            except stopping.Stopped as stop:
                raise self._saved(saver, stop) from None
            except _PEER_ERRORS as error:
                if strategy.num_workers() == 1:
                    raise
                raise stopping.WorkerLost(error) from error

    def _saved(self, saver: callbacks.SaveState, stop: stopping.Stopped) -> stopping.Stopped:
        """The same, with a message of what the user finds."""
        if strategy.num_workers() > 1:
            # A checkpoint takes all workers, and the others know nothing of this.
            return stop.with_advice("start all workers again to go on from the last checkpoint")
        saver.save()
        return stop.with_advice("the checkpoint is written; the same command goes on from here")

    def _fit(self, saver, requests) -> EvaluationResult:
        config, model, training = self._config, self._model, self._config.training
        evaluation = RememberedEvaluation(Evaluation(model, self._val_data, config).detect)
        coco = callbacks.CocoMetrics(
            evaluation.run,
            self._output,
            training.eval_every,
            training.epochs,
            self._progress.best_ap,
            requests,
        )
        metrics = callbacks.MetricsFile(self._output.path / "metrics.csv", self._epochs_done)
        first_step = self._epochs_done * self._steps + self._steps_into_epoch
        bar = callbacks.ProgressBar(first_step, training.epochs, self._steps)
        tensorboard = self._output.path / "tensorboard"
        around = [
            callbacks.StopOnNaN(lambda step: self._images_of_step(first_step + step)),
            coco,
            metrics,
            keras.callbacks.TensorBoard(
                str(tensorboard), write_graph=False, histogram_freq=training.histogram_every
            ),
            TensorBoardImages(evaluation, self._val_data, tensorboard),
            self._patience,
            saver,
            bar,
        ]
        self._draw_first_batch(first_step)
        with contextlib.closing(bar):
            for epoch, end, done in self._portions():
                if self._patience.is_over:
                    break
                if done == self._steps:
                    self._end_epoch(epoch, [coco, metrics, self._patience, saver])
                    continue
                model.fit(
                    self._batches(epoch * self._steps + done),
                    initial_epoch=epoch,
                    epochs=end,
                    steps_per_epoch=self._steps - done,
                    verbose=0,
                    callbacks=around,
                )
        write_report(self._output, self._train_data, self._val_data, evaluation.best)
        return coco.result

    def _portions(self) -> Iterator[tuple[int, int, int]]:
        """First epoch, last one + 1, and steps that are done of the first, for each `fit`."""
        epoch, end = self._epochs_done, self._config.training.epochs
        if self._steps_into_epoch:
            yield epoch, epoch + 1, self._steps_into_epoch
            epoch += 1
        if epoch < end:
            yield epoch, end, 0

    def _end_epoch(self, epoch: int, around: list[keras.callbacks.Callback]) -> None:
        """What is left of an epoch that was stopped after its last step."""
        logs = {}
        for callback in around:
            callback.set_model(self._model)
            callback.on_epoch_begin(epoch)
            callback.on_epoch_end(epoch, logs)

    def _batches(self, first_step: int):
        """Batches from a step on, counted over the whole run, for all devices."""
        training = self._config.training

        def of_worker(context: tf.distribute.InputContext) -> tf.data.Dataset:
            return pipeline.training_dataset(
                self._train_data,
                self._config,
                training.batch_size,
                seed=training.seed,
                first_image=first_step * training.batch_size,
                worker=context,
            )

        return self._model.distribute_strategy.distribute_datasets_from_function(of_worker)

    def _images_of_step(self, step: int) -> list[str]:
        batch_size = self._config.training.batch_size
        positions = pipeline.training_positions(
            self._train_data,
            seed=self._config.training.seed,
            first_image=step * batch_size,
            count=batch_size,
        )
        records = [self._train_data.records[position] for position in positions]
        return [f"{record.image_id} ({record.name})" for record in records]

    def _draw_first_batch(self, first_step: int) -> None:
        batches = pipeline.training_dataset(
            self._train_data,
            self._config,
            min(MOST_IMAGES, self._config.training.batch_size),
            seed=self._config.training.seed,
            first_image=first_step * self._config.training.batch_size,
        )
        draw_training_batch(
            next(iter(batches)),
            self._config,
            self._train_data.label_map,
            self._output.pictures / "training_batch.png",
        )


def load_data(config: Config) -> tuple[DetectionData, DetectionData]:
    """The training and the validation set.

    Raises:
      DataError: when one cannot be used, or their classes differ.
    """
    data = config.data
    common = dict(format=data.format, verify=data.verify, strict=data.strict)
    train_data = data_lib.load(data.train, images=data.train_images, split="train", **common)
    val_data = data_lib.load(data.val, images=data.val_images, split="val", **common)
    if train_data.label_map != val_data.label_map:
        raise DataError(
            f"{data.val}: its classes are not those of {data.train}; "
            "both need the same ids and names in the same order"
        )
    return train_data, val_data


def steps_per_epoch(config: Config, num_images: int) -> int:
    """Steps in an epoch: as configured, or one pass rounded down, but at least 1."""
    return config.training.steps_per_epoch or max(1, num_images // config.training.batch_size)


def compiled_model(config: Config, steps: int) -> keras.Model:
    """The network of a config, ready for `fit`.

    Args:
      config: of the run.
      steps: in an epoch.
    """
    training, settings = config.training, config.optimizer
    with _precision(training.precision):
        model = model_lib.build(config)
    model.get_layer("backbone").recompute = training.gradient_checkpointing
    freeze(model, config.model.freeze)
    optimizer = optimizers.build(
        settings,
        total_steps=steps * training.epochs,
        steps_per_epoch=steps,
        batch_size=training.batch_size,
    )
    if training.precision == "mixed_float16":
        # Small gradients would be zero in float16.
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    model.compile(
        optimizer,
        DetectionLoss.for_config(config),
        weight_decay=optimizers.loss_decay(settings),
        clip_norm=settings.clip_norm,
        ema_decay=settings.ema_decay,
        accumulate=training.accumulate,
        seed=training.seed,
        jit_compile=training.xla,
    )
    return model


@contextlib.contextmanager
def _precision(policy: str) -> Iterator[None]:
    """A context in which new layers compute in a Keras precision policy."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)
