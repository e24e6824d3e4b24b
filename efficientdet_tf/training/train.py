"""A training run from a config to a folder."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf
import tf_keras as keras

from efficientdet_tf import devices as gpus
from efficientdet_tf import resuming
from efficientdet_tf.checkpoints import registry
from efficientdet_tf.checkpoints.pretrained import load_pretrained
from efficientdet_tf.config import Config
from efficientdet_tf.data import parts
from efficientdet_tf.data.leakage import warn_of_shared_images
from efficientdet_tf.data.records import DataError, DetectionData
from efficientdet_tf.evaluation.result import EvaluationResult
from efficientdet_tf.losses import DetectionLoss
from efficientdet_tf.run_directory import RunDirectory
from efficientdet_tf.training import class_weights, memory, optimizers, state, strategy, summary
from efficientdet_tf.training.detection_model import EfficientDet
from efficientdet_tf.training.early_stopping import EarlyStopping
from efficientdet_tf.training.freezing import freeze
from efficientdet_tf.training.loop import TrainingLoop
from efficientdet_tf.training.run_lock import RunLock


def train(config: Config, model_dir: str) -> EvaluationResult | None:
    """Trains, evaluates as it goes, and resumes where an earlier call stopped.

    Args:
      config: `model.num_classes` is taken from the training data.
      model_dir: see `RunDirectory`; made where it does not exist. A run that
        starts there loads `training.pretrained`; one that is resumed does not.

    Returns:
      The last evaluation; None when the run was finished already.

    Raises:
      UserError: one line, on settings, data, weights, the folder, or a loss that
        is no longer a number.
    """
    config = parts.resolve(config)
    gpus.let_memory_grow()
    directory = RunDirectory(model_dir)
    pretrained = "" if state.checkpoints(directory) else config.training.pretrained
    if pretrained:
        # Before data sets are read: a wrong name is answered at once.
        registry.find(pretrained)
    if config.training.deterministic:
        tf.config.experimental.enable_op_determinism()
    devices = strategy.create(config.training.strategy, config.training.tpu)
    strategy.check_batch(
        devices, config.training.batch_size, config.training.gradient_accumulation_steps
    )
    keras.utils.set_random_seed(config.training.seed)
    # Only the chief writes there.
    lock = RunLock(directory.path) if strategy.is_chief(devices) else contextlib.nullcontext()
    with lock:
        return _train(config, directory, devices, pretrained)


def _train(
    config: Config, directory: RunDirectory, devices: tf.distribute.Strategy, pretrained: str
) -> EvaluationResult | None:
    """`train` with the devices that are there, in a folder that no other process writes to."""
    train_data, val_data = load_data(config)
    config = config.override({"model.num_classes": len(train_data.label_map)})
    config = config.override(class_weights.settings(config.loss, train_data))
    directory.check(config, train_data.label_map)
    stored = directory.config() if directory.exists() else config
    steps = steps_per_epoch(config, len(train_data))
    with devices.scope():
        model = compiled_model(config, steps)
        if pretrained:
            print(load_pretrained(model, config, pretrained))
    with strategy.writable(directory, devices) as output:
        # Weights that do not fit leave no folder behind.
        output.make()
        progress = state.restore(directory, model)
        state.check_space(output, progress, config.training.keep_checkpoints)
        changes = _changes(directory, stored, config, progress, len(train_data))
        # Before config.yaml: what is lost in between is found again.
        if changes:
            resuming.write_changes(output.path, changes)
        output.create(config, train_data.label_map)
        patience = EarlyStopping(
            # Of the run's folder, which not every process writes to.
            config.training.patience,
            directory.path / "metrics.csv",
            int(progress.epochs_done),
            resuming.measured_since(changes).epoch,
        )
        print(summary.describe(model, config, train_data, val_data, steps, directory.path))
        print(memory.describe(model, config))
        fitting = TrainingLoop(
            config, model, train_data, val_data, steps, progress, output, patience
        )
        return fitting.finish()


def _changes(
    directory: RunDirectory,
    stored: Config,
    config: Config,
    progress: tf.train.Checkpoint,
    num_images: int,
) -> list[resuming.Change]:
    """All changes of settings in a run; those of this call are printed and take effect."""
    changes = resuming.read_changes(directory.path)
    settings = resuming.changed(stored, config)
    step = int(progress.optimizer.iterations.numpy())
    if settings and step:
        change = resuming.Change(int(progress.epochs_done), step, settings)
        changes.append(change)
        before, after = (_learning_rate(each, num_images, step) for each in (stored, config))
        best_ap = float(progress.best_ap)
        for line in resuming.describe(
            change, (before, after), best_ap, config.training.patience > 0
        ):
            print(line)
    # Not only by the call that changed it: that one may have ended before its first checkpoint.
    if step <= resuming.measured_since(changes).step:
        progress.best_ap.assign(-1.0)
    return changes


def _learning_rate(config: Config, num_images: int, step: int) -> float:
    """The learning rate after so many steps, by a config."""
    steps = steps_per_epoch(config, num_images)
    training = config.training
    rates = optimizers.learning_rates(
        config.optimizer, steps * training.epochs, steps, training.batch_size
    )
    return float(rates(step))


def load_data(config: Config) -> tuple[DetectionData, DetectionData]:
    """The training and the validation set; images that are in both are warned of.

    Raises:
      DataError: when one cannot be used or has no object, or their classes differ.
    """
    config = parts.resolve(config)
    data = config.data
    train_data, val_data = parts.load_split(config, "train"), parts.load_split(config, "val")
    if train_data.label_map != val_data.label_map:
        raise DataError(
            f"{data.val}: its classes are not those of {data.train}; "
            "both need the same ids and names in the same order"
        )
    parts.require_objects(train_data)
    parts.require_objects(val_data)
    warn_of_shared_images(train_data, val_data)
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
        model = EfficientDet.create(config)
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
        DetectionLoss.from_config(config),
        weight_decay=optimizers.loss_decay(settings),
        clip_norm=settings.clip_norm,
        ema_decay=settings.ema_decay,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
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
