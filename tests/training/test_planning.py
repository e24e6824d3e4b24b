"""`train.py --hours`: plans from measured steps, stored and overridden."""

import json
import re

import pytest
import tensorflow as tf

import tiny
from efficientdet_tf import data as data_lib
from efficientdet_tf.cli import command_line
from efficientdet_tf.cli import train as train_command
from efficientdet_tf.errors import UserError
from efficientdet_tf.run_directory import RunDirectory
from efficientdet_tf.training import planning
from efficientdet_tf.training.run_length import Length, choose_length


@pytest.mark.parametrize(
    ("budget", "step", "steps", "evaluation", "expected"),
    [
        # A tenth for evaluations is 36 s: 18 of them, in the 324 s that are left 16 epochs.
        (360, 1, 20, 2, Length(16, 20, 1, 352)),
        # As many epochs as in the paper, 20 evaluations.
        (1e6, 1, 20, 2, Length(300, 20, 15, 6040)),
        # One evaluation even if it takes more than its share.
        (360, 1, 20, 100, Length(13, 20, 13, 360)),
        # Less than a pass over the data: ten parts of it.
        (360, 1, 10_000, 0, Length(10, 36, 1, 360)),
        # Fewer than ten: with one epoch for each, warm-up would be a large part of the training.
        (1800, 1, 1000, 20, Length(10, 162, 2, 1720)),
        # Nothing fits: still a step.
        (0.5, 1, 10, 0, Length(1, 1, 1, 1)),
        (-60, 1, 10, 5, Length(1, 1, 1, 6)),
    ],
)
def test_length(budget, step, steps, evaluation, expected):
    assert choose_length(budget, step, steps, evaluation) == expected


@pytest.fixture(scope="module")
def coco_file(tmp_path_factory):
    return tiny.write_coco_file(tmp_path_factory.mktemp("coco"), 8)


def test_length_with_given_epochs_or_steps():
    assert choose_length(360, 1, 20, 2, epochs=5) == Length(5, 20, 1, 110)
    # Four evaluations are a tenth of the time.
    assert choose_length(360, 1, 20, 9, epochs=10) == Length(10, 20, 3, 236)
    # Evaluations take as much of the time as they do.
    assert choose_length(3240, 1, 100, 250, interval=1) == Length(10, 74, 1, 3240)
    assert choose_length(3240, 1, 100, 250, interval=5) == Length(20, 100, 5, 3000)
    assert choose_length(360, 1, 20, 2, interval=2) == Length(17, 20, 2, 358)
    # Not divided into parts, even beyond the budget.
    assert choose_length(360, 1, 1000, 0, are_steps_fixed=True) == Length(1, 1000, 1, 1000)


def call(coco_file, folder, *more):
    settings = tiny.NETWORK | {"data.val": coco_file}
    return command_line.call(
        train_command.COMMAND,
        [
            *("--model=efficientdet-lite0", f"--model_dir={folder}", f"--train_data={coco_file}"),
            *(f"--set={key}={value}" for key, value in settings.items()),
            *more,
        ],
    )


def test_a_plan_is_printed_stored_overridden_and_kept(coco_file, tmp_path, capsys):
    # One short epoch, whatever the machine.
    short = ("--hours=0.5", "--epochs=1", "--batch_size=4", "--set=optimizer.name=sgd")
    assert call(coco_file, tmp_path, *short) == 0
    printed = capsys.readouterr().out
    content = json.loads((tmp_path / "plan.json").read_text())
    assert content["hours"] == 0.5
    assert "plan of 0.5 h:\n" + "".join(f"  {line}\n" for line in content["reasons"]) in printed
    patterns = [
        "recipe: finetune, for 8 images",
        r"weights: random; --pretrained=imagenet or a model usually helps",
        r"images: kept decoded in memory, \d\.\d GB",
        r"memory: \d+\.\d GB in a real step of 4 images, \d+\.\d GB estimated, of \d+\.\d GB",
        r"step: \S+ s, mean of 8 real ones",
        r"length: 1 epochs of 2 steps, about \S+ h",
        r"evaluations: every 1 epochs",
    ]
    for pattern, line in zip(patterns, content["reasons"], strict=True):
        assert re.fullmatch(pattern, line), line
    config = RunDirectory(tmp_path).config()
    # The flags win over recipe and plan.
    assert config.optimizer.name == "sgd" and config.training.epochs == 1
    assert config.optimizer.learning_rate == 0.008 and config.data.cache
    assert (config.model.image_size, config.model.auto_image_size) == ((64, 64), False)
    assert content["settings"].keys() & {"optimizer.name", "training.epochs"} == set()
    assert call(coco_file, tmp_path, *short) == 0
    printed = capsys.readouterr().out
    assert f"plan of 0.5 h: as stored in {tmp_path}/plan.json\n" in printed
    assert f"{tmp_path}: all 1 epochs are done" in printed
    assert RunDirectory(tmp_path).config() == config
    assert call(coco_file, tmp_path, "--hours=1", *short[1:]) == 1
    assert capsys.readouterr().err == (
        f"train: --hours=1: {tmp_path} was planned for 0.5 h; use --hours=0.5 to resume the run, "
        "or another --model_dir\n"
    )
    (tmp_path / "plan.json").unlink()
    assert call(coco_file, tmp_path, *short) == 1
    assert capsys.readouterr().err == (
        f"train: --hours: {tmp_path} is a run without a readable plan.json; leave it out to resume "
        "the run\n"
    )


def test_auto_leaves_the_choice_to_the_plan(coco_file):
    values = train_command.define_flags()
    given = ["--set=optimizer.learning_rate=auto", "--set=model.image_size=64", "--epochs=3"]
    values(["train", "--hours=1", "--batch_size=auto", *given])
    assert train_command._plan(values).keywords["given"] == {
        *("model.image_size", "training.epochs")
    }
    config = tiny.config(**{"optimizer.learning_rate": "auto", "training.batch_size": "auto"})
    data = data_lib.load(coco_file)
    planner = planning.Planner(config, (data, data), tf.distribute.get_strategy(), ())
    planner.choose_recipe()
    planner.choose_batch_size()
    assert planner.lines[0] == "recipe: finetune, for 8 images"
    assert planner.lines[2:] == ["batch: 8 images"]
    # The rate of the recipe until the range test.
    assert planner.config.optimizer.auto_learning_rate
    assert planner.config.optimizer.learning_rate == 0.008
    # The hours give the epochs.
    assert not planner.config.training.auto_epochs


@pytest.mark.parametrize(
    ("settings", "is_cached"),
    [
        ({}, True),
        ({"data.service": "grpc://a:5050"}, False),
        ({"data.shuffle_buffer": 9}, False),
    ],
)
def test_images_that_are_read_in_another_way_are_not_cached(coco_file, settings, is_cached):
    data = data_lib.load(coco_file)
    config = tiny.config(**settings)
    planner = planning.Planner(config, (data, data), tf.distribute.get_strategy(), ())
    planner.choose_cache()
    assert planner.config.data.cache == is_cached and len(planner.lines) == is_cached


def test_too_few_hours_are_one_line(coco_file):
    data = data_lib.load(coco_file)
    planner = planning.Planner(tiny.config(), (data, data), tf.distribute.get_strategy(), ())
    planner.seconds = 2.0
    with pytest.raises(UserError) as error:
        planner.choose_length(0.1, 180)
    assert str(error.value) == (
        "--hours=0.1: too short for 100 steps of 2 s; use 0.11 or more, a smaller --model or a "
        "smaller model.image_size"
    )


def test_a_given_evaluation_interval_is_part_of_the_estimate(coco_file, capsys):
    data = data_lib.load(coco_file)
    config = tiny.config(**{"training.batch_size": 8, "training.eval_interval_epochs": 3})
    devices, given = tf.distribute.get_strategy(), ("training.eval_interval_epochs",)
    planner = planning.Planner(config, (data, data), devices, given)
    # An epoch is a step, and an evaluation takes half as long.
    planner.seconds = 2.0
    planner.choose_length(0.2, 700)
    assert planner.lines == [
        "length: 300 epochs of 1 steps, about 0.19 h (more would overfit)",
        "evaluations: every 3 epochs",
    ]
    assert "training.eval_interval_epochs" not in planner.settings
    planner = planning.Planner(config, ([0] * 8000, data), devices, given)
    planner.seconds = 1.0
    planner.choose_length(0.2, 500)
    assert (
        planner.lines[0]
        == "length: 10 epochs of 49 steps (0.49 passes over the data), about 0.14 h"
    )


def test_hours_are_a_number(coco_file, tmp_path, capsys):
    assert call(coco_file, tmp_path, "--hours=two") == 1
    assert capsys.readouterr().err.startswith("train: flag --hours=two: could not convert string")
    assert call(coco_file, tmp_path, "--hours=inf") == 1
    assert capsys.readouterr().err == "train: --hours=inf: must be a number of hours\n"
    assert call(coco_file, tmp_path, "--hours=nan") == 1
    assert capsys.readouterr().err == "train: flag --hours=nan: is not a number; see --help\n"
