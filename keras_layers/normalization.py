"""BatchNorm as every part of the detector has it."""

import tensorflow as tf
import tf_keras as keras


def batch_norm(name: str) -> keras.layers.BatchNormalization:
    """BatchNorm with the published momentum and epsilon.

    Made in the scope of a strategy with several replicas, its statistics in training are
    those of the global batch, so that a step does not depend on how many share it; on one
    device it is the faster fused operation, which computes the same.

    Args:
      name: of the layer.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return keras.layers.BatchNormalization(
        momentum=0.99, epsilon=1e-3, synchronized=replicas > 1, name=name
    )
