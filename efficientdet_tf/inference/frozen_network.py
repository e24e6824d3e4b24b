"""Network whose weights are constants of its graph, which is folded."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
import tf_keras as keras
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from efficientdet_tf.inference import graph_folding


def freeze_network(model: keras.Model, image_size: tuple[int, int]) -> Callable:
    """Build a function with the current weights of a model as constants.

    BatchNorm is folded into convolutions, see `graph_folding`, and TensorFlow computes fusion
    weights once; with variables it must read both at every call.

    Args:
      model: model of `efficientdet_tf.model.build`.
      image_size: (height, width) of its input in pixels.

    Returns:
      Function like `model`, of images float32 [B, H, W, 3] and `training`, which must be False.
      It does not follow later changes of the weights.
    """
    signature = tf.TensorSpec([None, *image_size, 3])
    function = tf.function(lambda images: model(images, training=False), autograph=False)
    concrete = function.get_concrete_function(signature)
    # The outputs are a list, in the order of the names.
    names = sorted(concrete.structured_outputs)
    folded = _fold(convert_variables_to_constants_v2(concrete, lower_control_flow=False))

    def network(images: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        if training:
            raise ValueError("training: a frozen network cannot be trained")
        return dict(zip(names, folded(images), strict=True))

    return network


def _fold(frozen: Any) -> Callable:
    """Return the folded function of a frozen one, which is not kept with its weights."""
    [pixels], outputs = frozen.inputs, frozen.outputs
    # The input as well, in case that no output needs it.
    kept = [tensor.op.name for tensor in (pixels, *outputs)]
    graph = graph_folding.fold(frozen.graph.as_graph_def(), kept)
    input_name, names = pixels.name, [output.name for output in outputs]
    signature = tf.TensorSpec(pixels.shape, pixels.dtype)

    @tf.function(autograph=False)
    def network(images: tf.Tensor) -> list[tf.Tensor]:
        return tf.graph_util.import_graph_def(graph, {input_name: images}, names, name="")

    return network.get_concrete_function(signature)
