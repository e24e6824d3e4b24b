"""Parameters and multiply-adds by part, and uncounted operations."""

import pytest
import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.complexity import (
    Complexity,
    UncountedOperation,
    format_parts,
    measure,
    measure_parts,
)


def model_of(function, shape=(4, 6, 8)) -> keras.Model:
    """Build a model with one layer, named part."""
    images = keras.Input(shape)
    return keras.Model(images, keras.layers.Lambda(function, name="part")(images))


@pytest.mark.parametrize(
    ("function", "cost"),
    [
        (lambda x: tf.nn.conv2d(x, tf.ones([3, 3, 8, 5]), 2, "SAME"), 2 * 3 * 5 * 9 * 8),
        # Of blocks of the map, padded to 6x6.
        (
            lambda x: tf.nn.convolution(x, tf.ones([3, 3, 8, 5]), padding="SAME", dilations=3),
            4 * 6 * 5 * 9 * 8,
        ),
        (
            lambda x: tf.nn.depthwise_conv2d(
                x, tf.ones([3, 3, 8, 1]), [1, 1, 1, 1], "SAME", dilations=[3, 3]
            ),
            4 * 6 * 8 * 9,
        ),
        # Two groups.
        (lambda x: tf.nn.conv2d(x, tf.ones([1, 1, 4, 6]), 1, "SAME"), 4 * 6 * 6 * 4),
        (
            lambda x: tf.nn.depthwise_conv2d(x, tf.ones([5, 5, 8, 1]), [1, 1, 1, 1], "SAME"),
            4 * 6 * 8 * 25,
        ),
        (lambda x: tf.matmul(tf.reshape(x, [24, 8]), tf.ones([8, 3])), 24 * 8 * 3),
        (
            lambda x: tf.matmul(tf.reshape(x, [8, 24]), tf.ones([8, 3]), transpose_a=True),
            24 * 8 * 3,
        ),
        (lambda x: tf.matmul(x, x, adjoint_b=True), 4 * 6 * 6 * 8),
        (lambda x: tf.matmul(x, x, adjoint_a=True), 4 * 8 * 8 * 6),
        (lambda x: tf.einsum("bhwc,bhvc->bhwv", x, x), 4 * 6 * 6 * 8),
        (lambda x: tf.einsum("bhwc,hi->biwc", x, tf.ones([4, 3])), 3 * 6 * 8 * 4),
        (lambda x: tf.nn.max_pool2d(x + 1, 2, 2, "SAME"), 0),
    ],
)
def test_operations_are_counted(function, cost):
    assert measure_parts(model_of(function)) == ({"part": Complexity(0, 0, cost)} if cost else {})


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda x: tf.nn.conv3d(x[..., None], tf.ones([1, 1, 1, 1, 2]), [1] * 5, "SAME"), "Conv3D"),
        (
            lambda x: tf.nn.conv2d_transpose(x, tf.ones([2, 2, 8, 8]), [1, 8, 12, 8], 2),
            "Conv2DBackpropInput",
        ),
        (lambda x: tf.raw_ops.SparseMatMul(a=x[0, 0], b=tf.ones([8, 2])), "SparseMatMul"),
    ],
)
def test_operations_that_are_not_counted_are_refused(function, operation):
    with pytest.raises(UncountedOperation) as error:
        measure(model_of(function))
    assert str(error.value).startswith("model")
    assert str(error.value).endswith(
        f": multiply-adds of {operation} are not counted; add it to efficientdet_tf/complexity.py"
    )


def test_operations_in_functions_are_refused():
    loop = tf.function(lambda x: tf.matmul(x, x, adjoint_b=True), autograph=False)
    with pytest.raises(UncountedOperation, match="multiply-adds of BatchMatMulV2 in a function"):
        measure(model_of(loop))


def test_a_sum_with_an_ellipsis_is_refused():
    with pytest.raises(UncountedOperation, match=r"Einsum '...\w,\w\w->...\w' with ... is not"):
        measure(
            model_of(
                lambda x: tf.raw_ops.Einsum(inputs=[x, tf.ones([8, 2])], equation="...a,ab->...b")
            )
        )


def test_a_table_of_parts():
    parts = {"backbone": Complexity(1234567, 10, 10**9), "box_head": Complexity(5, 0, 24)}
    assert format_parts(parts).splitlines() == [
        "part                 trainable non-trainable     multiply-adds",
        "backbone             1,234,567            10     1,000,000,000",
        "box_head                     5             0                24",
        "total                1,234,572            10     1,000,000,024",
    ]
