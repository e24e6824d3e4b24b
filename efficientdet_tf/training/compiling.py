"""Compiled model of a run, and its steps."""

import contextlib
import math
from collections.abc import Iterator

import tf_keras as keras

from efficientdet_tf.config import Config
from efficientdet_tf.losses import DetectionLoss
from efficientdet_tf.training import optimizers
from efficientdet_tf.training.batch_norm import set_momentum
from efficientdet_tf.training.detection_model import EfficientDet
from efficientdet_tf.training.distillation import Distillation
from efficientdet_tf.training.freezing import freeze


def steps_per_epoch(config: Config, num_images: int) -> int:
    """Return the steps in an epoch: as configured, or one pass rounded down, at least 1.

    Args:
      config: config of the run.
      num_images: number of training images, without unlabelled ones, which fill a share of each
        batch.
    """
    labeled = 1.0 - config.distillation.unlabeled_share if config.distillation.unlabeled else 1.0
    num_steps = math.floor(num_images / (labeled * config.training.batch_size) + 1e-9)
    return config.training.steps_per_epoch or max(1, num_steps)


def compiled_model(
    config: Config,
    steps: int,
    schedule: keras.optimizers.schedules.LearningRateSchedule | None = None,
) -> EfficientDet:
    """Build and compile the network of a config for `fit`.

    Args:
      config: config of the run.
      steps: number of steps in an epoch.
      schedule: learning rate by step; None is the schedule of the config. Default None.

    Raises:
      UserError: when the teacher of a distillation cannot be used.
    """
    training, settings = config.training, config.optimizer
    with _precision(training.precision):
        model = EfficientDet.create(config)
        distillation = Distillation.from_config(config)
    model.get_layer("backbone").recompute = training.gradient_checkpointing
    freeze(model, config.model.freeze)
    set_momentum(model, training.batch_norm_momentum)
    if schedule is None:
        schedule = optimizers.learning_rates(
            settings, steps * training.epochs, steps, training.batch_size
        )
    optimizer = optimizers.build_with_schedule(settings, schedule)
    if training.precision == "mixed_float16":
        # Small gradients would underflow in float16.
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    model.compile(
        optimizer,
        DetectionLoss.from_config(config),
        weight_decay=optimizers.loss_decay(settings),
        clip_norm=settings.clip_norm,
        ema_decay=settings.ema_decay,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        seed=training.seed,
        distillation=distillation,
        jit_compile=training.xla,
    )
    return model


def set_memory_saving(model: EfficientDet, config: Config) -> None:
    """Give a compiled model the gradient accumulation and checkpointing of another config.

    Its training step is traced again.
    """
    model.get_layer("backbone").recompute = config.training.gradient_checkpointing
    model.gradient_accumulation_steps = config.training.gradient_accumulation_steps
    model.train_function = None


@contextlib.contextmanager
def _precision(policy: str) -> Iterator[None]:
    """Set the Keras precision policy of layers created in this context."""
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)
