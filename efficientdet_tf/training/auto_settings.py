"""Settings that are `auto`: chosen when a run starts, and kept when it is resumed.

The learning rate is in `range_test`, as it needs the other settings and the anchors.
"""

from typing import Any

import tensorflow as tf

from efficientdet_tf.config import Config, auto_switch
from efficientdet_tf.data import input_size
from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.errors import UserError
from efficientdet_tf.training import memory_fit, run_length, strategy
from efficientdet_tf.training.compiling import steps_per_epoch


def keep(config: Config, stored: Config | None) -> Config:
    """Replace what is `auto` by the values of the run that is resumed.

    Args:
      config: config of the command.
      stored: config of the run; None for a new one.
    """
    if stored is None:
        return config
    kept: dict[str, Any] = {}
    if config.model.auto_image_size:
        kept |= _chosen("model.image_size", stored.model.image_size)
    if config.optimizer.auto_learning_rate:
        kept |= _chosen("optimizer.learning_rate", stored.optimizer.learning_rate)
    if config.training.auto_epochs:
        kept |= _chosen("training.epochs", stored.training.epochs)
    if config.training.auto_batch_size:
        asked, before = config.training, stored.training
        kept |= _chosen("training.batch_size", before.batch_size)
        # More may be asked for, to save more memory.
        kept["training.gradient_accumulation_steps"] = max(
            asked.gradient_accumulation_steps, before.gradient_accumulation_steps
        )
        kept["training.gradient_checkpointing"] = (
            asked.gradient_checkpointing or before.gradient_checkpointing
        )
    return config.override(kept)


def choose(config: Config, data: DetectionData, devices: tf.distribute.Strategy) -> Config:
    """Choose input size, batch and epochs of a new run if they are `auto`, and print why.

    Args:
      config: config.
      data: training set.
      devices: distribution strategy.

    Raises:
      UserError: if no batch fits into memory, no training image can be read, or several workers
        are to measure.
    """
    _check(config, devices)
    config, line = input_size.resolve(config, data.records)
    if line:
        print(line)
    if config.training.auto_batch_size:
        most = config.training.batch_size
        size = memory_fit.choose_batch_size(config, len(data), devices.num_replicas_in_sync)
        print(memory_fit.describe_batch_size(most, size, len(data)))
        config = config.override(_chosen("training.batch_size", size))
        fit = memory_fit.fit_memory(config, data, devices)
        print(fit)
        config = config.override(fit.saving.settings)
    if config.training.auto_epochs:
        # After the choice of the batch size, and thereby of the steps.
        config = _with_enough_epochs(config, len(data))
    return config


def _with_enough_epochs(config: Config, num_images: int) -> Config:
    steps, before = steps_per_epoch(config, num_images), config.training.epochs
    epochs = run_length.enough_epochs(before, steps)
    if epochs > before:
        print(f"epochs: {epochs} instead of {before}, which would be {before * steps:,} steps only")
    return config.override(_chosen("training.epochs", epochs))


def _chosen(key: str, value: Any) -> dict[str, Any]:
    """Return the overrides that set a value and keep that it is `auto`."""
    return {key: value, auto_switch(key): True}


def _check(config: Config, devices: tf.distribute.Strategy) -> None:
    """Check that what is `auto` can be measured.

    Raises:
      UserError: if it is to be measured by several workers.
    """
    measured = {
        "training.batch_size": config.training.auto_batch_size,
        "optimizer.learning_rate": config.optimizer.auto_learning_rate,
    }
    for key, is_auto in measured.items():
        if is_auto and strategy.has_peers(devices):
            raise UserError(
                f"{key}: auto, but several workers cannot measure together; give the value that "
                "is chosen on one machine"
            )
