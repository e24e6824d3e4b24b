"""Batches that fit into memory, by the estimate and by a real step."""

import dataclasses
import gc
from collections.abc import Collection

import tensorflow as tf

from efficientdet_tf.config import Config
from efficientdet_tf.data.record_columns import training_records
from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.errors import UserError
from efficientdet_tf.training import memory
from efficientdet_tf.training.compiling import compiled_model, set_memory_saving
from efficientdet_tf.training.measured_memory import PeakMemory
from efficientdet_tf.training.trial_steps import TrialSteps

# A batch is halved until an epoch has as many steps, but not below as many images.
LEAST_STEPS, SMALLEST_BATCH = 20, 8
# Micro-batches are halved below as many images only after gradient checkpointing: statistics of
# BatchNorm of fewer are poor (https://arxiv.org/abs/1803.08494, figure 1).
NORM_IMAGES = 4
# Largest share of the free memory; an evaluation needs some, too.
SHARE = 0.9

_ACCUMULATION = "training.gradient_accumulation_steps"
_CHECKPOINTING = "training.gradient_checkpointing"


@dataclasses.dataclass(frozen=True)
class MemorySaving:
    """Way to compute a batch in less memory.

    Attributes:
      accumulation: number of micro-batches of a device's share of the batch.
      checkpointing: whether the backbone is recomputed in the backward pass.
    """

    accumulation: int
    checkpointing: bool

    @property
    def settings(self) -> dict[str, object]:
        """Overrides for `Config`."""
        return {_ACCUMULATION: self.accumulation, _CHECKPOINTING: self.checkpointing}

    def __str__(self) -> str:
        micro_batches = f" in {self.accumulation} micro-batches" * (self.accumulation > 1)
        return micro_batches + " with gradient checkpointing" * self.checkpointing


@dataclasses.dataclass(frozen=True)
class MemoryFit:
    """Batch that fits into memory.

    Attributes:
      batch_size: images of a step, over all devices.
      saving: how it is computed.
      estimated: bytes of a step, from its graph.
      measured: bytes of a real step.
      available: free bytes; None if unknown.
      without_saving: estimated bytes of the step as it was asked for.
      steps: steps of the model that was measured.
    """

    batch_size: int
    saving: MemorySaving
    estimated: int
    measured: int
    available: int | None
    without_saving: int
    steps: TrialSteps

    def __str__(self) -> str:
        """Describe the choice and its reason in one line."""
        line = f"memory: {memory.gigabytes(self.measured)} in a real step of {self.batch_size} "
        line += f"images{self.saving}, {memory.gigabytes(self.estimated)} estimated"
        if self.available:
            line += f", of {memory.gigabytes(self.available)}"
        if self.without_saving != self.estimated:
            line += f"; {memory.gigabytes(self.without_saving)} otherwise"
        return line


def choose_batch_size(config: Config, num_images: int, replicas: int) -> int:
    """Choose the batch size: that of the config, less for few images.

    Args:
      config: config with the largest batch size, for which its recipe is made.
      num_images: number of training images.
      replicas: number of devices, which share a batch.

    Returns:
      The batch size, halved while an epoch has fewer than 20 steps and 8 images are left.
    """
    size = config.training.batch_size
    parts = 2 * replicas * config.training.gradient_accumulation_steps
    while num_images // size < LEAST_STEPS and size >= 2 * SMALLEST_BATCH and size % parts == 0:
        size //= 2
    return size


def describe_batch_size(before: int, chosen: int, num_images: int) -> str:
    """Describe the choice of `choose_batch_size` in one line."""
    if chosen == before:
        return f"batch: {chosen} images"
    steps = max(1, num_images // chosen)
    return (
        f"batch: {chosen} images instead of {before}, which makes {steps} "
        f"step{'s' * (steps > 1)} of an epoch; the learning rate follows"
    )


def memory_savings(
    config: Config, replicas: int, given: Collection[str] = ()
) -> list[MemorySaving]:
    """List the ways to compute the batch of a config, from much memory and little time on.

    Args:
      config: config; its own gradient accumulation and checkpointing are the least.
      replicas: number of devices, which share the batch.
      given: keys of settings that stay as they are. Default none.

    Returns:
      Micro-batches down to 4 images, the same with gradient checkpointing, then smaller ones.
    """
    training = config.training
    share, least = training.batch_size // replicas, training.gradient_accumulation_steps
    numbers = [least]
    while _ACCUMULATION not in given and share % (2 * numbers[-1]) == 0:
        numbers.append(2 * numbers[-1])
    wide = [n for n in numbers if n == least or share // n >= NORM_IMAGES]
    is_fixed = training.gradient_checkpointing or _CHECKPOINTING in given
    modes = [training.gradient_checkpointing] if is_fixed else [False, True]
    found = [MemorySaving(n, mode) for mode in modes for n in wide]
    return found + [MemorySaving(n, modes[-1]) for n in numbers if n not in wide]


def fit_memory(
    config: Config,
    data: DetectionData,
    devices: tf.distribute.Strategy,
    given: Collection[str] = (),
) -> MemoryFit:
    """Find the first way to compute a batch that fits, by the estimate and by a real step.

    Args:
      config: config of the run.
      data: training set.
      devices: distribution strategy.
      given: keys of settings that stay as they are. Default none.

    Raises:
      UserError: if none fits; or no training image can be read.
    """
    gc.collect()
    cached, available = _cached(config, data, devices), memory.available(devices)
    peak = PeakMemory(devices)
    available = available and max(1, available - cached)
    most = SHARE * available if available else float("inf")
    with devices.scope():
        model = compiled_model(config, steps=1)
    shares, estimates = memory.num_shares(devices), []
    for saving in memory_savings(config, devices.num_replicas_in_sync, given):
        trial = config.override(saving.settings)
        set_memory_saving(model, trial)
        estimates.append(shares * memory.estimate(model, trial).total)
        if estimates[-1] > most:
            continue
        steps = TrialSteps(model, data, trial)
        measured = _measure(steps, peak, cached)
        if measured is not None and measured <= most:
            size = config.training.batch_size
            return MemoryFit(
                *(size, saving, estimates[-1], measured, available, estimates[0], steps)
            )
    raise UserError(
        f"memory: a step of {config.training.batch_size} images{saving} needs about "
        f"{memory.gigabytes(estimates[-1])}, and {memory.gigabytes(available or 0)} are "
        "available; use a smaller model.image_size or a smaller --model"
    )


def _cached(config: Config, data: DetectionData, devices: tf.distribute.Strategy) -> int:
    """Return the bytes of decoded images that are kept where the steps run."""
    is_beside = config.data.cache and memory.is_in_host(devices)
    return memory.decoded_size(training_records(data)) if is_beside else 0


def _measure(steps: TrialSteps, peak: PeakMemory, cached: int) -> int | None:
    """Return the peak of memory in a step without cached images; None if a GPU has too little."""
    peak.restart()
    try:
        steps.run()
    except tf.errors.ResourceExhaustedError:
        return None
    return max(0, peak.bytes() - cached)
