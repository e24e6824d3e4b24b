"""Learning-rate range test: where the loss falls, and where it diverges.

Smith, "Cyclical Learning Rates for Training Neural Networks", https://arxiv.org/abs/1506.01186,
section 3.3, with a learning rate that grows exponentially.
"""

import dataclasses
import math
import sys
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tqdm import tqdm

from efficientdet_tf.checkpoints.pretrained import load_pretrained
from efficientdet_tf.config import Config, auto_switch
from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.run_directory import RunDirectory
from efficientdet_tf.training import optimizers
from efficientdet_tf.training.compiling import compiled_model
from efficientdet_tf.training.detection_model import EfficientDet
from efficientdet_tf.training.trial_steps import TrialSteps
from efficientdet_tf.visualization.range_test_chart import draw_range_test

STEPS = 100
# First and last learning rate of a step. Steps of SGD are proportional to the gradients, those of
# other optimizers are not.
RANGES = dict.fromkeys(optimizers.SGD, (1e-5, 10.0))
RANGE = (1e-6, 1.0)
# The chosen rate is this share of the one with the lowest loss, where the loss is about to rise: a
# tenth is common since fastai's `lr_find`. With Adam, half of it was near the rates of whole
# trainings that were good, and a tenth far below them; see docs/results.md.
SHARES = dict.fromkeys(optimizers.SGD, 0.1)
SHARE = 0.5
# Diverged: the loss is this multiple of the lowest one so far, both averaged over a few steps.
DIVERGED, _DECAY = 2.0, 0.8
# Least fall of the loss by which a rate can be chosen.
_LEAST_FALL = 0.05
# Steps that are run at least, unless the loss becomes NaN or infinite, and the standard deviation
# of the smoothing in steps.
_FEWEST, _SMOOTHING = 20, 3.0


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """Losses of a range test, up to the divergence.

    Attributes:
      rates: learning rate of each step, float64 [n], ascending.
      losses: `detection_loss` before each step, float64 [n].
    """

    rates: np.ndarray
    losses: np.ndarray

    @property
    def smoothed(self) -> np.ndarray:
        """Losses smoothed by a Gaussian of 3 steps, as geometric means, float64 [n]."""
        steps = np.arange(len(self.losses))
        weights = np.exp(-0.5 * ((steps[:, None] - steps) / _SMOOTHING) ** 2)
        return np.exp(weights @ np.log(np.maximum(self.losses, 1e-12)) / weights.sum(axis=1))

    @property
    def lowest(self) -> float | None:
        """Learning rate of the lowest smoothed loss; None if the loss has not fallen by 5 %."""
        if len(self.losses) < _FEWEST:
            return None
        smoothed = self.smoothed
        at = int(smoothed.argmin())
        return float(self.rates[at]) if smoothed[at] <= (1 - _LEAST_FALL) * smoothed[0] else None


@keras.utils.register_keras_serializable("efficientdet")
class ExponentialGrowth(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate that grows exponentially.

    Args:
      first: learning rate at step 0, positive.
      last: learning rate at step `steps - 1`.
      steps: number of steps, 2 or more.
    """

    def __init__(self, first: float, last: float, steps: int) -> None:
        self.first = first
        self.last = last
        self.steps = steps

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Return the learning rate of a step, float32 scalar; `step` counts from 0."""
        progress = tf.cast(step, tf.float32) / (self.steps - 1)
        return self.first * (self.last / self.first) ** progress

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return {"first": self.first, "last": self.last, "steps": self.steps}


def run_range_test(
    model: EfficientDet, data: DetectionData, config: Config, schedule: ExponentialGrowth
) -> RangeTest:
    """Train with a growing learning rate until the loss diverges; then restore the weights.

    Args:
      model: model compiled with `schedule`, of which no step was run; it keeps its weights, bit
        for bit, and not the state of its optimizer.
      data: training set.
      config: config of the model.
      schedule: learning rate by step.

    Returns:
      The losses.

    Raises:
      DataError: if no training image can be read.
    """
    before = model.get_weights()
    steps, losses = TrialSteps(model, data, config), list[float]()
    average, lowest = 0.0, math.inf
    try:
        for number in _with_progress(range(schedule.steps)):
            loss = steps.run()
            if not math.isfinite(loss):
                break
            losses.append(loss)
            average = _DECAY * average + (1 - _DECAY) * loss
            # The average starts at zero, which this corrects.
            mean = average / (1 - _DECAY ** (number + 1))
            lowest = min(lowest, mean)
            if number >= _FEWEST and mean > DIVERGED * lowest:
                break
    finally:
        model.set_weights(before)
    growth = schedule.last / schedule.first
    rates = schedule.first * growth ** (np.arange(len(losses)) / (schedule.steps - 1))
    return RangeTest(rates, np.array(losses))


def _with_progress(steps: range) -> Iterable[int]:
    # Frequent updates would bloat a log file.
    interval = 0.5 if sys.stderr.isatty() else 30
    return tqdm(steps, "range test", unit="step", leave=False, mininterval=interval)


def choose_learning_rate(
    config: Config, data: DetectionData, devices: tf.distribute.Strategy, directory: RunDirectory
) -> Config:
    """Choose the learning rate by a range test if it is `auto`; print why, and draw the test.

    Args:
      config: config of a new run; without `optimizer.auto_learning_rate` it is returned as it is.
      data: training set.
      devices: distribution strategy.
      directory: run directory, where `training_images/learning_rate.png` is written.

    Returns:
      The config, with another `optimizer.learning_rate` if the loss fell in the test.

    Raises:
      UserError: if `training.pretrained` does not fit, no training image can be read, or the run
        directory cannot be written to.
    """
    if not config.optimizer.auto_learning_rate:
        return config
    test, share = _test(config, data, devices), SHARES.get(config.optimizer.name, SHARE)
    chosen = None if test.lowest is None else share * test.lowest
    directory.make()
    if len(test.losses):
        draw_range_test(
            *(test.rates, test.losses, test.smoothed, chosen),
            directory.training_images / "learning_rate.png",
        )
    given, reference = config.optimizer.learning_rate, config.optimizer.reference_batch_size
    if chosen is None:
        print(
            f"learning rate: {given:g} at {reference} images, kept; the loss did not fall in the "
            f"{len(test.losses)} steps of a range test"
        )
        return config
    factor = optimizers.batch_factor(config.optimizer, config.training.batch_size)
    rate = float(f"{chosen / factor:.2g}")
    print(
        f"learning rate: {rate:g} at {reference} images instead of {given:g}, {share:g} of the "
        f"rate of the lowest loss in the {len(test.losses)} steps of a range test"
    )
    key = "optimizer.learning_rate"
    return config.override({key: rate, auto_switch(key): True})


def _test(config: Config, data: DetectionData, devices: tf.distribute.Strategy) -> RangeTest:
    """Run the range test of a config with a model of its own."""
    first, last = RANGES.get(config.optimizer.name, RANGE)
    schedule = ExponentialGrowth(first, last, STEPS)
    # Neither a moving average nor all images in memory are needed for so few steps.
    config = config.override({"optimizer.ema_decay": 0, "data.cache": False})
    with devices.scope():
        model = compiled_model(config, 1, schedule)
        if config.training.pretrained:
            load_pretrained(model, config, config.training.pretrained)
    return run_range_test(model, data, config, schedule)
