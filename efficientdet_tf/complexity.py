"""Parameters and multiply-adds of a model."""

import tensorflow as tf
import tf_keras as keras


def count_parameters(model: keras.Model) -> dict[str, int]:
    """`trainable`, and `non_trainable` ones: the moving statistics of BatchNorm."""
    return {
        "trainable": sum(weight.shape.num_elements() for weight in model.trainable_weights),
        "non_trainable": sum(weight.shape.num_elements() for weight in model.non_trainable_weights),
    }


def count_multiply_adds(model: keras.Model) -> int:
    """Multiply-adds of one image: convolutions and matrix products only.

    Args:
      model: with a static input size.
    """
    spec = tf.TensorSpec((1, *model.input_shape[1:]), model.input.dtype)
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec).graph
    return sum(_operation_cost(operation) for operation in graph.get_operations())


def _operation_cost(operation: tf.Operation) -> int:
    if operation.type == "Conv2D":
        height, width, inputs, _ = operation.inputs[1].shape
        return operation.outputs[0].shape.num_elements() * height * width * inputs
    if operation.type == "DepthwiseConv2dNative":
        height, width = operation.inputs[1].shape[:2]
        return operation.outputs[0].shape.num_elements() * height * width
    if operation.type == "MatMul":
        inner_axis = 0 if operation.get_attr("transpose_a") else 1
        return operation.outputs[0].shape.num_elements() * operation.inputs[0].shape[inner_axis]
    return 0
