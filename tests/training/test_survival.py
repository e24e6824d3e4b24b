"""Runs that are killed, stopped, or cannot write, as their users start them."""

import csv
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow as tf
import tf_keras as keras

import tiny
from efficientdet_tf.config import Config
from efficientdet_tf.data import digits
from efficientdet_tf.run_directory import RunDirectory, RunDirectoryError
from efficientdet_tf.training import callbacks, state, stopping
from efficientdet_tf.training import train as run_lib
from efficientdet_tf.training.stream import TrainingStream

REPOSITORY = Path(__file__).parents[2]
SETTINGS = tiny.NETWORK | {
    "training.epochs": 2,
    "training.batch_size": 2,
    "training.steps_per_epoch": 10,
    "training.checkpoint_interval_steps": 2,
    "training.deterministic": True,
    "training.eval_interval_epochs": 2,
}
# What has to come again: dropped branches, crops, and mosaics, of which an epoch has none.
RANDOM = tiny.EFFICIENTNET | {
    "model.backbone_survival_prob": 0.5,
    "augmentation.mosaic": 0.5,
    "augmentation.plain_epochs": 1,
}


@pytest.fixture(scope="module")
def coco_file(tmp_path_factory):
    return tiny.write_coco_file(tmp_path_factory.mktemp("coco"), 7)


def start(coco_file, folder, **overrides) -> subprocess.Popen:
    """`train.py`, in a process of its own."""
    settings = SETTINGS | overrides | {"data.train": coco_file, "data.val": coco_file}
    arguments = [f"--set={key}={value}" for key, value in settings.items()]
    return subprocess.Popen(
        [
            *(sys.executable, str(REPOSITORY / "train.py"), "--model=efficientdet-lite0"),
            *(f"--model_dir={folder}", *arguments),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen, folder: Path, step: int) -> None:
    """Until the checkpoint of a step is there."""
    while not (folder / "checkpoints" / f"ckpt-{step}.index").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def interrupt(process: subprocess.Popen, folder: Path, step: int, number: int) -> tuple[str, str]:
    """Sends a signal once the checkpoint of a step is there."""
    wait_for(process, folder, step)
    process.send_signal(number)
    return process.communicate()


@pytest.fixture(scope="module")
def undisturbed(coco_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    process = start(coco_file, folder, **RANDOM)
    out, err = process.communicate()
    assert process.returncode == 0, err
    return folder


def test_killed_and_stopped_it_ends_with_the_same_bits(undisturbed, coco_file, tmp_path):
    """kill -9 and a lost disk within the first epoch, SIGTERM in the second, then to the end."""
    killed = start(coco_file, tmp_path, **RANDOM)
    interrupt(killed, tmp_path, 4, signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL

    images = sorted(Path(coco_file).parent.glob("*.jpg"))
    starved = start(coco_file, tmp_path, **RANDOM)
    wait_for(starved, tmp_path, 6)
    for image in images:
        image.rename(image.with_suffix(".gone"))
    out, err = starved.communicate()
    assert f"{tmp_path}: left by process {killed.pid} on " in out
    assert starved.returncode == 1
    assert re.fullmatch(
        r"train: training data: \d+ images in a row cannot be read, the last \S+\.jpg: No such "
        "file or directory; checkpoint saved; run the same command to resume",
        err.splitlines()[-1],
    )
    for image in images:
        image.with_suffix(".gone").rename(image)

    stopped = start(coco_file, tmp_path, **RANDOM)
    out, err = interrupt(stopped, tmp_path, 12, signal.SIGTERM)
    assert stopped.returncode == 143
    assert f"{tmp_path}: resuming after epoch 0 and " in out
    assert err.splitlines()[-1] == (
        "train: stopped by SIGTERM; checkpoint saved; run the same command to resume"
    )

    finished = start(coco_file, tmp_path, **RANDOM)
    out, err = finished.communicate()
    assert finished.returncode == 0, err
    assert re.search(r"resuming after epoch 1 and \d+ steps", out)
    tiny.assert_same_weights(tmp_path, undisturbed)

    with (tmp_path / "metrics.csv").open() as file, (undisturbed / "metrics.csv").open() as other:
        rows, expected = list(csv.DictReader(file)), list(csv.DictReader(other))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert rows[-1]["AP"] == expected[-1]["AP"]


def test_reads_that_never_end_do_not_hold_up_a_stop(tmp_path):
    """As of a network disk that is gone: pipes into which nobody writes."""
    coco_file, folder = tiny.write_coco_file(tmp_path / "data", 7), tmp_path / "run"
    process = start(coco_file, folder)
    wait_for(process, folder, 2)
    for image in (tmp_path / "data").glob("*.jpg"):
        os.mkfifo(image.with_suffix(".pipe"))
        image.with_suffix(".pipe").rename(image)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 143
    assert err.splitlines()[-1].startswith("train: stopped by SIGTERM; ")


def test_damaged_images_are_skipped_and_named(tmp_path, capsys):
    coco_file, folder = tiny.write_coco_file(tmp_path / "data", 7), tmp_path / "run"
    images = sorted((tmp_path / "data").glob("*.jpg"))
    # Their headers are whole.
    os.truncate(images[3], images[3].stat().st_size // 2)
    config = Config.for_model("efficientdet-lite0").override(
        SETTINGS
        | {"data.train": coco_file, "data.val": coco_file, "data.verify": "header"}
        | {"training.epochs": 1, "training.steps_per_epoch": 6, "training.deterministic": False}
    )
    run_lib.train(config, str(folder))
    line = f"{images[3]}: cannot be decoded; it may be damaged"
    assert capsys.readouterr().err.count(f"{line}; skipped in training\n") == 1
    assert (folder / "skipped_images.csv").read_text().splitlines() == [
        "image,reason",
        line.replace(": ", ",", 1),
    ]
    with (folder / "metrics.csv").open() as file:
        [row] = csv.DictReader(file)
    # Of 12 images of seven, one in each pass.
    assert int(row["images_skipped"]) in (1, 2)
    summary = f"Images skipped in training: 1, {row['images_skipped']} times"
    assert summary in (folder / "report.html").read_text()


def test_a_stop_during_evaluation_comes_back_to_it(undisturbed, coco_file, tmp_path):
    """The epoch's steps are done: what is left of it is the evaluation."""
    # Without the mosaics of that run, as no step is taken.
    config = Config.for_model("efficientdet-lite0").override(
        SETTINGS
        | tiny.EFFICIENTNET
        | {"model.backbone_survival_prob": 0.5}
        | {"data.train": coco_file, "data.val": coco_file, "training.deterministic": False}
    )
    # As the signal leaves it: all steps, and the second epoch not done.
    folder = shutil.copytree(undisturbed, tmp_path / "stopped")
    for name in ("last.weights.h5", "best.weights.h5"):
        (folder / name).unlink()
    header, first, second = (folder / "metrics.csv").read_text().splitlines()
    (folder / "metrics.csv").write_text(f"{header}\n{first}\n")
    model = run_lib.compiled_model(config.override({"model.num_classes": 10}), steps=10)
    progress = state.restore(RunDirectory(folder), model)
    progress.epochs_done.assign(1)
    progress.steps_into_epoch.assign(10)
    tf.train.CheckpointManager(progress, str(folder / "checkpoints"), 5).save(20)

    result = run_lib.train(config, str(folder))
    assert result.num_images == 7
    tiny.assert_same_weights(folder, undisturbed)
    with (folder / "metrics.csv").open() as file:
        *_, row = csv.DictReader(file)
    assert row["epoch"] == "2" and row["loss"] == ""
    assert row["AP"] == dict(zip(header.split(","), second.split(","), strict=True))["AP"]
    epochs_done = "epochs_done/.ATTRIBUTES/VARIABLE_VALUE"
    assert tf.train.load_variable(str(folder / "checkpoints"), epochs_done) == 2


def test_a_request_within_at_once_is_answered_there():
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(stopping.Stopped) as error, stopping.StopRequests() as requests:
        requests.check()
        with requests.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
    assert error.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.fixture
def interruptible():
    """SIGINT as in the foreground: a shell ignores it for what it starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_request_waits_for_the_end_of_a_step_and_a_second_one_does_not(interruptible):
    with stopping.StopRequests() as requests:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        with pytest.raises(stopping.Stopped, match="^stopped by SIGINT$"):
            requests.check()


def test_a_disk_that_is_too_small_is_told_before_the_start(coco_file, tmp_path):
    config = Config.for_model("efficientdet-lite0").override(
        SETTINGS
        | {"data.train": coco_file, "data.val": coco_file, "training.deterministic": False}
        | {"training.keep_checkpoints": 10**9}
    )
    with pytest.raises(RunDirectoryError) as error:
        run_lib.train(config, str(tmp_path))
    assert re.fullmatch(
        rf"{tmp_path}: the disk has \d+ MiB left, and the run needs \d+ MiB; free disk space, use "
        "another --model_dir, or keep fewer checkpoints: --set training.keep_checkpoints=1",
        str(error.value),
    )


@pytest.fixture
def small_files():
    """The system lets no file grow beyond 100 KB: smaller than a checkpoint or weights."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_weights_that_cannot_be_written_are_one_line(coco_file, tmp_path, small_files):
    """Without checkpoints within the epoch they are what is written first."""
    process = start(coco_file, tmp_path, **{"training.checkpoint_interval_steps": 0})
    _, err = process.communicate()
    assert process.returncode == 1
    assert err.splitlines()[-1] == (
        f"train: {tmp_path}/last.weights.h5: cannot be written: File too large; the checkpoints "
        "are kept, the same command resumes from the last"
    )
    assert not list(tmp_path.glob("*partial*"))


def test_a_checkpoint_that_cannot_be_written_is_one_line(tmp_path, small_files):
    optimizer = keras.optimizers.SGD()
    optimizer.build([tf.Variable(tf.zeros([200, 200]))])
    names = ("epochs_done", "steps_into_epoch", "images_skipped")
    progress = tf.train.Checkpoint(optimizer=optimizer, **{n: tf.Variable(0) for n in names})
    data = digits.load("train", num_images=2)
    stream = TrainingStream(data, Config(), tf.distribute.get_strategy(), 0)
    requests = stopping.StopRequests()
    saver = callbacks.SaveState(progress, RunDirectory(tmp_path), 2, 0, requests, stream)
    with pytest.raises(RunDirectoryError) as error:
        saver.save()
    assert re.fullmatch(
        f"{tmp_path}/checkpoints: checkpoint 0 cannot be written: .*; earlier ones are kept",
        str(error.value),
    )
