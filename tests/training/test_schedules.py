"""Learning-rate schedules against the published curves, and the default."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.config import OptimizerConfig
from efficientdet_tf.training import state
from efficientdet_tf.training.optimizers import learning_rates
from efficientdet_tf.training.schedules import DECAYS, WarmupDecay

GOLDEN_DECAYS = {
    "cosine": "cosine_reference",
    "polynomial": "polynomial",
    "stepwise": "stepwise",
}


@pytest.mark.parametrize("flavour", ["keras", "estimator"])
@pytest.mark.parametrize("batch_size", [64, 128])
@pytest.mark.parametrize("method", GOLDEN_DECAYS)
def test_curves_equal_the_published_ones(goldens, method, batch_size, flavour):
    golden = json.loads((goldens / "lr_schedule.json").read_text())
    (expected,) = (
        row
        for row in golden["schedules"]
        if (row["method"], row["batch_size"], row["flavour"]) == (method, batch_size, flavour)
    )
    schedule = WarmupDecay(
        GOLDEN_DECAYS[method],
        peak=expected["adjusted_learning_rate"],
        start=expected["warmup_init_used"],
        warmup_steps=expected["lr_warmup_step"],
        total_steps=expected["total_steps"],
    )
    actual = [float(schedule(step)) for step in expected["steps"]]
    # 1 + cos cancels near the end of the cosine; 1 - step / total does, too.
    np.testing.assert_allclose(actual, expected["learning_rates"], rtol=1e-6, atol=1e-8)


def test_cosine_goes_from_peak_to_exactly_zero():
    schedule = WarmupDecay("cosine", peak=0.08, start=0.008, warmup_steps=100, total_steps=1000)
    rates = np.array([float(schedule(step)) for step in range(0, 1001, 10)])
    assert rates[0] == np.float32(0.008)
    assert rates[10] == rates.max() == np.float32(0.08)
    assert rates[100] == 0
    assert (np.diff(rates[:11]) > 0).all() and (np.diff(rates[10:]) < 0).all()
    np.testing.assert_allclose(rates[55], 0.04, rtol=1e-6)
    assert float(schedule(2000)) == 0


def test_warm_up_is_at_most_half_of_a_training():
    config = OptimizerConfig(name="adam", learning_rate=0.008, reference_batch_size=8)
    # Of one epoch, which is also the warm-up of the config.
    rates = learning_rates(config, 10, 10, 8)
    assert [float(rates(step)) for step in (5, 10)] == pytest.approx([0.008, 0])
    assert learning_rates(config, 50, 10, 8).warmup_steps == 10


def test_a_shifted_schedule_is_ahead():
    rates = WarmupDecay("cosine", peak=0.08, start=0.008, warmup_steps=10, total_steps=100)
    expected = [float(rates(step)) for step in (0, 7, 60)]
    rates.shift = -30
    assert [float(rates(step)) for step in (30, 37, 90)] == expected


@pytest.mark.parametrize("decay", DECAYS)
def test_rates_are_finite_without_warm_up_or_with_warm_up_only(decay):
    for warmup_steps in (0, 5, 9):
        schedule = WarmupDecay(decay, 1.0, 0.1, warmup_steps, total_steps=5)
        rates = np.array([float(schedule(step)) for step in range(6)])
        assert np.isfinite(rates).all()
        assert (rates >= 0).all() and (rates <= 1).all()
        assert rates[0] == np.float32(0.1 if warmup_steps else 1.0)


def test_schedule_works_in_a_graph_and_survives_serialisation():
    schedule = WarmupDecay("polynomial", 0.1, 0.01, 3, total_steps=10)
    copy = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    assert isinstance(copy, WarmupDecay)
    assert copy.get_config() == schedule.get_config()
    in_graph = tf.function(copy, reduce_retracing=True)
    for step in (0, 2, 3, 9):
        np.testing.assert_allclose(in_graph(tf.constant(step)), schedule(step), rtol=1e-6)


def test_an_unknown_decay_is_named():
    with pytest.raises(ValueError, match="decay: 'linear' is not one of cosine, cosine_ref"):
        WarmupDecay("linear", 0.1, 0.01, 3, total_steps=10)


@pytest.mark.parametrize(
    ("done", "steps", "expected"),
    # Half of an epoch, a part that is less than a step, and an epoch that lacks its evaluation.
    [(5, 20, 10), (5, 4, 2), (9, 1, 0), (10, 4, 4), (5, 10, 5)],
)
def test_with_another_batch_size_the_same_share_of_the_epoch_is_done(done, steps, expected):
    progress = tf.train.Checkpoint(
        optimizer=keras.optimizers.SGD(), epochs_done=tf.Variable(2), **state._later_variables()
    )
    progress.optimizer.iterations.assign(20 + done)
    progress.steps_into_epoch.assign(done)
    state.fit_schedule(progress, steps, stored_steps=10)
    assert int(progress.steps_into_epoch) == expected
    assert int(progress.steps_per_epoch) == steps
    assert state.schedule_position(progress) == 2 * steps + expected
