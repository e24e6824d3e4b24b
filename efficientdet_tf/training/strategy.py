"""Which devices train, by name."""

import tensorflow as tf

from efficientdet_tf.config import ConfigError


def create(name: str) -> tf.distribute.Strategy:
    """The distribution strategy called `name`.

    Args:
      name: "cpu" and "gpu" are one device; "mirrored" all GPUs of this
        machine; "multi_worker" the machines named by TF_CONFIG; "tpu" the TPU
        of this environment; "auto" is "mirrored" with several GPUs, else the
        one GPU, else the CPU.

    Raises:
      ConfigError: when the devices are not there.
    """
    gpus = tf.config.list_logical_devices("GPU")
    if name == "auto":
        name = "mirrored" if len(gpus) > 1 else "gpu" if gpus else "cpu"
    if name == "gpu" and not gpus:
        raise ConfigError("training.strategy: gpu, but TensorFlow sees none; use cpu or auto")
    if name == "tpu":
        return _tpu()
    if name == "multi_worker":
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "mirrored":
        return tf.distribute.MirroredStrategy()
    return tf.distribute.OneDeviceStrategy("/gpu:0" if name == "gpu" else "/cpu:0")


def _tpu() -> tf.distribute.Strategy:
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
    except (ValueError, tf.errors.OpError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"training.strategy: tpu, but none can be reached: {reason}") from error
    return tf.distribute.TPUStrategy(resolver)
