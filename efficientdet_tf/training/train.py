"""Training run: from a config to a run directory."""

import contextlib
import gc
from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras

from efficientdet_tf import devices as gpus
from efficientdet_tf import resuming
from efficientdet_tf.checkpoints import registry
from efficientdet_tf.checkpoints.pretrained import load_pretrained
from efficientdet_tf.config import Config
from efficientdet_tf.data import parts, stream_order, unlabeled_images
from efficientdet_tf.data.class_matching import with_classes
from efficientdet_tf.data.leakage import warn_of_shared_images
from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.evaluation.result import EvaluationResult
from efficientdet_tf.run_directory import RunDirectory
from efficientdet_tf.training import (
    anchor_fit,
    auto_settings,
    class_weights,
    distillation,
    memory,
    optimizers,
    range_test,
    recovery,
    state,
    strategy,
    summary,
)
from efficientdet_tf.training.compiling import compiled_model, steps_per_epoch
from efficientdet_tf.training.early_stopping import EarlyStopping
from efficientdet_tf.training.loop import TrainingLoop, describe_end
from efficientdet_tf.training.run_lock import RunLock

Plan = Callable[
    [Config, tuple[DetectionData, DetectionData], tf.distribute.Strategy, RunDirectory], Config
]


def train(config: Config, model_dir: str, plan: Plan | None = None) -> EvaluationResult | None:
    """Train with regular evaluations, resuming an earlier run in the same directory.

    Args:
      config: settings; `model.num_classes` is taken from the training data.
      model_dir: path of the run directory, see `RunDirectory`; created if missing. A new
        run loads `training.pretrained`; a resumed one does not.
      plan: called with the config, the training and validation set, the devices and the run
        directory, returns the config to train with, see `training.planning`. Default None.

    Returns:
      The last evaluation; None when the run was already finished.

    Raises:
      UserError: for invalid settings, data, weights or folder, or a loss that diverges
        after all recoveries; the message is one line.
    """
    config = parts.resolve(config)
    # Before reading the data sets: a wrong path fails at once.
    config = config.override(distillation.settings(config.distillation))
    gpus.let_memory_grow()
    directory = RunDirectory(model_dir)
    if state.checkpoints(directory) and directory.exists():
        config = resuming.keep_pretrained(directory.config(), config)
    elif config.training.pretrained:
        # Before reading the data sets: a wrong name fails at once.
        registry.find(config.training.pretrained)
    if config.training.deterministic:
        tf.config.experimental.enable_op_determinism()
    devices = strategy.create(config.training.strategy, config.training.tpu)
    strategy.check_batch(
        devices, config.training.batch_size, config.training.gradient_accumulation_steps
    )
    keras.utils.set_random_seed(config.training.seed)
    # Only the chief writes to the run directory.
    lock = RunLock(directory.path) if strategy.is_chief(devices) else contextlib.nullcontext()
    with lock:
        data = load_data(config)
        distillation.check_classes(config.distillation, data[0].label_map)
        config = config.override({"model.num_classes": len(data[0].label_map)})
        config = config.override(class_weights.settings(config.loss, data[0]))
        config = _choose_settings(config, directory, devices, data, plan)
        while True:
            try:
                return _train(config, directory, devices, data)
            except recovery.TrainingDiverged as error:
                # The other workers cannot be told to take part.
                if strategy.has_peers(devices):
                    raise
                recovery.recover(directory, config, error)
            # The model of the failed attempt; its traceback referenced it until here.
            gc.collect()


def _choose_settings(
    config: Config,
    directory: RunDirectory,
    devices: tf.distribute.Strategy,
    data: tuple[DetectionData, DetectionData],
    plan: Plan | None,
) -> Config:
    """Resolve the settings that a plan or `auto` leaves to the data and the devices."""
    stored = directory.config() if directory.exists() else None
    if plan is not None:
        config = plan(config, data, devices, directory)
    config = auto_settings.keep(config, stored)
    if stored is None:
        config = auto_settings.choose(config, data[0], devices)
    # After the choice of the input size.
    config = config.override(anchor_fit.settings(config, data[0], stored))
    if stored is None:
        config = range_test.choose_learning_rate(config, data[0], devices, directory)
    # Again, as stored and given values are joined here, and the devices may be others.
    training = config.training
    strategy.check_batch(devices, training.batch_size, training.gradient_accumulation_steps)
    if plan is not None or config.training.auto_batch_size or config.optimizer.auto_learning_rate:
        # The measured models.
        gc.collect()
    # The weights are those of a run that was given these settings.
    keras.utils.set_random_seed(config.training.seed)
    return config


def _train(
    config: Config,
    directory: RunDirectory,
    devices: tf.distribute.Strategy,
    data: tuple[DetectionData, DetectionData],
) -> EvaluationResult | None:
    """Run `train` with its devices and data sets, while the run directory is locked."""
    train_data, val_data = data
    directory.check(config, train_data.label_map)
    if _has_ended(config, directory, devices):
        return None
    pretrained = "" if state.checkpoints(directory) else config.training.pretrained
    stored = directory.config() if directory.exists() else config
    steps = steps_per_epoch(config, len(train_data))
    if line := recovery.describe(config, directory.path):
        print(line)
    with devices.scope():
        model = compiled_model(recovery.with_halved_rate(config, directory.path), steps)
        if pretrained:
            print(load_pretrained(model, config, pretrained))
    with strategy.writable(directory, devices) as output:
        # After loading: incompatible weights leave no folder behind.
        output.make()
        progress = state.restore(directory, model)
        state.check_space(output, progress, config.training.keep_checkpoints)
        before = state.schedule_position(progress)
        state.fit_schedule(progress, steps, steps_per_epoch(stored, len(train_data)))
        optimizers.schedule_of(model.optimizer).shift = int(progress.schedule_shift)
        changes = _changes(directory, stored, config, progress, before, len(train_data))
        # Before config.yaml: after a crash in between, the change is detected again.
        if changes:
            resuming.write_changes(output.path, changes)
        output.create(config, train_data.label_map)
        patience = EarlyStopping(
            # Read from the run directory, which not every process writes to.
            config.training.patience,
            directory.path / "metrics.csv",
            int(progress.epochs_done),
            resuming.measured_since(changes).epoch,
        )
        print(summary.describe(model, config, train_data, val_data, steps, directory.path))
        print(memory.describe(model, config))
        if not state.checkpoints(directory):
            for line in summary.advise(config, train_data, steps):
                print(line)
        loop = TrainingLoop(config, model, train_data, val_data, steps, progress, output, patience)
        return loop.finish()


def _has_ended(config: Config, directory: RunDirectory, devices: tf.distribute.Strategy) -> bool:
    """Whether the same settings leave nothing to train; a line says so, before a network is built.

    With others, the loop looks after it has stored them.
    """
    if not directory.exists() or resuming.changed(directory.config(), config):
        return False
    epochs, training = state.epochs_done(directory), config.training
    since = resuming.measured_since(resuming.read_changes(directory.path)).epoch
    patience = EarlyStopping(training.patience, directory.path / "metrics.csv", epochs, since)
    lines = describe_end(directory, training.epochs, epochs, patience, strategy.is_chief(devices))
    for line in lines:
        print(line)
    return bool(lines)


def _changes(
    directory: RunDirectory,
    stored: Config,
    config: Config,
    progress: tf.train.Checkpoint,
    position: int,
    num_images: int,
) -> list[resuming.Change]:
    """Collect all changes of settings in a run; print and apply those of this call.

    `position` is that of the learning-rate schedule with the stored settings.
    """
    changes = resuming.read_changes(directory.path)
    settings = resuming.changed(stored, config)
    step = int(progress.optimizer.iterations.numpy())
    if settings and step:
        change = resuming.Change(int(progress.epochs_done), step, settings)
        changes.append(change)
        rates = [
            _learning_rate(recovery.with_halved_rate(each, directory.path), num_images, done)
            for each, done in ((stored, position), (config, state.schedule_position(progress)))
        ]
        best_ap = float(progress.best_ap)
        with_early_stopping = config.training.patience > 0
        for line in resuming.describe(change, (rates[0], rates[1]), best_ap, with_early_stopping):
            print(line)
    # Not only in the call that changed it, which may have ended before its first checkpoint.
    if step <= resuming.measured_since(changes).step:
        progress.best_ap.assign(-1.0)
    return changes


def _learning_rate(config: Config, num_images: int, step: int) -> float:
    """Return the learning rate of a config after `step` steps of its schedule."""
    steps = steps_per_epoch(config, num_images)
    training = config.training
    rates = optimizers.learning_rates(
        config.optimizer, steps * training.epochs, steps, training.batch_size
    )
    return float(rates(step))


def load_data(config: Config) -> tuple[DetectionData, DetectionData]:
    """Load the training and the validation set; warn of images in both.

    Raises:
      DataError: when one is unusable or has no object, the validation set has objects of a class
        that the training set lacks, or this cannot be read in the order that the config asks for.
    """
    config = parts.resolve(config)
    data = config.data
    train_data, val_data = parts.load_split(config, "train"), parts.load_split(config, "val")
    # Those of the validation set may be fewer, or numbered otherwise.
    val_data = with_classes(train_data.label_map, val_data, data.train)
    parts.require_objects(train_data)
    parts.require_objects(val_data)
    warn_of_shared_images(train_data, val_data)
    train_data = unlabeled_images.add_unlabeled(train_data, config)
    stream_order.check(train_data, config)
    return train_data, val_data
