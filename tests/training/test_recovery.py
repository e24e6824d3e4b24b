"""Recovery from divergence, on runs whose loss is NaN above a learning rate."""

import csv
import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tiny
from efficientdet_tf.losses import DetectionLoss
from efficientdet_tf.run_directory import RunDirectory
from efficientdet_tf.training import callbacks, recovery, state
from efficientdet_tf.training import train as run_lib
from efficientdet_tf.training.recovery import TrainingDiverged

RATE = 0.064


@pytest.fixture(scope="module")
def coco_file(tmp_path_factory):
    return tiny.write_coco_file(tmp_path_factory.mktemp("coco"), 4)


def config(coco_file, **overrides):
    return tiny.config(
        **{
            "data.train": coco_file,
            "data.val": coco_file,
            "training.batch_size": 2,
            "training.steps_per_epoch": 1,
            "training.epochs": 3,
            "training.eval_interval_epochs": 3,
            "optimizer.learning_rate": RATE,
        }
        | overrides
    )


@pytest.fixture
def diverges_above(monkeypatch):
    """A function that makes the loss NaN from the third step on, for learning rates above one."""
    from_config = DetectionLoss.from_config
    steps = tf.Variable(0)

    def set_limit(rate):
        def broken(config):
            loss = from_config(config)
            if config.optimizer.learning_rate <= rate:
                return loss

            def nan(*args, **kwargs):
                factor = tf.where(steps.assign_add(1) < 3, 1.0, np.nan)
                return {name: value * factor for name, value in loss(*args, **kwargs).items()}

            return nan

        monkeypatch.setattr(DetectionLoss, "from_config", broken)

    return set_limit


def test_back_to_the_last_checkpoint_then_to_the_one_before(
    coco_file, tmp_path, diverges_above, capsys
):
    diverges_above(RATE / 4)
    result = run_lib.train(config(coco_file), str(tmp_path))
    assert 0 <= result.metrics["AP"] <= 1
    lines = [
        line.partition("; its images are ")[0]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(("the loss", "recovery", "learning rate: "))
    ]
    file = tmp_path / "recoveries.json"
    note = f"after divergence ({file}); --set optimizer.learning_rate=... chooses another"
    assert lines == [
        "the loss became nan at step 3",
        "recovery 1 of 3: back to the checkpoint of step 2, half the learning rate",
        f"learning rate: 0.032 instead of 0.064 {note}",
        "the loss became nan at step 3",
        # Its weights are at fault.
        "recovery 2 of 3: back to the checkpoint of step 1, half the learning rate",
        f"learning rate: 0.016 instead of 0.064 {note}",
    ]
    assert json.loads(file.read_text()) == [
        {"step": 3, "checkpoint": 2, "learning_rate": RATE},
        {"step": 3, "checkpoint": 1, "learning_rate": RATE},
    ]
    with (tmp_path / "metrics.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    # At the end of the one epoch of warm-up the peak, of batches of 2; then half of a quarter.
    assert float(rows[0]["learning_rate"]) == pytest.approx(RATE * 2 / 64)
    assert float(rows[1]["learning_rate"]) == pytest.approx(RATE / 4 * 2 / 64 / 2)
    # The settings stay those of the user.
    assert RunDirectory(tmp_path).config().optimizer.learning_rate == RATE
    assert [path.name for path in state.checkpoints(RunDirectory(tmp_path))] == ["ckpt-3", "ckpt-2"]


def test_the_last_divergence_ends_the_run(coco_file, tmp_path, capsys):
    few, directory = config(coco_file, **{"training.max_recoveries": 1}), RunDirectory(tmp_path)
    error = TrainingDiverged("the loss became nan at step 7", 7)
    recovery.recover(directory, few, error)
    assert capsys.readouterr().out == (
        "the loss became nan at step 7\n"
        "recovery 1 of 1: back to the beginning, half the learning rate\n"
    )
    with pytest.raises(TrainingDiverged) as last:
        recovery.recover(directory, few, error)
    assert str(last.value) == (
        "the loss became nan at step 7; recoveries with half the learning rate, without success: 1"
    )
    # Another learning rate is the user's choice.
    other = few.override({"optimizer.learning_rate": 0.01})
    assert recovery.with_halved_rate(other, tmp_path) == other
    assert recovery.describe(other, tmp_path) == ""
    recovery.recover(directory, other, error)
    # That of the first learning rate is kept.
    halved = recovery.with_halved_rate(few, tmp_path)
    assert halved.optimizer.learning_rate == RATE / 2


def test_the_only_checkpoint_is_kept(coco_file, tmp_path):
    directory = RunDirectory(tmp_path)
    directory.checkpoints.mkdir()
    (directory.checkpoints / "ckpt-5.index").touch()
    error = TrainingDiverged("the loss became nan at step 7", 7)
    recovery.recover(directory, config(coco_file), error)
    with pytest.raises(TrainingDiverged) as again:
        recovery.recover(directory, config(coco_file), error)
    assert str(again.value) == (
        "the loss became nan at step 7; so it did before from the only checkpoint, of step 5"
    )
    assert (directory.checkpoints / "ckpt-5.index").exists()


@pytest.mark.parametrize("text", ["", "[{}]", "[1]", '{"step": 1}', '[{"step": "x"}]'])
def test_a_damaged_file_is_as_none(coco_file, tmp_path, text):
    (tmp_path / recovery.FILE).write_text(text)
    assert recovery.recoveries(tmp_path, config(coco_file)) == []


def test_an_exploding_loss_is_compared_with_the_epoch_before():
    stop = callbacks.StopOnDivergence(lambda: ["17 (a.jpg)"])
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd")
    stop.set_model(model)
    stop.set_params({"steps": 20})
    stop.on_train_batch_end(0, {"loss": 1e6})
    stop.on_epoch_end(0, {"loss": 2.0})
    stop.on_train_batch_end(9, {"loss": 200.0})
    # Not yet a mean.
    stop.on_train_batch_end(8, {"loss": 201.0})
    with pytest.raises(TrainingDiverged, match="^the loss became 201 at step 0; its images are 17"):
        stop.on_train_batch_end(9, {"loss": 201.0})
    # At the end of an epoch of fewer steps it is one, too.
    stop.set_params({"steps": 3})
    stop.on_train_batch_end(1, {"loss": 201.0})
    with pytest.raises(TrainingDiverged, match="^the loss became 201 at step 0"):
        stop.on_train_batch_end(2, {"loss": 201.0})
