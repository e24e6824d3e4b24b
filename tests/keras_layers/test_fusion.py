import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from keras_layers.fusion import METHODS, WeightedFusion

INPUTS = [tf.constant([[[[1.0, 3.0]]]])] * 2


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("sum", [2, 6]),
        ("unbounded", [2, 6]),
        ("softmax", [1, 3]),
        ("channel_softmax", [1, 3]),
        ("fast", [0.99995, 2.99985]),
        ("channel_fast", [0.99995, 2.99985]),
    ],
)
def test_fixed_points_at_the_start(method, expected):
    fused = WeightedFusion(method)(INPUTS)
    np.testing.assert_allclose(fused[0, 0, 0], expected, atol=1e-6)


@pytest.mark.parametrize(("method", "count"), [("sum", 0), ("fast", 3), ("channel_fast", 24)])
def test_number_of_weights(method, count):
    fuse = WeightedFusion(method)
    fuse([tf.ones([1, 2, 2, 8])] * 3)
    assert fuse.count_params() == count


def test_fast_fusion_with_known_weights():
    fuse = WeightedFusion("fast")
    fuse([tf.zeros([1, 1, 1, 1])] * 3)
    fuse.set_weights([np.float32(2), np.float32(-1), np.float32(1)])
    np.testing.assert_allclose(fuse.normalized_weights(), [2 / 3.0001, 0, 1 / 3.0001], rtol=1e-6)


def test_fast_fusion_of_negative_weights_is_zero():
    fuse = WeightedFusion("fast")
    fuse(INPUTS)
    fuse.set_weights([np.float32(-1), np.float32(-2)])
    np.testing.assert_array_equal(fuse(INPUTS), tf.zeros([1, 1, 1, 2]))


def test_weights_stay_float32_under_mixed_precision():
    fuse = WeightedFusion("fast", dtype=keras.mixed_precision.Policy("mixed_float16"))
    fused = fuse([tf.cast(x, tf.float16) for x in INPUTS])
    assert fused.dtype == tf.float16
    assert all(weight.dtype == tf.float32 for weight in fuse.weights)
    assert float(fuse.normalized_weights()[0]) == pytest.approx(1 / 2.0001, rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_config_round_trip(method):
    fuse = WeightedFusion(method, name="f")
    copy = WeightedFusion.from_config(fuse.get_config())
    assert copy.get_config() == fuse.get_config()
    np.testing.assert_array_equal(copy(INPUTS), fuse(INPUTS))


def test_unknown_method():
    with pytest.raises(ValueError, match="fusion method 'slow' is not one of sum, unbounded"):
        WeightedFusion("slow")
