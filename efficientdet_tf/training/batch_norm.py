"""Momentum of BatchNorm in training."""

import tf_keras as keras


def set_momentum(model: keras.Model, momentum: float) -> None:
    """Set the momentum of all BatchNorm layers, before the first training step.

    Args:
      model: model of `efficientdet_tf.model.build`.
      momentum: share of the moving statistics that a step keeps, 0..1.
    """
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = momentum
