"""tf.data service: images that other processes prepare, tried with two workers."""

import dataclasses
import gc
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from itertools import islice
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf

import tiny
from commands import REPOSITORY, call
from efficientdet_tf import data as data_lib
from efficientdet_tf.config import Config, ConfigError
from efficientdet_tf.data import DataError, DetectionData, service, stream_order
from efficientdet_tf.data.pipeline import training_dataset
from efficientdet_tf.data.reading import ReadFailures
from efficientdet_tf.data.records import UnlabeledImages
from efficientdet_tf.data.service import ServedOrder
from efficientdet_tf.data.stream_share import Share
from efficientdet_tf.data.tfrecord import write_tfrecord
from efficientdet_tf.metrics_history import read_history
from efficientdet_tf.training.stream import TrainingStream

NUM_IMAGES = 24


def start(*flags: str) -> tuple[subprocess.Popen, str]:
    """Start a process of the service: it, and its first line."""
    command = [sys.executable, "-m", "efficientdet_tf", "data", "serve", "--host=localhost"]
    process = subprocess.Popen(
        [*command, *flags], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Address of a dispatcher with two workers, in processes of their own."""
    dispatcher, line = start("--port=0")
    address = re.fullmatch(r"dispatcher at (grpc://localhost:\d+), with one worker\n", line)[1]
    worker, line = start(f"--dispatcher={address}")
    assert line == f"a worker of {address}, reached as localhost\n"
    yield address
    # Clients would keep asking for the dispatcher.
    gc.collect()
    worker.send_signal(signal.SIGINT)
    dispatcher.send_signal(signal.SIGTERM)
    assert (worker.wait(20), dispatcher.wait(20)) == (-signal.SIGINT, -signal.SIGTERM)


@pytest.fixture
def coco_file(tmp_path) -> str:
    return tiny.write_coco_file(tmp_path / "data", NUM_IMAGES)


@pytest.fixture
def data(coco_file) -> DetectionData:
    return data_lib.load(coco_file)


def served(address: str, **settings: object) -> Config:
    return tiny.config(**{"data.service": address, "training.batch_size": 4} | settings)


def still(config: Config) -> Config:
    """Without augmentation."""
    no_flip = {"augmentation.horizontal_flip": False}
    return config.override(no_flip | {"augmentation.scale_min": 1.0, "augmentation.scale_max": 1.0})


def images_of(data: DetectionData, config: Config, count: int, **arguments) -> list[bytes]:
    stream = training_dataset(data, config, 1, seed=1, **arguments).take(count)
    return [image.tobytes() for batch, _ in stream for image in batch.numpy()]


@pytest.mark.parametrize("count", [1, 7])
def test_each_pass_has_each_image_once_in_another_order(data, count):
    order = ServedOrder(dataclasses.replace(data, records=data.records[:count]), Share(3))
    pairs = [tuple(map(int, pair)) for pair in order.images().take(5 * count)]
    assert [number for number, _ in pairs] == list(range(5 * count))
    epochs = np.reshape([position for _, position in pairs], [5, count])
    assert (np.sort(epochs) == np.arange(count)).all()
    assert len({tuple(epoch) for epoch in epochs}) == (1 if count == 1 else 5)


def test_workers_of_a_training_share_the_numbers(data):
    whole = [tuple(map(int, pair)) for pair in ServedOrder(data, Share(3)).images().take(120)]
    for worker in range(3):
        share = ServedOrder(data, Share(3, 12, 3, worker)).images().take(30)
        assert [tuple(map(int, pair)) for pair in share] == whole[12 + worker : 102 : 3]


def test_unlabelled_images_are_spread_among_the_others(data):
    others = UnlabeledImages(data.records[:5], 0.25)
    order = ServedOrder(dataclasses.replace(data, unlabeled=others), Share(3))
    positions = np.array([int(position) for _, position in order.images().take(4 * NUM_IMAGES)])
    is_unlabeled = positions >= NUM_IMAGES
    assert is_unlabeled.reshape(-1, 4).sum(axis=1).tolist() == [1] * NUM_IMAGES
    labelled = positions[~is_unlabeled].reshape(3, NUM_IMAGES)
    assert (np.sort(labelled) == np.arange(NUM_IMAGES)).all()
    assert (np.sort(positions[is_unlabeled][:5]) == NUM_IMAGES + np.arange(5)).all()


def test_workers_prepare_the_images_that_this_process_would(data, address):
    config = still(served(address))
    expected = images_of(data, config.override({"data.service": ""}), NUM_IMAGES)
    # Five blocks of sixteen numbers over two workers; the last may still be on its way.
    found = images_of(data, config, 5 * NUM_IMAGES)
    assert set(found) == set(expected)
    assert all(2 <= found.count(image) <= 6 for image in expected)
    augmented = images_of(data, served(address, **{"augmentation.mosaic": 1.0}), 30)
    assert len(set(augmented)) == 30 and not set(augmented) & set(expected)


def test_targets_are_those_of_the_image(data, address):
    config = still(served(address))
    here = training_dataset(data, config.override({"data.service": ""}), 1).take(NUM_IMAGES)
    targets = {images.numpy().tobytes(): targets for images, targets in here}
    for images, found in training_dataset(data, config, 1).take(20):
        expected = targets[images.numpy().tobytes()]
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize("in_shards", [False, True])
def test_unreadable_images_are_skipped_and_recorded(data, address, tmp_path, in_shards):
    if in_shards:
        write_tfrecord(data, str(tmp_path / "set" / "train.tfrecord"), shards=2)
        data = data_lib.load(str(tmp_path / "set"))
        image = data.records[5].image
        content = bytearray(Path(image.file).read_bytes())
        content[image.offset + 9] ^= 255
        Path(image.file).write_bytes(content)
    else:
        os.remove(data.records[5].image)
    failures = ReadFailures()
    images = images_of(data, still(served(address)), 4 * NUM_IMAGES, failures=failures)
    assert len(set(images)) == NUM_IMAGES - 1
    assert set(failures.positions) == {5} and not failures.has_ended


def test_a_run_names_and_counts_what_it_skips(data, address):
    os.remove(data.records[5].image)
    stream = TrainingStream(data, served(address), tf.distribute.get_strategy(), 3)
    for _ in islice(stream.batches(0), 24):
        stream.step_done()
    [(record, reason)] = stream.newly_unreadable()
    assert (record.name, reason) == (data.records[5].name, "No such file or directory")
    assert stream.num_skipped == 3 + stream.num_unread and 1 <= stream.num_unread <= 8
    assert stream.images_of_last_step() == []


@pytest.mark.parametrize("strict", [False, True])
def test_a_run_without_readable_images_ends(data, address, strict):
    for record in data.records:
        os.remove(record.image)
    config = served(address, **{"data.strict": strict})
    stream = TrainingStream(data, config, tf.distribute.get_strategy(), 0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="too many images in a row") as error:
        next(iter(stream.batches(0)))
    message = str(stream.explain(error.value))
    if strict:
        end = "data.strict ends training at the first image that cannot be read"
        assert message.endswith(f": No such file or directory; {end}")
    else:
        # 64 images and four for each core.
        count = 65 + 4 * os.cpu_count()
        start = f"training data: {count} images in a row cannot be read, the last "
        assert message.startswith(start) and message.endswith(": No such file or directory")


def test_a_training_with_the_service(coco_file, address, tmp_path):
    settings = [f"--set={key}={value}" for key, value in tiny.NETWORK.items()]
    done = call(
        *("train.py", "--model=efficientdet-lite0", *settings, f"--set=data.service={address}"),
        *(f"--train_data={coco_file}", f"--val_data={coco_file}", "--batch_size=4", "--epochs=1"),
        f"--model_dir={tmp_path / 'run'}",
    )
    assert done.returncode == 0, done.stderr
    [epoch] = read_history(tmp_path / "run" / "metrics.csv").epochs
    assert epoch["images_skipped"] == 0 and 0 < epoch["loss"] < 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"data.cache": True},
            "data.service: its workers read image by image; set data.cache=false",
        ),
        (
            {"data.shuffle_buffer": 9},
            "data.service: its workers read image by image; set data.shuffle_buffer=0",
        ),
    ],
)
def test_settings_that_exclude_each_other(settings, message):
    with pytest.raises(ConfigError) as error:
        served("grpc://localhost:5050", **settings)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "localhost:5050",
            "data.service: localhost:5050 is no address such as grpc://10.0.0.1:5050",
        ),
        (
            "grpc://localhost:1",
            "data.service: nobody answers at grpc://localhost:1 ([Errno 111] Connection refused); "
            "start the dispatcher there with `python -m efficientdet_tf data serve --port=1`",
        ),
    ],
)
def test_a_service_that_is_not_there(coco_file, tmp_path, address, message):
    paths = (f"--train_data={coco_file}", f"--val_data={coco_file}", f"--model_dir={tmp_path}")
    done = call("train.py", *paths, f"--set=data.service={address}")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (1, f"train: {message}")


def test_a_deterministic_training_prepares_its_own_images(data):
    config = served("grpc://localhost:1", **{"training.deterministic": True})
    with pytest.raises(DataError) as error:
        stream_order.check(data, config)
    assert str(error.value) == (
        "data.service: images come in the order in which its workers finish; set "
        "training.deterministic=false"
    )


def test_a_port_that_is_in_use_and_a_host_that_is_unknown(address):
    port = address.rpartition(":")[2]
    command = ("-m", "efficientdet_tf", "data", "serve")
    done = call(*command, f"--port={port}")
    assert done.returncode == 1 and done.stderr == (
        f"data: --port: {port} cannot be used: [Errno 98] Address already in use; choose another\n"
    )
    done = call(*command, "--port=0", "--host=nosuch.invalid")
    assert done.returncode == 1
    assert done.stderr == "data: --host: nosuch.invalid: Name or service not known\n"
    done = call(*command, f"--port={free_port()}", f"--state_dir={__file__}")
    assert done.returncode == 1
    assert done.stderr == f"data: --state_dir: {__file__} cannot be written: File exists\n"


def test_a_service_that_does_not_answer(monkeypatch):
    """Somebody listens, but it is no dispatcher with a worker."""
    monkeypatch.setattr(service, "_ANSWER_SECONDS", 2.0)
    with socket.socket() as other:
        other.bind(("localhost", 0))
        other.listen()
        address = f"grpc://localhost:{other.getsockname()[1]}"
        with pytest.raises(DataError) as error:
            service.check_service(address)
    assert str(error.value) == (
        f"data.service: no worker of {address} answers within 2 s; see that one runs (python -m "
        "efficientdet_tf data serve) and is reached by its name (--host)"
    )


def test_another_server_in_place_of_a_dispatcher():
    server = grpc.server(futures.ThreadPoolExecutor(1))
    address = f"grpc://localhost:{server.add_insecure_port('localhost:0')}"
    server.start()
    try:
        with pytest.raises(DataError) as error:
            service.check_service(address)
    finally:
        server.stop(None)
    assert str(error.value) == (
        f"data.service: {address} refuses (Failed to get dispatcher version from dispatcher "
        f"running at {address[7:]}: Method not found!); see that it is a dispatcher with the "
        f"TensorFlow of this process, {tf.__version__}"
    )


def test_a_worker_without_its_dispatcher():
    done = call("-m", "efficientdet_tf", "data", "serve", "--dispatcher=grpc://localhost:1")
    assert done.returncode == 1
    assert done.stderr == (
        "data: --dispatcher: nobody answers at grpc://localhost:1 ([Errno 111] Connection refused)"
        "; start the dispatcher there with `python -m efficientdet_tf data serve --port=1`\n"
    )


@pytest.mark.parametrize("has_state", [False, True])
def test_a_dispatcher_that_is_started_again(data, tmp_path, has_state):
    port = free_port()
    state_dir = str(tmp_path / "state") if has_state else None
    address, servers = service.start(port, None, "localhost", state_dir)
    stream = TrainingStream(data, served(address), tf.distribute.get_strategy(), 0)
    batches = iter(stream.batches(0))
    next(batches)
    # The worker first: it ends in good order while its dispatcher is there.
    del servers[1], servers[0]
    _, servers = service.start(port, None, "localhost", state_dir)
    if has_state:
        assert len(list(islice(batches, 40))) == 40
    else:
        with pytest.raises(tf.errors.NotFoundError) as error:
            # Those on their way arrive.
            list(islice(batches, 200))
        assert str(stream.explain(error.value)) == (
            f"data.service: {address} does not know this training any more, as its dispatcher was "
            "started again without its state (--state_dir)"
        )
    del batches, servers[1]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "--dispatcher=grpc://localhost:1",
            "--state_dir: only a dispatcher has a state; leave it out, or --dispatcher",
        ),
        ("--port=0", "--state_dir: trainings find a dispatcher again at a fixed --port only"),
    ],
)
def test_a_state_without_a_dispatcher_that_can_be_found(tmp_path, flag, message):
    done = call("-m", "efficientdet_tf", "data", "serve", f"--state_dir={tmp_path}", flag)
    assert (done.returncode, done.stderr) == (1, f"data: {message}\n")
