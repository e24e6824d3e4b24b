"""Averages over large feature maps in half precision."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.backbones.efficientnet import SqueezeExcite
from keras_layers.attended_fusion import AttendedFusion
from keras_layers.attention_fpn import FeaturePyramidAttention
from keras_layers.averages import average
from keras_layers.fusion import GlobalAttention
from keras_layers.mlfpn import ScaleAggregation
from keras_layers.pooled_gate import PooledGate
from keras_layers.rfp import ASPP


@pytest.fixture(scope="module")
def large_map():
    """A map whose sum over all pixels is above the range of float16."""
    return tf.random.stateless_uniform([1, 256, 256, 8], [1, 2], 2.0, 6.0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_averages_are_accumulated_in_float32(dtype, large_map):
    x = tf.cast(large_map, dtype)
    found = average(x)
    assert found.dtype == dtype and found.shape == (1, 1, 1, 8)
    expected = tf.cast(tf.reduce_mean(tf.cast(x, tf.float32), axis=[1, 2], keepdims=True), dtype)
    np.testing.assert_array_equal(found, expected)


def test_an_average_in_float32_is_one_operation():
    function = tf.function(average).get_concrete_function(tf.TensorSpec([1, 4, 4, 2]))
    operations = [operation.type for operation in function.graph.get_operations()]
    assert operations == ["Placeholder", "Const", "Mean", "Identity"]


@pytest.fixture
def mixed_float16():
    """Function that calls another one under the policy."""

    def call(function):
        keras.mixed_precision.set_global_policy("mixed_float16")
        try:
            return function()
        finally:
            keras.mixed_precision.set_global_policy("float32")

    return call


@pytest.mark.parametrize(
    ("make", "inputs_of"),
    [
        (lambda: SqueezeExcite(2, "swish"), lambda x: (x,)),
        (ScaleAggregation, lambda x: (x,)),
        (lambda: ASPP(8), lambda x: (x,)),
        (lambda: GlobalAttention("avg"), lambda x: ([x, x],)),
        (lambda: PooledGate(8), lambda x: ([x, x, x],)),
        (lambda: AttendedFusion(8, "spatial"), lambda x: ([x, x, x],)),
        (lambda: FeaturePyramidAttention(8), lambda x: (x, x)),
    ],
)
def test_layers_that_average_agree_with_float32(make, inputs_of, large_map, mixed_float16):
    layer = make()
    expected = layer(*inputs_of(large_map))

    def in_half_precision():
        half, inputs = make(), inputs_of(tf.cast(large_map, tf.float16))
        half(*inputs)
        half.set_weights(layer.get_weights())
        return half(*inputs)

    found = mixed_float16(in_half_precision)
    assert found.dtype == tf.float16
    np.testing.assert_allclose(found, expected, rtol=0.01, atol=0.05)
