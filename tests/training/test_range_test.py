"""Learning-rate range test: its choice, its line, and its restored weights."""

import numpy as np
import PIL.Image
import pytest

import tiny
from efficientdet_tf import data as data_lib
from efficientdet_tf.run_directory import RunDirectory
from efficientdet_tf.training import range_test
from efficientdet_tf.training.compiling import compiled_model
from efficientdet_tf.training.range_test import ExponentialGrowth, RangeTest, run_range_test
from efficientdet_tf.visualization.range_test_chart import draw_range_test

RATES = np.geomspace(1e-6, 1, 100)


def losses_with_valley(at):
    """Losses that fall by 5 % and rise by 5 % in a step, with the lowest at a step."""
    return 1.05 ** np.abs(np.arange(100) - at)


@pytest.mark.parametrize("at", [30, 60, 99])
def test_the_rate_of_the_lowest_loss_is_found(at):
    noise = np.random.default_rng(0).uniform(0.95, 1.05, 100)
    test = RangeTest(RATES, losses_with_valley(at) * noise)
    assert test.lowest == pytest.approx(RATES[at], rel=0.5)
    assert RangeTest(RATES, losses_with_valley(at)).lowest == RATES[at]


@pytest.mark.parametrize(
    "losses",
    [
        np.ones(100),
        # Rises at once, or falls by 4 % only.
        losses_with_valley(0),
        np.linspace(1, 0.96, 100),
        # Too few steps.
        np.linspace(1, 0.1, 19),
        np.zeros(0),
    ],
    ids=len,
)
def test_nothing_is_chosen_where_the_loss_does_not_fall(losses):
    test = RangeTest(RATES[: len(losses)], losses)
    assert test.lowest is None


def test_the_rate_grows_by_the_same_factor_each_step():
    schedule = ExponentialGrowth(1e-4, 10.0, 6)
    rates = [float(schedule(step)) for step in range(6)]
    np.testing.assert_allclose(rates, [1e-4, 1e-3, 1e-2, 0.1, 1, 10], rtol=1e-5)
    assert ExponentialGrowth.from_config(schedule.get_config()).get_config() == {
        **{"first": 1e-4, "last": 10.0, "steps": 6}
    }


@pytest.mark.parametrize("chosen", [0.003, None])
def test_the_chart_is_an_image(tmp_path, chosen):
    test = RangeTest(RATES, losses_with_valley(60))
    draw_range_test(RATES, test.losses, test.smoothed, chosen, tmp_path / "rate.png")
    image = np.asarray(PIL.Image.open(tmp_path / "rate.png").convert("RGB")).astype(int)
    reds = (image[..., 0] > 200) & (image[..., 1] < 60)
    assert reds.any() == (chosen is not None)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tiny.write_coco_file(tmp_path_factory.mktemp("coco"), 8)
    return tiny.config(
        **{
            **{"data.train": path, "data.val": path, "optimizer.name": "adam"},
            **{"optimizer.learning_rate": 0.002, "optimizer.reference_batch_size": 8},
            "training.batch_size": 4,
        }
    )


def test_weights_are_restored_bit_for_bit_after_a_divergence(config):
    data = data_lib.load(config.data.train)
    config = config.override({"model.num_classes": len(data.label_map), "optimizer.ema_decay": 0})
    schedule = ExponentialGrowth(1e-6, 1e9, 40)
    model = compiled_model(config, 1, schedule)
    before = [variable.numpy() for variable in model.variables]
    test = run_range_test(model, data, config, schedule)
    # Fewer than 20 steps are only run if a loss is infinite.
    assert 2 < len(test.losses) < 40
    assert np.isfinite(test.losses).all() and len(set(test.losses)) > 2
    np.testing.assert_allclose(test.rates[1:] / test.rates[:-1], 1e15 ** (1 / 39))
    after = [variable.numpy() for variable in model.variables]
    assert [x.tobytes() for x in after] == [x.tobytes() for x in before]


def test_sgd_takes_a_tenth(config, tmp_path, capsys, monkeypatch):
    test = RangeTest(RATES, losses_with_valley(50))
    monkeypatch.setattr(range_test, "_test", lambda *arguments: test)
    auto = config.override({"optimizer.name": "sgd", "optimizer.learning_rate": "auto"})
    chosen = range_test.choose_learning_rate(auto, None, None, RunDirectory(tmp_path))
    assert chosen.optimizer.learning_rate == 0.00021
    assert ", 0.1 of the rate of the lowest loss in the 100 steps" in capsys.readouterr().out


def test_the_line_says_the_choice(config, tmp_path, capsys, monkeypatch):
    tests = iter([RangeTest(RATES, losses_with_valley(50)), RangeTest(RATES, np.ones(100))])
    monkeypatch.setattr(range_test, "_test", lambda *arguments: next(tests))
    auto = config.override({"optimizer.learning_rate": "auto"})
    arguments = (auto, None, None, RunDirectory(tmp_path))
    assert range_test.choose_learning_rate(config, *arguments[1:]) is config
    chosen = range_test.choose_learning_rate(*arguments)
    # The 51st rate is 0.00107; half of it, times the root of 2: batches are half of the reference.
    assert chosen == auto.override(
        {"optimizer.learning_rate": 0.00076, "optimizer.auto_learning_rate": True}
    )
    assert range_test.choose_learning_rate(*arguments) == auto
    assert capsys.readouterr().out == (
        "learning rate: 0.00076 at 8 images instead of 0.002, 0.5 of the rate of the lowest loss "
        "in the 100 steps of a range test\n"
        "learning rate: 0.002 at 8 images, kept; the loss did not fall in the 100 steps of a range "
        "test\n"
    )
