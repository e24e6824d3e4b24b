"""Learning-rate schedules: linear warm-up, then one of four decays."""

import math

import tensorflow as tf
import tf_keras as keras

# Where "stepwise" drops to a tenth, as fractions of the training: published as
# epochs 200 and 250 of 300.
_DROPS = (2 / 3, 5 / 6)
_POLYNOMIAL_POWER = 0.9


def _cosine(step: tf.Tensor, warmup_steps: tf.Tensor, total_steps: tf.Tensor) -> tf.Tensor:
    progress = (step - warmup_steps) / tf.maximum(total_steps - warmup_steps, 1.0)
    return 0.5 * (1.0 + tf.cos(math.pi * tf.clip_by_value(progress, 0.0, 1.0)))


def _cosine_reference(
    step: tf.Tensor, warmup_steps: tf.Tensor, total_steps: tf.Tensor
) -> tf.Tensor:
    # Not offset by the warm-up, although the period is shortened by it: zero
    # comes early, and the rate rises a little after.
    return 0.5 * (1.0 + tf.cos(math.pi * step / tf.maximum(total_steps - warmup_steps, 1.0)))


def _polynomial(step: tf.Tensor, warmup_steps: tf.Tensor, total_steps: tf.Tensor) -> tf.Tensor:
    return (1.0 - tf.clip_by_value(step / total_steps, 0.0, 1.0)) ** _POLYNOMIAL_POWER


def _stepwise(step: tf.Tensor, warmup_steps: tf.Tensor, total_steps: tf.Tensor) -> tf.Tensor:
    # As published: the step of a drop is rounded down.
    drops = tf.stack([tf.floor(total_steps * drop + 1e-3) for drop in _DROPS])
    return 0.1 ** tf.reduce_sum(tf.cast(step >= drops, tf.float32))


# Fraction of the peak at a step after the warm-up; all numbers are float32.
DECAYS = {
    "cosine": _cosine,
    "cosine_reference": _cosine_reference,
    "polynomial": _polynomial,
    "stepwise": _stepwise,
}


@keras.utils.register_keras_serializable("efficientdet")
class WarmupDecay(keras.optimizers.schedules.LearningRateSchedule):
    """A linear warm-up from `start` at step 0 to `peak` at `warmup_steps`, then a decay.

    Examples:
      schedule = WarmupDecay("cosine", peak=0.08, start=0.008, warmup_steps=100,
                             total_steps=1000)
      float(schedule(100))  # 0.08

    Args:
      decay: a key of `DECAYS`. "cosine" is zero at `total_steps` and falls half
        a period from the end of the warm-up to there; "cosine_reference",
        "polynomial" and "stepwise" are the published implementation's curves.
      peak: learning rate at the end of the warm-up.
      start: learning rate at step 0.
      warmup_steps: number of warm-up steps, may be 0.
      total_steps: number of training steps.

    Attributes:
      shift: added to each step; to be set before the schedule is traced. 0 at first.

    Raises:
      ValueError: for an unknown decay.
    """

    def __init__(
        self, decay: str, peak: float, start: float, warmup_steps: int, total_steps: int
    ) -> None:
        if decay not in DECAYS:
            raise ValueError(f"decay: {decay!r} is not one of {', '.join(DECAYS)}")
        self.decay = decay
        self.peak = peak
        self.start = start
        self.warmup_steps = warmup_steps
        self.total_steps = total_steps
        self.shift = 0

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """Return the learning rate of a step, float32 scalar; `step` counts from 0."""
        step = tf.cast(step + self.shift, tf.float32)
        warmup = tf.cast(self.warmup_steps, tf.float32)
        total = tf.cast(self.total_steps, tf.float32)
        rising = self.start + step / tf.maximum(warmup, 1.0) * (self.peak - self.start)
        falling = self.peak * DECAYS[self.decay](step, warmup, total)
        return tf.where(step < warmup, rising, falling)

    def get_config(self) -> dict:
        """Return the arguments of the constructor."""
        return {
            "decay": self.decay,
            "peak": self.peak,
            "start": self.start,
            "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps,
        }
