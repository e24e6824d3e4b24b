"""Training runs on a handful of images."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import tiny
from efficientdet_tf import data as data_lib
from efficientdet_tf import model as model_lib
from efficientdet_tf import resuming
from efficientdet_tf.data import image_verification
from efficientdet_tf.errors import UserError
from efficientdet_tf.evaluation.cached_evaluation import CachedEvaluation
from efficientdet_tf.evaluation.coco import CocoEvaluator
from efficientdet_tf.run_directory import RunDirectory, RunDirectoryError
from efficientdet_tf.training import state
from efficientdet_tf.training import train as run_lib
from efficientdet_tf.training.callbacks import EvaluationFailed
from efficientdet_tf.training.early_stopping import EarlyStopping
from efficientdet_tf.training.loop import TrainingLoop
from efficientdet_tf.training.stopping import StopRequests

REPOSITORY = Path(__file__).parents[2]
METRICS = ("AP", "AP50", "AP75")


@pytest.fixture(scope="module")
def coco_file(tmp_path_factory):
    """Eight built-in images as a COCO file with sparse ids."""
    # Ids with gaps, as in COCO itself.
    return tiny.write_coco_file(tmp_path_factory.mktemp("coco"), 8, tuple(range(10, 40, 3)))


def _config(coco_file, **overrides):
    return tiny.config(
        **{
            "data.train": coco_file,
            "data.val": coco_file,
            "training.batch_size": 4,
            "training.epochs": 1,
        }
        | overrides
    )


@pytest.fixture(scope="module")
def finished(coco_file, tmp_path_factory):
    """The folder of a run of one epoch, resumed for a second one."""
    folder = tmp_path_factory.mktemp("run") / "a" / "b"
    run_lib.train(_config(coco_file), str(folder))
    first = (folder / "last.weights.h5").read_bytes()
    result = run_lib.train(_config(coco_file, **{"training.epochs": 2}), str(folder))
    assert (folder / "last.weights.h5").read_bytes() != first
    return folder, result


@pytest.fixture(scope="module")
def model(coco_file):
    """Model of that run, for tests that restore all of it: it takes seconds to make."""
    config = _config(coco_file, **{"training.epochs": 2, "model.num_classes": 10})
    return run_lib.compiled_model(config, steps=2)


def test_a_run_directory_holds_all_of_a_run(finished, coco_file):
    folder, result = finished
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        *("config.yaml", "label_map.json", "environment.json", "metrics.csv"),
        *("best.weights.h5", "last.weights.h5", "checkpoints", "tensorboard", "training_images"),
    }
    assert not [name for name in names if "partial" in name]
    with h5py.File(folder / "best.weights.h5") as file:
        # Weights alone, without the optimizer.
        assert "layers" in file and "optimizer" not in file
        # Layers of a list go by the name of their class: another name, and no older file fits.
        assert set(file["layers/prediction_head"]) == {"convs", "norms", "predict", "vars"}
        assert "batch_normalization_1" in file["layers/prediction_head/norms"]
    with PIL.Image.open(folder / "training_images" / "training_batch.png") as image:
        assert image.width >= 4 * 64
    directory = RunDirectory(folder)
    assert directory.config().model.num_classes == 10
    assert directory.label_map().ids == tuple(range(10, 40, 3))
    assert json.loads((folder / "environment.json").read_text())["tensorflow"].startswith("2.")
    assert set(result.metrics) >= {"AP", "AP50", "AP75"}


def test_the_second_call_resumed(finished):
    folder, result = finished
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(float(row["loss"]) > 0 for row in rows)
    assert [rows[-1][name] for name in METRICS] == [
        f"{result.metrics[name]:.6g}" for name in METRICS
    ]
    # Either call was planned to its end, even that of a single epoch.
    assert [float(row["learning_rate"]) for row in rows] == [0, 0]


def test_a_finished_run_does_nothing_more(finished, coco_file, tmp_path, capsys):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    before = (folder / "metrics.csv").read_text()
    (folder / "report.html").unlink()
    assert run_lib.train(_config(coco_file, **{"training.epochs": 2}), str(folder)) is None
    assert (folder / "metrics.csv").read_text() == before
    # No network is built: there is no line of its parameters, memory or checkpoint.
    assert capsys.readouterr().out == (
        f"{folder}: all 2 epochs are done\nreport.html is missing: python -m efficientdet_tf "
        f"report --model_dir={folder} writes it\n"
    )


def test_a_resumed_run_reports_the_best_weights_of_earlier_calls(
    finished, model, coco_file, tmp_path, capsys
):
    """When no epoch of this call had a better AP."""
    folder = shutil.copytree(finished[0], tmp_path / "run")
    config = _config(coco_file, **{"training.epochs": 2, "model.num_classes": 10})
    data, directory = run_lib.load_data(config), RunDirectory(folder)
    progress, patience = state.restore(directory, model), EarlyStopping(0, folder / "none", 2)
    loop = TrainingLoop(config, model, *data, 2, progress, directory, patience)
    evaluation = CachedEvaluation(lambda: CocoEvaluator(data[1]))
    latest, best_ap = evaluation.run(), float(progress.best_ap)
    assert latest.metrics["AP"] == 0 < best_ap
    capsys.readouterr()
    assert loop._report(evaluation, StopRequests()) is latest
    assert capsys.readouterr().out == (
        f"best AP {best_ap:.3f}: of best.weights.h5, which eval, export and predict use; the last "
        "epoch has:\n"
    )
    with (folder / "metrics.csv").open() as file:
        best = max(csv.DictReader(file), key=lambda row: float(row["AP"]))
    # With that AP: another would be given after a semicolon.
    page = (folder / "report.html").read_text()
    assert f"with the weights of epoch {best['epoch']}, the best of the run.<" in page


def test_weights_for_use_are_the_moving_average(finished, model):
    folder, _ = finished
    state.restore(RunDirectory(folder), model)
    used = RunDirectory(folder).load_model("last").get_weights()
    with model.averaged_weights():
        averaged = model.get_weights()
    assert all(np.array_equal(a, b) for a, b in zip(used, averaged))
    assert not all(np.array_equal(a, b) for a, b in zip(used, model.get_weights()))


def test_a_run_starts_from_trained_weights_and_resumes_without_them(
    coco_file, tmp_path, capsys, monkeypatch
):
    """With a learning rate of 0, what is trained stays what it started from."""
    # Eight images are a large set, to be decoded beside the training.
    monkeypatch.setattr(image_verification, "MOST_DECODED_FIRST", 7)
    weights, folder = tmp_path / "mine.weights.h5", tmp_path / "run"
    overrides = {"optimizer.learning_rate": 0}
    # The first step is not measured.
    overrides["training.steps_per_epoch"] = 2
    config = _config(coco_file, **overrides, **{"training.pretrained": str(weights)})
    trained = model_lib.build(config.override({"model.num_classes": 10}))
    trained.save_weights(str(weights))
    run_lib.train(config, str(folder))
    total = len(trained.weights)
    printed = capsys.readouterr()
    assert f"{weights}: {total} of {total} variables loaded\n" in printed.out
    assert f"{coco_file}: 8 images verified: all can be decoded" in printed.err
    assert re.search(r"epoch 1: waited for data \d+ % of the time", printed.err)
    # The moving average, too, has only ever seen these weights.
    last = RunDirectory(folder).load_model("last").trainable_weights
    for ours, theirs in zip(last, trained.trainable_weights):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    weights.unlink()
    assert run_lib.train(config, str(folder)) is None
    printed = capsys.readouterr().out
    assert "variables loaded" not in printed
    assert f"{folder}: all 1 epochs are done\n" in printed
    assert RunDirectory(folder).config().training.pretrained == str(weights)


def test_an_evaluation_that_fails_loses_no_step(finished, coco_file, tmp_path, capsys):
    """A damaged validation image, and then a report that cannot be written.

    Resumed with twice the batch size, the learning rate is that of the epochs, not of the steps.
    """
    folder = shutil.copytree(finished[0], tmp_path / "run")
    val = Path(shutil.copytree(Path(coco_file).parent, tmp_path / "val"))
    broken = sorted(val.glob("*.jpg"))[3]
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()
    overrides = {"training.epochs": 4, "training.batch_size": 8, "optimizer.learning_rate": 0.01}
    overrides |= {"data.val": str(val / "annotations.json"), "optimizer.reference_batch_size": 8}
    overrides |= {"data.strict": True, "data.verify": "header", "optimizer.warmup_epochs": 0}
    config = _config(coco_file, **overrides)
    with pytest.raises(EvaluationFailed) as error:
        run_lib.train(config, str(folder))
    assert str(error.value) == (
        f"{broken}: cannot be decoded; it may be damaged; data.strict ends the evaluation at the "
        "first image that cannot be read; checkpoint saved; run the same command to resume"
    )
    printed = capsys.readouterr().out
    assert "changed since: training.batch_size 4 -> 8\n" in printed
    assert "learning rate of step 5: 0 -> 0.005; it had fallen and rises again\n" in printed

    broken.write_bytes(whole)
    with pytest.raises(RunDirectoryError) as error:
        run_lib.train(config, str(folder))
    assert str(error.value) == (
        f"{folder}/report.html: cannot be written: Is a directory; the training is done; python -m "
        f"efficientdet_tf report --model_dir={folder} writes the report"
    )
    assert f"{folder}: resuming after epoch 2 and 1 steps\n" in capsys.readouterr().out
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    # The steps of the third epoch were those of the first call.
    assert rows[2]["loss"] == "" and rows[2]["AP"] and rows[3]["loss"]
    rates = [float(row["learning_rate"]) for row in rows[2:]]
    assert rates == pytest.approx([0.01 * (1 - 0.5**0.5) / 2, 0], rel=1e-5)


def test_trained_weights_that_do_not_fit_leave_no_run_behind(finished, coco_file, tmp_path):
    overrides = {"training.pretrained": str(finished[0]), "neck.num_filters": 24}
    with pytest.raises(UserError) as error:
        run_lib.train(_config(coco_file, **overrides), str(tmp_path / "run"))
    assert str(error.value) == (
        f"{finished[0]}: was trained with neck.num_filters 8, the model has 24; "
        "choose the same --model and settings"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "damage", ["cut off", "gone", "empty data", "empty index", "NUL index", "stray"]
)
def test_a_checkpoint_that_cannot_be_read(finished, model, tmp_path, capsys, damage):
    """It is named, and the one before is used."""
    folder = shutil.copytree(finished[0], tmp_path / "run")
    broken, data = folder / "checkpoints" / "ckpt-4", "ckpt-4.data-00000-of-00001"
    if damage == "cut off":
        os.truncate(broken.parent / data, 1000)
    elif damage == "gone":
        (broken.parent / data).unlink()
    elif damage == "empty data":
        # As after a power cut.
        os.truncate(broken.parent / data, 0)
    elif damage == "empty index":
        os.truncate(broken.with_suffix(".index"), 0)
    elif damage == "NUL index":
        size = broken.with_suffix(".index").stat().st_size
        broken.with_suffix(".index").write_bytes(b"\0" * size)
    else:
        broken = broken.with_name("ckpt-7")
        broken.with_suffix(".index").write_bytes(b"no checkpoint")
    # TensorFlow's own list of checkpoints is not needed either.
    (broken.parent / "checkpoint").unlink()
    progress = state.restore(RunDirectory(folder), model)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{broken}: unreadable checkpoint (")
    assert lines[0].endswith("; falling back to the previous one")
    epochs = 2 if damage == "stray" else 1
    assert lines[1] == f"{folder}: resuming after epoch {epochs}"
    assert int(progress.epochs_done) == epochs
    assert int(model.optimizer.iterations) == 2 * epochs


def test_checkpoints_of_other_settings_than_config_yaml_has_are_not_taken_for_damaged(
    finished, coco_file, tmp_path, capsys
):
    """As versions left them that wrote config.yaml before they looked."""
    folder = shutil.copytree(finished[0], tmp_path / "run")
    other = {"training.epochs": 2, "model.num_classes": 10, "optimizer.name": "adam"}
    model = run_lib.compiled_model(_config(coco_file, **other), steps=2)
    with pytest.raises(RunDirectoryError) as error:
        state.restore(RunDirectory(folder), model)
    assert str(error.value) == (
        f"{folder}/checkpoints/ckpt-4: does not match the settings of config.yaml; "
        "use those it was trained with, or another --model_dir"
    )
    assert capsys.readouterr().out == ""


def test_a_checkpoint_of_a_version_that_knew_no_steps_within_epochs(
    finished, model, tmp_path, capsys
):
    now = state.restore(RunDirectory(finished[0]), model)
    then = tf.train.Checkpoint(
        **{
            name: getattr(now, name)
            for name in ("model", "optimizer", "moving_average", "best_ap", "epochs_done")
        }
    )
    # They were numbered by epochs.
    tf.train.CheckpointManager(then, str(tmp_path / "checkpoints"), 2).save(2)
    capsys.readouterr()
    now.optimizer.iterations.assign(0)
    progress = state.restore(RunDirectory(tmp_path), model)
    assert capsys.readouterr().out == f"{tmp_path}: resuming after epoch 2\n"
    assert (int(progress.epochs_done), int(progress.steps_into_epoch)) == (2, 0)
    assert int(progress.optimizer.iterations) == 4


def test_no_checkpoint_can_be_read(finished, coco_file, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    for path in (folder / "checkpoints").glob("ckpt-*.data*"):
        path.write_bytes(b"")
    with pytest.raises(RunDirectoryError) as error:
        run_lib.train(_config(coco_file, **{"training.epochs": 3}), str(folder))
    assert str(error.value) == (
        f"{folder}/checkpoints: none of its checkpoints can be read; start a new run in another "
        f"--model_dir, with --pretrained={folder} from its weights"
    )


def test_a_run_of_a_newer_version(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    path = folder / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(RunDirectoryError) as error:
        RunDirectory(folder).load_model()
    assert str(error.value) == (
        f"{folder}: written by a newer version (format 2, this one reads up to 1); "
        "update the program"
    )


def test_another_model_in_the_same_folder_is_refused(finished, coco_file):
    folder, _ = finished
    with pytest.raises(RunDirectoryError) as error:
        run_lib.train(_config(coco_file, **{"neck.num_filters": 24}), str(folder))
    assert str(error.value) == (
        f"{folder}: contains a run with neck.num_filters 8, not 24; "
        "use another --model_dir or the same settings"
    )
    assert RunDirectory(folder).config().neck.num_filters == 8


def test_other_settings_are_listed_with_what_follows_and_kept_in_mind(
    finished, model, coco_file, tmp_path, capsys
):
    """Another validation set and more epochs, when the cosine was at its end."""
    folder = shutil.copytree(finished[0], tmp_path / "run")
    same_data = shutil.copytree(Path(coco_file).parent, tmp_path / "val") / "annotations.json"
    with (folder / "metrics.csv").open() as file:
        best_ap = max(float(row["AP"]) for row in csv.DictReader(file))
    config = _config(coco_file, **{"training.epochs": 4, "training.patience": 9})
    config = config.override({"data.val": str(same_data), "model.num_classes": 10})
    train_data, _ = run_lib.load_data(config)
    directory = RunDirectory(folder)
    stored, progress = directory.config(), state.restore(directory, model)
    progress.best_ap.assign(max(best_ap, 0.5))
    capsys.readouterr()
    changes = run_lib._changes(directory, stored, config, progress, 4, len(train_data))
    assert capsys.readouterr().out.splitlines() == [
        f"changed since: data.val {coco_file} -> {same_data}",
        "changed since: training.epochs 2 -> 4",
        "changed since: training.patience 0 -> 9",
        "learning rate of step 5: 0 -> 0.00375; it had fallen and rises again",
        f"best AP {max(best_ap, 0.5):.3f}: reset, as it was measured with other settings; "
        "best.weights.h5 is replaced at the next evaluation; early stopping restarts",
    ]
    assert float(progress.best_ap) == -1
    # A second start before the first checkpoint forgets it again; later ones do not.
    resuming.write_changes(folder, changes)
    progress.best_ap.assign(0.5)
    run_lib._changes(directory, config, config, progress, 4, len(train_data))
    assert float(progress.best_ap) == -1
    progress.optimizer.iterations.assign(5)
    progress.best_ap.assign(0.5)
    run_lib._changes(directory, config, config, progress, 4, len(train_data))
    assert float(progress.best_ap) == 0.5
    assert capsys.readouterr().out == ""
    patience = EarlyStopping(1, folder / "metrics.csv", 2, resuming.measured_since(changes).epoch)
    assert patience._history == []


def test_without_a_moving_average_a_run_trains_resumes_and_has_weights(coco_file, tmp_path):
    settings = {"optimizer.ema_decay": 0, "training.steps_per_epoch": 1}
    result = run_lib.train(_config(coco_file, **settings), str(tmp_path))
    assert result.num_images == 8
    config = _config(coco_file, **settings, **{"model.num_classes": 10})
    model = run_lib.compiled_model(config, steps=1)
    progress = state.restore(RunDirectory(tmp_path), model)
    assert int(progress.epochs_done) == int(progress.optimizer.iterations) == 1
    used = RunDirectory(tmp_path).load_model("last").get_weights()
    for one, other in zip(used, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_other_weights_are_refused(finished, coco_file, tmp_path):
    folder, _ = finished
    other = RunDirectory(tmp_path)
    label_map = data_lib.load(coco_file).label_map
    other.create(_config(coco_file, **{"neck.num_filters": 24}), label_map)
    (tmp_path / "best.weights.h5").write_bytes((folder / "best.weights.h5").read_bytes())
    with pytest.raises(RunDirectoryError, match="best.weights.h5: does not fit config.yaml: "):
        other.load_model()
