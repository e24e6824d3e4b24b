"""Settings that are `auto`: chosen for a new run, kept when it is resumed."""

import base64
import contextlib
import dataclasses
import io
import re

import pytest
import tensorflow as tf

import tiny
from efficientdet_tf import data as data_lib
from efficientdet_tf.cli import command_line
from efficientdet_tf.cli import train as train_command
from efficientdet_tf.config import Config, ConfigError, auto_switch
from efficientdet_tf.data import digits
from efficientdet_tf.errors import UserError
from efficientdet_tf.metrics_history import read_history
from efficientdet_tf.run_directory import RunDirectory
from efficientdet_tf.training import auto_settings, range_test, train

AUTO = {
    "model.image_size": "auto",
    "training.batch_size": "auto",
    "optimizer.learning_rate": "auto",
}


CHOSEN = ("input: ", "batch: ", "memory: ", "learning rate: ")


@pytest.fixture(scope="module")
def coco_file(tmp_path_factory):
    return tiny.write_coco_file(tmp_path_factory.mktemp("coco"), 8)


def test_a_run_is_kept_as_chosen():
    stored = tiny.config(
        **{
            **{"model.image_size": "96x128", "training.batch_size": 16},
            **{"optimizer.learning_rate": 0.5, "training.gradient_accumulation_steps": 4},
            "training.gradient_checkpointing": True,
        }
    )
    asked = tiny.config(**AUTO)
    assert auto_settings.keep(asked, None) is asked
    kept = auto_settings.keep(asked, stored)
    assert {key for key, _ in kept.differences(stored).items()} == {
        *("model.auto_image_size", "training.auto_batch_size", "optimizer.auto_learning_rate")
    }
    # More micro-batches than before may be asked for.
    more = asked.override({"training.gradient_accumulation_steps": 8})
    assert auto_settings.keep(more, stored).training.gradient_accumulation_steps == 8
    # Nothing else is kept.
    assert auto_settings.keep(tiny.config(), stored) == tiny.config()


@pytest.fixture(scope="module")
def asked(coco_file):
    """Config of a run of one step in which all is `auto`."""
    return tiny.config(
        **{
            **{"data.train": coco_file, "data.val": coco_file, "optimizer.name": "adam"},
            **{"optimizer.learning_rate": 0.002, "optimizer.reference_batch_size": 16},
            **{"training.batch_size": 64, "training.epochs": 1, "model.auto_image_size": True},
            **{"training.auto_batch_size": True, "optimizer.auto_learning_rate": True},
        }
    )


@pytest.fixture(scope="module")
def run(asked, tmp_path_factory):
    """Run directory, and what was printed."""
    directory = RunDirectory(tmp_path_factory.mktemp("run") / "run")
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(range_test, "STEPS", 30)
        train.train(asked, str(directory.path))
    return directory, printed.getvalue().splitlines()


def test_a_run_has_what_was_chosen_and_says_why(run):
    directory, printed = run
    config = directory.config()
    assert config.model.auto_image_size and config.training.auto_batch_size
    size = "x".join(map(str, config.model.image_size))
    lines = [line for line in printed if line.startswith(CHOSEN)]
    assert re.match(f"input: {size} pixels[;,] .*best possible recall", lines[0])
    # Halved from 64, as there are 8 images.
    assert config.training.batch_size == 8
    assert lines[1] == (
        "batch: 8 images instead of 64, which makes 1 step of an epoch; the learning rate follows"
    )
    measured = r"memory: \d\.\d GB in a real step of 8 images, \d\.\d GB estimated, of \d+\.\d GB"
    assert re.fullmatch(measured, lines[2])
    rate = config.optimizer.learning_rate
    assert lines[3].startswith(f"learning rate: {rate:g} at 16 images instead of 0.002, 0.5 of the")
    # Half of those of the steps, at 16 instead of 8 images.
    lowest, highest = (2**0.5 * 0.5 * each for each in range_test.RANGE)
    assert lowest < rate <= highest and rate != 0.002


def test_the_report_shows_the_range_test(run):
    directory, _ = run
    chart = (directory.training_images / "learning_rate.png").read_bytes()
    page = (directory.path / "report.html").read_text()
    assert f'src="data:image/png;base64,{base64.b64encode(chart).decode()}"' in page
    assert 'alt="Learning-rate range test"' in page


@pytest.mark.thorough
def test_a_run_is_that_with_the_chosen_settings(run, tmp_path):
    directory, _ = run
    switches = dict.fromkeys(map(auto_switch, AUTO), False)
    given = directory.config().override(switches)
    train.train(given, str(tmp_path))
    (chosen, _), (same, _) = (
        read_history(path / "metrics.csv") for path in (directory.path, tmp_path)
    )
    assert chosen[0]["loss"] == pytest.approx(same[0]["loss"], rel=1e-4)
    assert not (tmp_path / "training_images" / "learning_rate.png").exists()


def test_resuming_chooses_nothing_again(run, asked, capsys):
    directory, _ = run
    before, chart = directory.config(), directory.training_images / "learning_rate.png"
    written = chart.stat().st_mtime_ns
    train.train(asked, str(directory.path))
    printed = capsys.readouterr().out
    assert f"{directory.path}: all 1 epochs are done" in printed
    assert "changed since" not in printed
    assert not [line for line in printed.splitlines() if line.startswith(CHOSEN)]
    assert directory.config() == before and chart.stat().st_mtime_ns == written


def test_what_is_kept_and_what_is_asked_for_have_to_fit(run, asked, capsys):
    """The batch of the run is kept, of other micro-batches than the batch that was asked for."""
    directory, _ = run
    before = directory.config()
    more = {"training.batch_size": 16, "training.auto_batch_size": True}
    more["training.gradient_accumulation_steps"] = 16
    with pytest.raises(ConfigError) as error:
        train.train(asked.override(more), str(directory.path))
    assert str(error.value) == (
        f"training.batch_size: {before.training.batch_size} cannot be shared out among 1 device in "
        "16 micro-batches each; choose a multiple of 16"
    )
    assert directory.config() == before


@pytest.mark.parametrize(
    ("settings", "num_images", "expected"),
    [
        # 2,400 steps and never fewer epochs than the recipe's, nor more than 300 by this rule.
        ({"training.epochs": 50}, 132, 150),
        ({"training.epochs": 50}, 205, 96),
        ({"training.epochs": 50}, 2000, 50),
        ({"training.epochs": 50}, 8, 300),
        ({"training.epochs": 400}, 8, 400),
        ({"training.epochs": 50, "training.steps_per_epoch": 30}, 8, 80),
    ],
)
def test_epochs_of_small_sets(settings, num_images, expected, capsys):
    config = tiny.config(**settings, **{"training.batch_size": 8, "training.auto_epochs": True})
    data = dataclasses.replace(digits.load("train", num_images=1), records=[None] * num_images)
    chosen = auto_settings.choose(config, data, tf.distribute.get_strategy())
    assert chosen == config.override({"training.epochs": expected, "training.auto_epochs": True})
    before = settings["training.epochs"]
    steps = settings.get("training.steps_per_epoch") or num_images // 8
    assert capsys.readouterr().out == (
        f"epochs: {expected} instead of {before}, which would be {before * steps:,} steps only\n"
        if expected > before
        else ""
    )
    # A number that is given is not changed, and a resumed run keeps its own.
    assert not config.override({"training.epochs": 7}).training.auto_epochs
    assert auto_settings.keep(config, chosen) == chosen


def test_finetune_has_more_epochs_for_small_sets_and_an_input_in_the_shape_of_the_images():
    config = Config.from_yaml("finetune", "efficientdet-lite0")
    assert (config.training.epochs, config.training.auto_epochs) == (50, True)
    assert (config.model.image_size, config.model.auto_image_size) == ((320, 320), True)
    assert not config.override({"model.image_size": "320x320"}).model.auto_image_size


def test_several_workers_cannot_measure(coco_file, monkeypatch):
    monkeypatch.setattr(auto_settings.strategy, "has_peers", lambda devices: True)
    data, devices = data_lib.load(coco_file), tf.distribute.get_strategy()
    for key in ("training.batch_size", "optimizer.learning_rate"):
        with pytest.raises(UserError) as error:
            auto_settings.choose(tiny.config(**{key: "auto"}), data, devices)
        assert str(error.value) == (
            f"{key}: auto, but several workers cannot measure together; give the value that is "
            "chosen on one machine"
        )


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "--batch_size=many",
            "flag --batch_size=many: neither auto nor a whole number above 0; see --help",
        ),
        (
            "--batch_size=0",
            "flag --batch_size=0: neither auto nor a whole number above 0; see --help",
        ),
        (
            "--set=training.epochs=many",
            "training.epochs: 'many' is not a whole number above 0",
        ),
    ],
)
def test_bad_values_are_one_line(coco_file, tmp_path, capsys, flag, message):
    arguments = ["--model=efficientdet-lite0", f"--train_data={coco_file}", flag]
    arguments.append(f"--model_dir={tmp_path / 'run'}")
    assert command_line.call(train_command.COMMAND, arguments) == 1
    assert capsys.readouterr().err == f"train: {message}\n"
    assert not (tmp_path / "run").exists()
