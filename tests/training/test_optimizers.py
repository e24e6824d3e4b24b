"""Optimizer settings, gradient clipping, weight decay and moving average."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.config import OptimizerConfig
from efficientdet_tf.training import optimizers


@pytest.fixture
def model(clean_keras):
    keras.utils.set_random_seed(1)
    images = x = keras.Input((8, 8, 3))
    for layer in (
        keras.layers.Conv2D(4, 3, bias_initializer="ones"),
        keras.layers.BatchNormalization(),
        keras.layers.DepthwiseConv2D(3, bias_initializer="ones"),
        keras.layers.SeparableConv2D(2, 3, bias_initializer="ones"),
    ):
        x = layer(x)
    return keras.Model(images, x)


def test_sgd_has_the_momentum_and_the_scaled_rate():
    sgd = optimizers.build(OptimizerConfig(), total_steps=100, steps_per_epoch=10, batch_size=32)
    assert isinstance(sgd, keras.optimizers.SGD)
    assert sgd.momentum == 0.9
    schedule = keras.optimizers.schedules.serialize(sgd._learning_rate)["config"]
    assert schedule == {
        "decay": "cosine",
        "peak": 0.04,
        "start": 0.004,
        "warmup_steps": 10,
        "total_steps": 100,
    }


def test_adam_by_name():
    config = OptimizerConfig(name="adam", momentum=0.8)
    adam = optimizers.build(config, total_steps=100, steps_per_epoch=10, batch_size=64)
    assert isinstance(adam, keras.optimizers.Adam)
    assert adam.beta_1 == 0.8


@pytest.mark.parametrize(
    ("name", "factor"),
    [("sgd", 0.25), ("sgdw", 0.25), ("adam", 0.5), ("lamb", 0.5), ("radam", 0.5)],
)
def test_the_rate_follows_the_batch(name, factor):
    config = OptimizerConfig(name=name, learning_rate=0.02, reference_batch_size=32)
    schedule = optimizers.learning_rates(config, 100, 10, batch_size=8)
    assert schedule.peak == pytest.approx(0.02 * factor)
    assert optimizers.batch_factor(config, 32) == 1


def test_each_gradient_is_clipped_before_all_of_them():
    gradients = [tf.constant([300.0, 400.0]), tf.constant([[0.0, 10.0]]), tf.constant([0.0])]
    clipped, norm = optimizers.clip_gradients(gradients, 10.0)
    np.testing.assert_allclose(norm, 10, rtol=1e-6)
    np.testing.assert_allclose(clipped[0], np.array([6, 8]) / 2**0.5, rtol=1e-6)
    np.testing.assert_allclose(clipped[1], np.array([[0, 10]]) / 2**0.5, rtol=1e-6)
    np.testing.assert_array_equal(clipped[2], [0])


def test_small_gradients_are_not_touched():
    gradients = [tf.constant([3.0, 4.0]), tf.constant([1.0])]
    clipped, norm = optimizers.clip_gradients(gradients, 10.0)
    np.testing.assert_array_equal(clipped[0], [3, 4])
    np.testing.assert_array_equal(clipped[1], [1])
    np.testing.assert_allclose(norm, 26**0.5, rtol=1e-6)


def test_without_clipping_the_norm_is_computed():
    gradients = [tf.constant([30.0, 40.0]), tf.constant([[120.0]])]
    unclipped, norm = optimizers.clip_gradients(gradients, 0.0)
    assert unclipped == gradients
    np.testing.assert_allclose(norm, 130, rtol=1e-6)


def test_a_gradient_that_is_not_finite_leaves_none_finite():
    for value in (np.inf, np.nan):
        clipped, _ = optimizers.clip_gradients([tf.constant([value, 1.0]), tf.ones([2])], 10.0)
        assert np.isnan(clipped[0][0]) and np.all(np.isnan(clipped[1]))


@pytest.mark.parametrize(
    ("name", "kind"), [("adam", keras.optimizers.Adam), ("sgd", keras.optimizers.SGD)]
)
@pytest.mark.parametrize(("factor", "compiled"), [(1.0, False), (0.1, False), (0.1, True)])
def test_steps_are_those_of_keras(name, kind, factor, compiled):
    config = OptimizerConfig(
        name=name, momentum=0.8, backbone_factor=factor, warmup_epochs=0.0, schedule="polynomial"
    )
    ours = optimizers.build(config, total_steps=10, steps_per_epoch=10, batch_size=64)
    own = {"beta_1": 0.8} if name == "adam" else {"momentum": 0.8}
    theirs = kind(ours._learning_rate, **own)
    start = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    names = ("backbone/kernel", "head/kernel")
    weights, expected = ([tf.Variable(start, name=name) for name in names] for _ in range(2))
    ours.build(weights)

    @tf.function(jit_compile=compiled)
    def step_of_ours(gradient):
        ours.apply_gradients([(gradient, variable) for variable in weights])

    for step in range(5):
        gradient = np.random.default_rng([1, step]).normal(size=(4, 5)).astype(np.float32)
        step_of_ours(tf.constant(gradient))
        theirs.apply_gradients([(tf.constant(gradient), variable) for variable in expected])
    np.testing.assert_allclose(weights[1], expected[1], rtol=1e-5, atol=1e-6)
    moved = start + factor * (expected[0] - start)
    np.testing.assert_allclose(weights[0], moved, rtol=1e-5, atol=1e-6)
    for slot, other in zip(ours.variables, theirs.variables, strict=True):
        np.testing.assert_allclose(slot, other, rtol=1e-5, atol=1e-6)


def test_only_kernels_are_decayed(model):
    kernels = [v.numpy() for v in model.trainable_variables if "kernel" in v.name]
    assert len(kernels) == 4
    expected = 0.01 * sum((kernel**2).sum() / 2 for kernel in kernels)
    np.testing.assert_allclose(optimizers.l2_regularization(model, 0.01), expected, rtol=1e-6)


def test_moving_average_of_every_variable_with_growing_decay(model):
    average = optimizers.MovingAverage(model, 0.5)
    before = [v.numpy() for v in model.variables]
    expected = before
    update = tf.function(average.update)
    for step, decay in ((1, 1 / 10), (2, 2 / 11), (3, 3 / 12), (20, 0.5)):
        for variable in model.variables:
            variable.assign_add(tf.ones_like(variable))
        expected = [
            decay * old + (1 - decay) * v.numpy() for old, v in zip(expected, model.variables)
        ]
        update(tf.constant(step))
    assert len(average.averages) == len(model.variables) == 11
    for actual, wanted in zip(average.averages, expected):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-6)


def test_weights_are_restored_exactly_even_after_an_error(model):
    average = optimizers.MovingAverage(model, 0.9998)
    for variable in model.variables:
        variable.assign(tf.random.normal(variable.shape, stddev=1e-3, seed=3))
    average.update(tf.constant(5))
    weights = [v.numpy() for v in model.variables]
    averages = [v.numpy() for v in average.averages]
    with average.averaged():
        for variable, expected in zip(model.variables, averages):
            np.testing.assert_array_equal(variable, expected)
    with pytest.raises(RuntimeError, match="stop"), average.averaged():
        raise RuntimeError("stop")
    for variable, expected in zip(model.variables, weights):
        np.testing.assert_array_equal(variable, expected)
    for variable, expected in zip(average.averages, averages):
        np.testing.assert_array_equal(variable, expected)


def test_averages_are_no_weights_of_the_model_but_are_saved_with_it(model, tmp_path):
    weights = len(model.weights)
    model.moving_average = optimizers.MovingAverage(model, 0.9)
    assert len(model.weights) == weights
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "state"))
    expected = [v.numpy() for v in model.moving_average.averages]
    for average in model.moving_average.averages:
        average.assign_add(tf.ones_like(average))
    tf.train.Checkpoint(model=model).restore(path).assert_consumed()
    for actual, wanted in zip(model.moving_average.averages, expected):
        np.testing.assert_array_equal(actual, wanted)


# Two replicas need two devices, which are fixed when TensorFlow starts.
TWO_REPLICAS = """
    import numpy as np, tensorflow as tf, tf_keras as keras
    from efficientdet_tf.training.optimizers import MovingAverage

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"])
    with strategy.scope():
        model = keras.Sequential([
            keras.Input((2,)), keras.layers.Dense(2), keras.layers.BatchNormalization(momentum=0)])
        average = MovingAverage(model, 0.5)
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(model.trainable_variables)
    x = strategy.experimental_distribute_values_from_function(
        lambda c: tf.constant([[1., 2.], [5., 9.]]) * (1. + c.replica_id_in_sync_group))

    @tf.function
    def step(x):
        def replica_step(x):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(model(x, training=True)[:, :1] ** 3)
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables))
            average.update(optimizer.iterations)
        strategy.run(replica_step, args=(x,))

    def locals_of(variables):
        return [v.numpy() for d in variables for v in strategy.experimental_local_results(d)]

    first = [v.numpy() for v in model.variables]
    step(x)
    for old, variable, mean in zip(first, model.variables, average.averages):
        np.testing.assert_allclose(mean.numpy(), 0.1 * old + 0.9 * variable.numpy(), rtol=1e-5)
    weights, averages = locals_of(model.variables), locals_of(average.averages)
    statistics = strategy.experimental_local_results(model.layers[-1].moving_mean)
    assert abs(statistics[0] - statistics[1]).numpy().max() > 0
    with average.averaged():
        for a, b in zip(locals_of(model.variables), averages, strict=True):
            np.testing.assert_array_equal(a, b)
    for a, b in zip(locals_of(model.variables), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    average.restart()
    for a, b in zip(locals_of(average.averages), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    print("two replicas agree")
"""


def test_average_over_two_replicas():
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(TWO_REPLICAS)], capture_output=True, text=True
    )
    assert result.stdout.strip().endswith("two replicas agree"), result.stderr[-2000:]
