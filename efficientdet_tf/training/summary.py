"""Text summary of a training run, printed before it starts."""

import pathlib

import tf_keras as keras

from efficientdet_tf.config import Config, OptimizerConfig, format_value, marked
from efficientdet_tf.config.declaration import DerivedFromData
from efficientdet_tf.data import input_size
from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.evaluation.detection_limits import beyond_max_detections
from efficientdet_tf.training.optimizers import SGD
from efficientdet_tf.training.run_length import ENOUGH_STEPS, SMALL_DATA

# Best possible recall below which there is advice: that of COCO128 is 0.64 at 512 pixels. It is
# measured for up to as many images.
_LEAST_RECALL, _MOST_MEASURED = 0.5, 20_000


def describe(
    model: keras.Model,
    config: Config,
    train_data: DetectionData,
    val_data: DetectionData,
    steps: int,
    folder: pathlib.Path,
) -> str:
    """Describe a run line by line, then the settings that differ from the model's defaults.

    Args:
      model: model of `training.compiling.compiled_model`.
      config: resolved config of the run.
      train_data: training set.
      val_data: validation set.
      steps: number of steps in an epoch.
      folder: run directory.
    """
    training = config.training
    height, width = config.model.image_size
    devices = model.distribute_strategy.num_replicas_in_sync
    return "\n".join(
        [
            f"model: {config.model.name}, {height}x{width} pixels, {model.count_params():,} "
            f"parameters, {config.model.num_classes} classes",
            f"training data: {config.data.train}, {len(train_data):,} images",
            *_distillation(model, config, train_data),
            f"validation data: {config.data.val}, {len(val_data):,} images",
            *_beyond_limit(config, val_data),
            f"training: {training.epochs} epochs of {steps:,} steps, batches of "
            f"{training.batch_size} images",
            f"devices: {devices} ({training.strategy}), {training.precision}",
            f"run directory: {folder}",
            f"settings that differ from the defaults of {config.model.name}:",
            *_differences(config),
        ]
    )


def advise(config: Config, train_data: DetectionData, steps: int) -> list[str]:
    """Advise in lines on settings of a new run with which little is learned.

    Args:
      config: resolved config of the run.
      train_data: training set.
      steps: number of steps in an epoch.
    """
    lines, training = [], config.training
    total = training.epochs * steps
    is_short = config.optimizer.name in SGD and total < ENOUGH_STEPS
    is_published = config.optimizer == OptimizerConfig()
    if is_short or (is_published and len(train_data) <= SMALL_DATA):
        lines.append(
            f"advice: {len(train_data):,} images in {total:,} steps are few for "
            f"{config.optimizer.name}; they are learned better with --config=finetune or --hours"
        )
    if config.model.freeze and not training.pretrained:
        lines.append(
            "advice: model.freeze keeps random weights; start from trained ones with --pretrained"
        )
    height, width = config.model.image_size
    if len(train_data) <= _MOST_MEASURED:
        fit = input_size.measure(config, train_data.records, (height, width)).recall
        if fit < _LEAST_RECALL:
            lines.append(
                f"advice: anchors fit {fit:.0%} of the objects at {height}x{width} pixels; a "
                "larger input (--set model.image_size=auto) or --set anchors.auto=true covers more"
            )
    return lines


def _distillation(model: keras.Model, config: Config, train_data: DetectionData) -> list[str]:
    """Describe the unlabelled images and the teacher, if there are any."""
    if model.distillation is None:
        return []
    settings, lines = config.distillation, []
    if train_data.unlabeled is not None:
        lines.append(
            f"unlabelled images: {settings.unlabeled}, {len(train_data.unlabeled.records):,} "
            f"images, {100 * train_data.unlabeled.share:g} % of each batch"
        )
    teacher = model.distillation.teacher
    lines.append(f"teacher: {settings.teacher}, {teacher.count_params():,} parameters")
    return lines


def _beyond_limit(config: Config, val_data: DetectionData) -> list[str]:
    """Say that images have more objects than detections, if some do."""
    beyond = beyond_max_detections(val_data.records, config.detection.max_detections)
    return [f"limit: {beyond.remedy}"] if beyond else []


def _differences(config: Config) -> list[str]:
    derived = marked(DerivedFromData)
    defaults = Config.for_model(config.model.name)
    return [
        f"  {key} {format_value(value)} (default {format_value(default)})"
        for key, (value, default) in config.differences(defaults).items()
        if key not in derived
    ]
