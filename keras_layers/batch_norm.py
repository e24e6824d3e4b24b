"""BatchNorm as every part of the detector has it."""

import contextlib
import threading
from collections.abc import Iterator

import tensorflow as tf
import tf_keras as keras

# Replicas of a step are traced in threads of their own.
_of_thread = threading.local()


@contextlib.contextmanager
def statistics_kept() -> Iterator[None]:
    """A context in which training leaves the moving statistics of `BatchNormalization` as they are.

    For a layer that is computed a second time for the same batch.
    """
    before = getattr(_of_thread, "kept", False)
    _of_thread.kept = True
    try:
        yield
    finally:
        _of_thread.kept = before


@keras.utils.register_keras_serializable("efficientdet")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer, for which `statistics_kept` holds.

    Named as that is: weights files name the layers of a list by their class.
    """

    def _assign_moving_average(
        self, variable: tf.Variable, value: tf.Tensor, momentum: tf.Tensor, inputs_size: tf.Tensor
    ) -> None:
        if not getattr(_of_thread, "kept", False):
            super()._assign_moving_average(variable, value, momentum, inputs_size)

    def _assign_new_value(self, variable: tf.Variable, value: tf.Tensor) -> None:
        if not getattr(_of_thread, "kept", False):
            super()._assign_new_value(variable, value)


def batch_norm(name: str, gamma_initializer: str = "ones") -> BatchNormalization:
    """BatchNorm with the published momentum and epsilon.

    Made in the scope of a strategy with several replicas, its statistics in training are
    those of the global batch, so that a step does not depend on how many share it; on one
    device it is the faster fused operation, which computes the same.

    Args:
      name: of the layer.
      gamma_initializer: of the scale. Default "ones".
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return BatchNormalization(
        momentum=0.99,
        epsilon=1e-3,
        gamma_initializer=gamma_initializer,
        synchronized=replicas > 1,
        name=name,
    )
