"""Distribution strategies by name, and the roles of processes."""

import contextlib
import functools
import json
import os
import socket
import tempfile
import urllib.parse
from collections.abc import Iterator

import tensorflow as tf

from efficientdet_tf.config import ConfigError
from efficientdet_tf.run_directory import RunDirectory

_TPU_TIMEOUT_SECONDS = 60


def create(name: str, tpu: str = "") -> tf.distribute.Strategy:
    """Create the distribution strategy `name`.

    With "multi_worker" this waits for all workers, and must be called before any other
    use of TensorFlow.

    Args:
      name: "cpu" and "gpu" are one device; "mirrored" all GPUs of this machine, or all
        its logical CPUs without a GPU; "multi_worker" the machines of TF_CONFIG; "tpu" a
        TPU; "auto" is "tpu" if one is named, else "multi_worker" with a TF_CONFIG of
        several workers, else "mirrored" with several GPUs, else the one GPU, else the CPU.
      tpu: name or grpc:// address of the TPU; "" is that of the environment.

    Raises:
      ConfigError: when the devices are unavailable.
    """
    if name == "auto" and tpu:
        name = "tpu"
    if name == "auto" and num_workers() > 1:
        name = "multi_worker"
    if name == "multi_worker":
        if not os.environ.get("TF_CONFIG"):
            raise ConfigError(
                "training.strategy: multi_worker, but TF_CONFIG is not set; set it on each "
                "machine, or use auto"
            )
        return _multi_worker()
    if name == "tpu":
        return _tpu(tpu)
    gpus = tf.config.list_logical_devices("GPU")
    if name == "auto":
        name = "mirrored" if len(gpus) > 1 else "gpu" if gpus else "cpu"
    if name == "gpu" and not gpus:
        raise ConfigError("training.strategy: gpu, but TensorFlow sees none; use cpu or auto")
    if name == "mirrored":
        devices = gpus or tf.config.list_logical_devices("CPU")
        return _mirrored(tuple(device.name for device in devices))
    return tf.distribute.OneDeviceStrategy("/gpu:0" if name == "gpu" else "/cpu:0")


def check_batch(
    devices: tf.distribute.Strategy, batch_size: int, gradient_accumulation_steps: int
) -> None:
    """Check that a batch can be divided evenly among devices and micro-batches.

    Raises:
      ConfigError: when it cannot.
    """
    replicas = devices.num_replicas_in_sync
    if batch_size % (replicas * gradient_accumulation_steps):
        parts = (
            f" in {gradient_accumulation_steps} micro-batches each"
            if gradient_accumulation_steps > 1
            else ""
        )
        raise ConfigError(
            f"training.batch_size: {batch_size} cannot be shared out among {replicas} "
            f"device{'s' if replicas > 1 else ''}{parts}; "
            f"choose a multiple of {replicas * gradient_accumulation_steps}"
        )


@contextlib.contextmanager
def writable(directory: RunDirectory, devices: tf.distribute.Strategy) -> Iterator[RunDirectory]:
    """Yield the directory this process writes to: the run directory for the chief only.

    The others have to write as well, because reading variables takes all processes; they
    write to a temporary folder.
    """
    if is_chief(devices):
        yield directory
        return
    with tempfile.TemporaryDirectory() as path:
        yield RunDirectory(path)


def has_peers(devices: tf.distribute.Strategy) -> bool:
    """Whether other processes take part in the training."""
    return isinstance(devices, tf.distribute.MultiWorkerMirroredStrategy) and num_workers() > 1


def is_chief(devices: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes files."""
    if not has_peers(devices):
        return True
    resolver = devices.cluster_resolver
    if resolver.task_type == "worker":
        return resolver.task_id == 0 and "chief" not in resolver.cluster_spec().jobs
    return resolver.task_type in (None, "chief")


def num_workers() -> int:
    """Return the number of training processes in the environment variable TF_CONFIG; 1 without it.

    Raises:
      ConfigError: when it cannot be read.
    """
    try:
        cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
        return max(1, len(cluster.get("worker", [])) + len(cluster.get("chief", [])))
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"TF_CONFIG: cannot be read: {error}") from error


@functools.cache
def _mirrored(devices: tuple[str, ...]) -> tf.distribute.Strategy:
    """Return the one strategy of these devices.

    A second one in the process would number its sums over the devices from the start again, and
    TensorFlow takes those of equal numbers for the same, of the same shape.
    """
    return tf.distribute.MirroredStrategy(devices)


def _multi_worker() -> tf.distribute.Strategy:
    num_workers()
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except (KeyError, ValueError, RuntimeError, tf.errors.OpError) as error:
        raise ConfigError(f"training.strategy: multi_worker: {_reason(error)}") from error


def _tpu(name: str) -> tf.distribute.Strategy:
    print(f"training.strategy: tpu: connecting to {name or 'that of the environment'}", flush=True)
    try:
        _check_answer(name)
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(name or None)
    # OSError: a name is looked up at Google Cloud.
    except (ValueError, OSError, tf.errors.OpError) as error:
        raise ConfigError(
            f"training.strategy: tpu, but none can be reached: {_reason(error)}"
        ) from error
    return tf.distribute.TPUStrategy(resolver)


def _check_answer(name: str) -> None:
    """Check that something answers at a grpc:// address: TensorFlow would wait much longer.

    Raises:
      OSError: when there is none.
      ValueError: when the port is not a number.
    """
    address = urllib.parse.urlsplit(name)
    if address.scheme == "grpc" and address.hostname and address.port:
        host = address.hostname, address.port
        socket.create_connection(host, timeout=_TPU_TIMEOUT_SECONDS).close()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
