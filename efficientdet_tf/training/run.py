"""A training run from a config to a folder."""

import tf_keras as keras

from efficientdet_tf import data as data_lib
from efficientdet_tf import model as model_lib
from efficientdet_tf.checkpoints import registry
from efficientdet_tf.checkpoints.pretrained import load_pretrained
from efficientdet_tf.config import Config
from efficientdet_tf.data import pipeline
from efficientdet_tf.data.records import DataError, DetectionData
from efficientdet_tf.evaluation.result import EvaluationResult
from efficientdet_tf.evaluation.runner import Evaluation
from efficientdet_tf.losses import DetectionLoss
from efficientdet_tf.training import callbacks, optimizers, state, strategy
from efficientdet_tf.training.freezing import freeze
from efficientdet_tf.training.pictures import draw_training_batch
from efficientdet_tf.training.run_directory import RunDirectory


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
    devices = strategy.create(config.training.strategy)
    train_data, val_data = load_data(config)
    config = config.override({"model.num_classes": len(train_data.label_map)})
    directory.check(config, train_data.label_map)
    steps = steps_per_epoch(config, len(train_data))
    with devices.scope():
        model = compiled_model(config, steps)
        if pretrained:
            print(load_pretrained(model, config, pretrained))
        # Weights that do not fit leave no folder behind.
        directory.create(config, train_data.label_map)
        manager = state.restore(directory, model, config.training.keep_checkpoints)
    epochs_done = int(manager.checkpoint.epochs_done)
    if epochs_done >= config.training.epochs:
        print(f"{model_dir}: all {config.training.epochs} epochs are done")
        return None
    evaluation = Evaluation(model, val_data, config)
    coco = callbacks.CocoMetrics(
        evaluation.run, directory, config.training.eval_every, manager.checkpoint.best_ap
    )
    batches = pipeline.training_dataset(
        train_data,
        config,
        config.training.batch_size,
        # Another order than that of the epochs before.
        seed=config.training.seed + epochs_done,
    )
    draw_training_batch(
        next(iter(batches)),
        config,
        train_data.label_map,
        directory.pictures / "training_batch.png",
    )
    model.fit(
        batches,
        epochs=config.training.epochs,
        initial_epoch=epochs_done,
        steps_per_epoch=steps,
        verbose=0,
        callbacks=[
            callbacks.StopOnNaN(),
            coco,
            callbacks.MetricsFile(directory.path / "metrics.csv"),
            keras.callbacks.TensorBoard(str(directory.path / "tensorboard"), write_graph=False),
            callbacks.SaveState(manager),
            callbacks.ProgressBar(epochs_done * steps, config.training.epochs * steps),
        ],
    )
    return coco.result


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
    model = model_lib.build(config)
    freeze(model, config.model.freeze)
    model.compile(
        optimizers.build(
            config.optimizer,
            total_steps=steps * config.training.epochs,
            steps_per_epoch=steps,
            batch_size=config.training.batch_size,
        ),
        DetectionLoss.for_config(config),
        weight_decay=config.optimizer.weight_decay,
        clip_norm=config.optimizer.clip_norm,
        ema_decay=config.optimizer.ema_decay,
    )
    return model
