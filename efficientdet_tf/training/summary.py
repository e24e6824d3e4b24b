"""What a training is about to do, for the terminal."""

import pathlib

import tf_keras as keras

from efficientdet_tf.config import Config, format_value, marked
from efficientdet_tf.config.declaration import DerivedFromData
from efficientdet_tf.data.records import DetectionData


def describe(
    model: keras.Model,
    config: Config,
    train_data: DetectionData,
    val_data: DetectionData,
    steps: int,
    folder: pathlib.Path,
) -> str:
    """A line for each part of a run, then the settings that are not the model's defaults.

    Args:
      model: of `training.train.compiled_model`.
      config: of the run, resolved.
      train_data, val_data: of `training.train.load_data`.
      steps: in an epoch.
      folder: the run directory.
    """
    training = config.training
    height, width = config.model.image_size
    devices = model.distribute_strategy.num_replicas_in_sync
    return "\n".join(
        [
            f"model: {config.model.name}, {height}x{width} pixels, {model.count_params():,} "
            f"parameters, {config.model.num_classes} classes",
            f"training data: {config.data.train}, {len(train_data):,} images",
            f"validation data: {config.data.val}, {len(val_data):,} images",
            f"training: {training.epochs} epochs of {steps:,} steps, batches of "
            f"{training.batch_size} images",
            f"devices: {devices} ({training.strategy}), {training.precision}",
            f"run directory: {folder}",
            f"settings that differ from the defaults of {config.model.name}:",
            *_differences(config),
        ]
    )


def _differences(config: Config) -> list[str]:
    derived = marked(DerivedFromData)
    defaults = Config.for_model(config.model.name)
    return [
        f"  {key} {format_value(value)} (default {format_value(default)})"
        for key, (value, default) in config.differences(defaults).items()
        if key not in derived
    ]
