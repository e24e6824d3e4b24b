"""Network whose weights are constants of its graph, which TensorFlow can then fold."""

from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2


def freeze_network(model: keras.Model, image_size: tuple[int, int]) -> Callable:
    """Build a function with the current weights of a model as constants.

    TensorFlow folds BatchNorm into convolutions, and computes fusion weights once; with
    variables it must read both at every call.

    Args:
      model: model of `efficientdet_tf.model.build`.
      image_size: (height, width) of its input in pixels.

    Returns:
      Function like `model`, of images float32 [B, H, W, 3] and `training`, which must be False.
      It does not follow later changes of the weights.
    """
    function = tf.function(lambda images: model(images, training=False), autograph=False)
    concrete = function.get_concrete_function(tf.TensorSpec([None, *image_size, 3]))
    # Its outputs are a list, in the order of the names.
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    names = sorted(concrete.structured_outputs)

    def network(images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        if training:
            raise ValueError("training: a frozen network cannot be trained")
        return dict(zip(names, frozen(images), strict=True))

    return network
