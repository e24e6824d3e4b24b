"""Processor cores and GPU memory of this process."""

import os


def num_cores() -> int:
    """Return the number of processor cores that this process may use.

    On a shared machine, batch systems and containers give it some of them; with a thread for each
    core of the machine, ONNX Runtime took six times as long.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def request_memory_growth() -> None:
    """Request GPU memory growth before TensorFlow is imported.

    By default TensorFlow allocates all GPU memory, and an evaluation beside a training on the
    same GPU fails. An existing environment variable TF_FORCE_GPU_ALLOW_GROWTH is respected.
    """
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


def let_memory_grow() -> int:
    """Enable memory growth on every GPU that TensorFlow does not use yet.

    Call it before any other use of TensorFlow.

    Returns:
      Number of GPUs changed. GPUs in use or divided into logical devices are unchanged.
    """
    import tensorflow as tf

    count = 0
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except (RuntimeError, ValueError):
            continue
        count += 1
    return count
