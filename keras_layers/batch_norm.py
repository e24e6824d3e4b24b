"""BatchNorm of all parts of the detector."""

import contextlib
import threading
from collections.abc import Iterator

import tensorflow as tf
import tf_keras as keras

# Each replica of a step is traced in its own thread.
_of_thread = threading.local()


@contextlib.contextmanager
def statistics_kept() -> Iterator[None]:
    """Freeze the moving statistics of `BatchNormalization` within a context.

    For a layer that is recomputed for the same batch.
    """
    before = getattr(_of_thread, "kept", False)
    _of_thread.kept = True
    try:
        yield
    finally:
        _of_thread.kept = before


@keras.utils.register_keras_serializable("efficientdet")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer that respects `statistics_kept`.

    It has the name of Keras' class: weights files name the layers of a list by their class.
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
    """Build a BatchNorm with the published momentum and epsilon.

    In the scope of a strategy with several replicas, its training statistics are those of
    the global batch, so that a step does not depend on the number of replicas; on one device
    it is the faster fused operation with the same result.

    Args:
      name: name of the layer.
      gamma_initializer: Keras initializer of the scale. Default "ones".
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return BatchNormalization(
        momentum=0.99,
        epsilon=1e-3,
        gamma_initializer=gamma_initializer,
        synchronized=replicas > 1,
        name=name,
    )
