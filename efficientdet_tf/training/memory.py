"""Memory of a training run, estimated before training.

On a CPU, with Lite0 at 320 pixels and D0 at 512 in batches of 1 to 8, the estimate is within
5 % of the measured growth of the process in float32, and within 10 % with gradient
checkpointing, gradient accumulation or bfloat16 (docs/results.md). For GPUs, whose memory
TensorFlow and cuDNN manage differently, it is a rough guess.
"""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from efficientdet_tf import anchors
from efficientdet_tf.config import Config
from efficientdet_tf.data.record_columns import RecordColumns
from efficientdet_tf.data.records import Record
from efficientdet_tf.training import optimizers, saved_tensors
from keras_layers.batch_norm import statistics_kept

# Memory of the traced and optimised step on a CPU per operation of its forward pass: measured
# with Lite0 (2529 operations) and D0 (3734).
_BYTES_OF_OPERATION = 250_000
# Batches between the input pipeline and the step: one in use, two prefetched.
_BATCHES = 3
# Decoded images may take this share of the free memory.
CACHE_SHARE = 0.25


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes that a training step takes on one device.

    Attributes:
      weights: network weights and their moving average, and the teacher's weights.
      optimizer: gradients, clipped gradients and optimizer slots.
      activations: tensors saved for the backward pass, and the largest temporary
        ones in use at the same time.
      batches: images and targets.
      program: the compiled step; 0 unless the device is a CPU, as it is then in host
        memory.
    """

    weights: int
    optimizer: int
    activations: int
    batches: int
    program: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(dataclasses.astuple(self))


def describe(model: keras.Model, config: Config) -> str:
    """Describe needed and available memory in one line; warn if it does not suffice.

    Args:
      model: model of `training.compiling.compiled_model`.
      config: config of the run.
    """
    needed, shares = estimate(model, config), num_shares(model.distribute_strategy)
    left = available(model.distribute_strategy)
    total = shares * needed.total
    text = (
        f"memory: about {gigabytes(total)} for batches of {config.training.batch_size} "
        f"(activations {gigabytes(shares * needed.activations)}, "
        f"weights and optimizer {gigabytes(shares * (needed.weights + needed.optimizer))}, "
        f"the rest {gigabytes(shares * (needed.batches + needed.program))})"
    )
    if left is None:
        return text
    if total <= left:
        return f"{text}; {gigabytes(left)} are available"
    return (
        f"warning: {text}, but {gigabytes(left)} are available; use a smaller "
        "training.batch_size, training.gradient_accumulation_steps=2 or more, "
        "training.gradient_checkpointing=true or training.precision=mixed_bfloat16"
    )


def estimate(model: keras.Model, config: Config) -> Memory:
    """Estimate the memory of one device's share of a training step.

    Args:
      model: model of `training.compiling.compiled_model`.
      config: config of the run.
    """
    training = config.training
    replicas = model.distribute_strategy.num_replicas_in_sync
    micro_batch = max(1, training.batch_size // replicas // training.gradient_accumulation_steps)
    specs = _batch_specs(config, micro_batch)
    trainable, weights = size_of(model.trainable_variables), size_of(model.variables)
    teacher = size_of(model.distillation.teacher.variables) if model.distillation else 0
    graph = _forward_graph(model, specs)
    # Gradient accumulation traces the step once more.
    operations = len(graph.get_operations()) * (
        1.3 if training.gradient_accumulation_steps > 1 else 1
    )
    saved = saved_tensors.find_saved_tensors(graph, graph.outputs[0], model.trainable_variables)
    on_cpu = _are_cpus(device_names(model.distribute_strategy))
    # Gradients, clipped gradients, accumulated gradients.
    copies = 1 + bool(config.optimizer.clip_norm) + (training.gradient_accumulation_steps > 1)
    return Memory(
        weights=weights * (2 if config.optimizer.ema_decay else 1) + teacher,
        optimizer=trainable * (copies + _slots(config)),
        # At its peak a part is recomputed, or the gradient of the largest tensor computed.
        activations=size_of(saved.tensors)
        + max(size_of(part) for part in ([], *saved.recomputed, *([x] for x in saved.tensors))),
        batches=_BATCHES * training.gradient_accumulation_steps * size_of(tf.nest.flatten(specs)),
        program=int(_BYTES_OF_OPERATION * operations) if on_cpu else 0,
    )


def _forward_graph(model: keras.Model, specs: tuple) -> tf.Graph:
    def forward(images: tf.Tensor, targets: dict[str, tf.Tensor]) -> tf.Tensor:
        # Traced outside of a training step, so BatchNorm statistics must not be updated.
        with statistics_kept():
            outputs = model(images, training=True)
        losses = model.detection_loss(targets, outputs, normalizer=tf.constant(1.0))
        if model.distillation is None:
            return losses["detection_loss"]
        return losses["detection_loss"] + model.distillation(images, outputs)

    return tf.function(forward, autograph=False).get_concrete_function(*specs).graph


def _batch_specs(config: Config, batch_size: int) -> tuple:
    """Return the tensor specs of a batch of `data.pipeline.training_dataset`."""
    images = tf.TensorSpec((batch_size, *config.model.image_size, 3), tf.float32)
    num_anchors = len(anchors.from_config(config))
    targets = {
        "class_targets": tf.TensorSpec((batch_size, num_anchors), tf.int32),
        "box_targets": tf.TensorSpec((batch_size, num_anchors, 4), tf.float32),
        "num_positives": tf.TensorSpec([batch_size], tf.float32),
    }
    return images, targets


def _slots(config: Config) -> int:
    """Return the number of optimizer slots for each trained variable."""
    optimizer = optimizers.build(config.optimizer, total_steps=1, steps_per_epoch=1, batch_size=1)
    trained = tf.Variable(tf.zeros([3]))
    optimizer.build([trained])
    return sum(variable.shape == trained.shape for variable in optimizer.variables)


def size_of(tensors: Any) -> int:
    """Return the bytes of tensors, variables or specs; unknown shapes are empty workspaces."""
    return sum((x.shape.num_elements() or 0) * x.dtype.size for x in tensors)


def device_names(strategy: tf.distribute.Strategy) -> tuple[str, ...]:
    """Return the names of the training devices of this machine."""
    try:
        return strategy.extended.worker_devices
    except RuntimeError:
        # The default strategy does not list its devices; it uses the first one.
        (device, *_) = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices()
        return (device.name,)


def _are_cpus(devices: tuple[str, ...]) -> bool:
    return all("cpu" in device.lower() for device in devices)


def num_shares(strategy: tf.distribute.Strategy) -> int:
    """Return the number of devices that share one memory: CPU devices that of the machine."""
    devices = device_names(strategy)
    return len(devices) if _are_cpus(devices) else 1


def available(strategy: tf.distribute.Strategy) -> int | None:
    """Return the bytes available for training, None if unknown.

    For a GPU the memory limit of TensorFlow; else the free memory of this machine or of
    the container of the process.
    """
    devices = device_names(strategy)
    if any("gpu" in device.lower() for device in devices):
        return _gpu_memory()
    if not _are_cpus(devices):
        return None
    return free_memory()


def decoded_size(records: Sequence[Record]) -> int:
    """Return the bytes of all decoded images, as `data.cache` keeps them."""
    return int(3 * RecordColumns.build(records).sizes.astype(np.int64).prod(axis=1).sum())


def is_in_host(strategy: tf.distribute.Strategy) -> bool:
    """Whether a training step is in the memory of the machine, as decoded images are."""
    return _are_cpus(device_names(strategy))


def free_memory() -> int | None:
    """Return the free memory of this machine or of the process's container in bytes, if known."""
    return min((size for size in (_machine_memory(), _container_memory()) if size), default=None)


def _gpu_memory() -> int | None:
    # There is no public API for it.
    from tensorflow.python.client import device_lib

    limits = [d.memory_limit for d in device_lib.list_local_devices() if d.device_type == "GPU"]
    return min(limits, default=None)


def _machine_memory() -> int | None:
    try:
        for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def _container_memory() -> int | None:
    folder = pathlib.Path("/sys/fs/cgroup")
    try:
        limit = int((folder / "memory.max").read_text())
        return max(0, limit - int((folder / "memory.current").read_text()))
    except (OSError, ValueError):
        # "max" means no limit.
        return None


def gigabytes(size: int) -> str:
    """Format a number of bytes."""
    return f"{size / 1e9:.1f} GB"
