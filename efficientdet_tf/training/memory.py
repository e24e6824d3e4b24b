"""How much memory a training will take, told before it starts.

On a CPU, with Lite0 at 320 pixels and D0 at 512 in batches of 1 to 8, it is within 5 % of
what a process really grew by in float32, and within 10 % with gradient checkpointing, in
parts or with bfloat16 (docs/results.md). Of a GPU's memory, which TensorFlow and cuDNN use
in their own ways, it is a first guess.
"""

import dataclasses
import os
import pathlib
from typing import Any

import tensorflow as tf
import tf_keras as keras

from efficientdet_tf import anchors
from efficientdet_tf.config import Config
from efficientdet_tf.training import optimizers, saved_tensors
from keras_layers.batch_norm import statistics_kept

# Of the traced and optimised step on a CPU, for each operation of its forward pass: measured
# with Lite0 (2529 of them) and D0 (3734).
_BYTES_OF_OPERATION = 250_000
# Batches between the input pipeline and the step: one in use, two made ahead.
_BATCHES = 3


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes that a training step takes on one device.

    Attributes:
      weights: of the network, and their moving average.
      optimizer: gradients, clipped gradients, and what the optimizer remembers.
      activations: what the forward pass keeps for the backward pass, and what is
        at work at the same time.
      batches: images and targets.
      program: the step itself, compiled; 0 on other devices than CPUs, which leave that to
        the machine.
    """

    weights: int
    optimizer: int
    activations: int
    batches: int
    program: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(dataclasses.astuple(self))


def describe(model: keras.Model, config: Config) -> str:
    """One line: what the training takes, and what there is; a warning where that is less.

    Args:
      model: of `training.train.compiled_model`.
      config: of the run.
    """
    needed, devices = estimate(model, config), _devices(model.distribute_strategy)
    there = _available(devices)
    # Several CPU devices share the memory of the machine; others have their own.
    shares = len(devices) if _are_cpus(devices) else 1
    total = shares * needed.total
    text = (
        f"memory: about {_gigabytes(total)} for batches of {config.training.batch_size} "
        f"(activations {_gigabytes(shares * needed.activations)}, "
        f"weights and optimizer {_gigabytes(shares * (needed.weights + needed.optimizer))}, "
        f"the rest {_gigabytes(shares * (needed.batches + needed.program))})"
    )
    if there is None:
        return text
    if total <= there:
        return f"{text}; {_gigabytes(there)} are available"
    return (
        f"warning: {text}, but {_gigabytes(there)} are available; less is needed with a smaller "
        "training.batch_size, training.gradient_accumulation_steps=2 or more, "
        "training.gradient_checkpointing=true or training.precision=mixed_bfloat16"
    )


def estimate(model: keras.Model, config: Config) -> Memory:
    """What one device's share of a training step takes.

    Args:
      model: of `training.train.compiled_model`.
      config: of the run.
    """
    training = config.training
    replicas = model.distribute_strategy.num_replicas_in_sync
    part = max(1, training.batch_size // replicas // training.gradient_accumulation_steps)
    specs = _batch_specs(config, part)
    trainable, weights = size_of(model.trainable_variables), size_of(model.variables)
    graph = _forward_graph(model, specs)
    # To compute in parts, the step is traced once more.
    operations = len(graph.get_operations()) * (
        1.3 if training.gradient_accumulation_steps > 1 else 1
    )
    kept = saved_tensors.kept_for_gradients(graph, graph.outputs[0], model.trainable_variables)
    on_cpu = _are_cpus(_devices(model.distribute_strategy))
    # The gradients; the same clipped; their sum so far.
    copies = 1 + bool(config.optimizer.clip_norm) + (training.gradient_accumulation_steps > 1)
    return Memory(
        weights=weights * (2 if config.optimizer.ema_decay else 1),
        optimizer=trainable * (copies + _slots(config)),
        # At some time one part is computed again, or the gradient of the largest is made.
        activations=size_of(kept.tensors)
        + max(size_of(part) for part in ([], *kept.recomputed, *([x] for x in kept.tensors))),
        batches=_BATCHES * training.gradient_accumulation_steps * size_of(tf.nest.flatten(specs)),
        program=int(_BYTES_OF_OPERATION * operations) if on_cpu else 0,
    )


def _forward_graph(model: keras.Model, specs: tuple) -> tf.Graph:
    def forward(images: tf.Tensor, targets: dict[str, tf.Tensor]) -> tf.Tensor:
        # Traced outside of a step, where the statistics have nothing to follow.
        with statistics_kept():
            outputs = model(images, training=True)
        losses = model.detection_loss(targets, outputs, normalizer=tf.constant(1.0))
        return losses["detection_loss"]

    return tf.function(forward, autograph=False).get_concrete_function(*specs).graph


def _batch_specs(config: Config, batch_size: int) -> tuple:
    """What a training batch is, as in `data.pipeline.training_dataset`."""
    images = tf.TensorSpec((batch_size, *config.model.image_size, 3), tf.float32)
    num_anchors = len(anchors.from_config(config))
    targets = {
        "class_targets": tf.TensorSpec((batch_size, num_anchors), tf.int32),
        "box_targets": tf.TensorSpec((batch_size, num_anchors, 4), tf.float32),
        "num_positives": tf.TensorSpec([batch_size], tf.float32),
    }
    return images, targets


def _slots(config: Config) -> int:
    """Variables that the optimizer has for each one it trains."""
    optimizer = optimizers.build(config.optimizer, total_steps=1, steps_per_epoch=1, batch_size=1)
    trained = tf.Variable(tf.zeros([3]))
    optimizer.build([trained])
    return sum(variable.shape == trained.shape for variable in optimizer.variables)


def size_of(tensors: Any) -> int:
    """Size of tensors, variables or specs; unknown shapes are those of empty workspaces."""
    return sum((x.shape.num_elements() or 0) * x.dtype.size for x in tensors)


def _devices(strategy: tf.distribute.Strategy) -> tuple[str, ...]:
    """Names of the devices of this machine that train."""
    try:
        return strategy.extended.worker_devices
    except RuntimeError:
        # The default strategy: it does not tell, and takes the first one.
        (device, *_) = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices()
        return (device.name,)


def _are_cpus(devices: tuple[str, ...]) -> bool:
    return all("cpu" in device.lower() for device in devices)


def _available(devices: tuple[str, ...]) -> int | None:
    """Bytes there are for training, None if unknown.

    Of a GPU what TensorFlow may take of it; else what this machine, or the container
    that the process runs in, has free.
    """
    if any("gpu" in device.lower() for device in devices):
        return _gpu_memory()
    if not _are_cpus(devices):
        return None
    return min((size for size in (_machine_memory(), _container_memory()) if size), default=None)


def _gpu_memory() -> int | None:
    # Nothing public tells it.
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
        # No limit is the word "max".
        return None


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
