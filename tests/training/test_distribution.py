"""Several devices and several processes train as one device does."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tiny
from efficientdet_tf.config import ConfigError
from efficientdet_tf.run_directory import RunDirectory
from efficientdet_tf.training import strategy

SCRIPT = Path(__file__).with_name("distributed_run.py")
# An epoch is a step, so that metrics.csv has the loss of each.
SETTINGS = tiny.NETWORK | {
    # Of all BatchNorms, those of the feature network and the heads are enough to be synchronised.
    "model.freeze": "backbone/.*",
    # BatchNorm of as few values as these amplifies rounding, the more the weights move.
    "optimizer.learning_rate": 0.008,
    "augmentation.scale_min": 0.8,
    "augmentation.scale_max": 1.2,
    "training.batch_size": 4,
    "training.epochs": 3,
    "training.steps_per_epoch": 1,
    "training.eval_interval_epochs": 3,
    "training.eval_batch_size": 2,
}


@pytest.fixture(scope="module")
def coco_file(tmp_path_factory):
    # Not a multiple of anything.
    return tiny.write_coco_file(tmp_path_factory.mktemp("coco"), 7)


def start(coco_file, folder, name, devices=1, environment=None) -> subprocess.Popen:
    settings = SETTINGS | {"data.train": coco_file, "data.val": coco_file}
    settings["training.strategy"] = name
    return subprocess.Popen(
        [
            *(sys.executable, str(SCRIPT), str(devices), str(folder)),
            *(f"{key}={value}" for key, value in settings.items()),
        ],
        env={
            **os.environ,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            # As the commands do.
            "TF_USE_LEGACY_KERAS": "1",
            **(environment or {}),
        },
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen) -> str:
    _, err = process.communicate()
    assert process.returncode == 0, err
    return err


def rows(folder: Path) -> list[dict]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def on_one_device(coco_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    finished(start(coco_file, folder, "cpu"))
    return folder


def assert_same_run(folder: Path, expected: Path) -> None:
    """Up to float noise: losses of every step, AP, and the weights at the end."""
    for ours, theirs in zip(rows(folder), rows(expected), strict=True):
        for name in ("loss", "class_loss", "box_loss", "l2_loss"):
            assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=3e-4), ours["epoch"]
    first, same = rows(folder)[0], rows(expected)[0]
    for name in ("loss", "gradient_norm"):
        assert float(first[name]) == pytest.approx(float(same[name]), rel=1e-5)
    for name in ("AP", "AP50"):
        assert float(rows(folder)[-1][name]) == pytest.approx(
            float(rows(expected)[-1][name]), abs=1e-3
        )
    for ours, theirs in zip(
        RunDirectory(folder).load_model("last").trainable_variables,
        RunDirectory(expected).load_model("last").trainable_variables,
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_two_mirrored_devices_train_as_one(coco_file, on_one_device, tmp_path):
    finished(start(coco_file, tmp_path, "mirrored", devices=2))
    assert_same_run(tmp_path, on_one_device)


def test_two_workers_train_as_one_and_go_on_when_one_was_killed(coco_file, on_one_device, tmp_path):
    addresses = [f"localhost:{port}" for port in free_ports(2)]

    def start_workers():
        return [
            start(
                coco_file,
                tmp_path / "run",
                # Which it takes by itself, seeing TF_CONFIG.
                "auto",
                environment={
                    "TF_CONFIG": json.dumps(
                        {
                            "cluster": {"worker": addresses},
                            "task": {"type": "worker", "index": index},
                        }
                    )
                },
            )
            for index in range(2)
        ]

    workers = start_workers()
    while not (tmp_path / "run" / "checkpoints" / "ckpt-1.index").exists():
        assert workers[0].poll() is None, workers[0].stderr.read()
        time.sleep(0.01)
    workers[1].send_signal(signal.SIGKILL)
    workers[1].communicate()
    _, err = workers[0].communicate()
    assert workers[0].returncode == 75, err
    assert err.splitlines()[-1].startswith(
        "train: another worker is gone; restart all of them to resume from the last checkpoint"
    )

    for worker in start_workers():
        finished(worker)
    assert_same_run(tmp_path / "run", on_one_device)
    # The other worker has written nothing of its own.
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    assert len(list((tmp_path / "run" / "tensorboard" / "train").iterdir())) == 2


TWO_STRATEGIES = """
import tensorflow as tf
[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from efficientdet_tf.training import strategy
for size in (8, 48):
    devices = strategy.create("mirrored")
    def total():
        return tf.distribute.get_replica_context().all_reduce("SUM", tf.ones([size]))
    print(devices.experimental_local_results(tf.function(lambda: devices.run(total))())[1].shape)
"""


def test_a_second_training_of_the_same_process_sums_over_devices():
    """As in a notebook; TensorFlow's strategies are for one training of a process."""
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", TWO_STRATEGIES], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "(8,)\n(48,)\n"), done.stderr[-2000:]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("localhost", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def test_a_batch_that_cannot_be_shared_out():
    devices = tf.distribute.OneDeviceStrategy("/cpu:0")
    strategy.check_batch(devices, 6, 3)
    with pytest.raises(ConfigError) as error:
        strategy.check_batch(devices, 6, 4)
    assert str(error.value) == (
        "training.batch_size: 6 cannot be shared out among 1 device in 4 micro-batches each; "
        "choose a multiple of 4"
    )


def test_a_tf_config_that_cannot_be_read(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{")
    with pytest.raises(ConfigError, match="^TF_CONFIG: cannot be read: "):
        strategy.create("auto")


def test_several_workers_need_tf_config(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ConfigError) as error:
        strategy.create("multi_worker")
    assert str(error.value) == (
        "training.strategy: multi_worker, but TF_CONFIG is not set; set it on each machine, or use "
        "auto"
    )


@pytest.mark.parametrize(("name", "tpu"), [("tpu", ""), ("auto", "nowhere")])
def test_a_tpu_that_is_not_there(name, tpu):
    with pytest.raises(ConfigError, match="^training.strategy: tpu, but none can be reached: "):
        strategy.create(name, tpu)


def test_a_tpu_at_an_address_where_nothing_listens(capsys):
    address = f"grpc://localhost:{free_ports(1)[0]}"
    with pytest.raises(ConfigError) as error:
        strategy.create("auto", address)
    assert str(error.value) == (
        "training.strategy: tpu, but none can be reached: [Errno 111] Connection refused"
    )
    assert capsys.readouterr().out == f"training.strategy: tpu: connecting to {address}\n"


def test_strategies_of_this_machine():
    if not tf.config.list_logical_devices("GPU"):
        assert isinstance(strategy.create("auto"), tf.distribute.OneDeviceStrategy)
        with pytest.raises(ConfigError) as error:
            strategy.create("gpu")
        assert str(error.value) == (
            "training.strategy: gpu, but TensorFlow sees none; use cpu or auto"
        )
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    assert strategy.create("mirrored").num_replicas_in_sync == len(devices)
