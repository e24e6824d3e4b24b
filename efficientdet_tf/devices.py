"""GPUs, as this process may use them."""

import os


def request_memory_growth() -> None:
    """Ask TensorFlow, before it is imported, to take GPU memory as it needs it.

    By default it takes all of it, and an evaluation beside a training on one GPU fails. An
    environment variable TF_FORCE_GPU_ALLOW_GROWTH that is set wins.
    """
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


def let_memory_grow() -> int:
    """Make every GPU give its memory as it is needed, where TensorFlow has not used one yet.

    Call it before anything else that TensorFlow does.

    Returns:
      The number of GPUs that were set so. GPUs in use, and those divided into logical devices,
      stay as they are.
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
