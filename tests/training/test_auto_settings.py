"""Input size and batch that are `auto`: chosen for a new run, kept when it is resumed."""

import re

import pytest
import tensorflow as tf

import tiny
from efficientdet_tf import data as data_lib
from efficientdet_tf.cli import command_line
from efficientdet_tf.cli import train as train_command
from efficientdet_tf.errors import UserError
from efficientdet_tf.run_directory import RunDirectory
from efficientdet_tf.training import auto_settings

AUTO = {
    "model.image_size": "auto",
    "training.batch_size": "auto",
    "optimizer.learning_rate": "auto",
}


@pytest.fixture(scope="module")
def coco_file(tmp_path_factory):
    return tiny.write_coco_file(tmp_path_factory.mktemp("coco"), 8)


def call(coco_file, folder, *more):
    settings = tiny.NETWORK | {"data.val": coco_file, "model.auto_image_size": "true"}
    return command_line.call(
        train_command.COMMAND,
        [
            *("--model=efficientdet-lite0", f"--model_dir={folder}", f"--train_data={coco_file}"),
            *(f"--set={key}={value}" for key, value in settings.items()),
            *more,
        ],
    )


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


def test_auto_is_resolved_once(coco_file, tmp_path, capsys):
    short = ("--batch_size=auto", "--epochs=1", "--set=training.steps_per_epoch=1")
    assert call(coco_file, tmp_path, *short) == 0
    printed = capsys.readouterr().out.splitlines()
    config = RunDirectory(tmp_path).config()
    assert config.model.auto_image_size and config.training.auto_batch_size
    # Halved from 64, as there are 8 images.
    assert config.training.batch_size == 8
    assert (
        "batch: 8 images instead of 64, which makes 1 step of an epoch; the learning rate follows"
        in printed
    )
    size = "x".join(map(str, config.model.image_size))
    chosen = ("input: ", "batch: ", "memory: ")
    first = [line for line in printed if line.startswith(chosen)]
    assert re.match(f"input: {size} pixels[;,] .*best possible recall", first[0])
    assert " GB in a real step of 8 images, " in first[2]
    assert call(coco_file, tmp_path, *short, "--epochs=2") == 0
    printed = capsys.readouterr().out.splitlines()
    again = [line for line in printed if line.startswith(chosen) or "changed" in line]
    # The second is the estimate that every run prints.
    assert again[0] == "changed since: training.epochs 1 -> 2"
    assert len(again) == 2 and again[1].startswith("memory: about ")
    assert RunDirectory(tmp_path).config() == config.override({"training.epochs": 2})


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
        ("--epochs=auto", "--epochs=auto: needs --hours; or give a number"),
        (
            "--batch_size=0",
            "flag --batch_size=0: 0 is not a positive integer; see --help",
        ),
        (
            "--set=training.epochs=auto",
            "training.epochs: 'auto' is not a whole number above 0",
        ),
    ],
)
def test_bad_values_are_one_line(coco_file, tmp_path, capsys, flag, message):
    assert call(coco_file, tmp_path / "run", flag) == 1
    assert capsys.readouterr().err == f"train: {message}\n"
    assert not (tmp_path / "run").exists()
