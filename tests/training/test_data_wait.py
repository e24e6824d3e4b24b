"""Share of time waited for data: its arithmetic, its line, and the advice."""

import time

import numpy as np
import pytest
import tensorflow as tf

from efficientdet_tf.config import Config
from efficientdet_tf.data import digits
from efficientdet_tf.data.record_columns import RecordColumns
from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.training.data_wait import DataWait, advise, describe_wait, waited
from efficientdet_tf.training.stream import TrainingStream


@pytest.mark.parametrize(
    ("begin", "delivered", "end", "expected"),
    [
        # Ready before the step began.
        (10.0, 9.0, 12.0, 0.0),
        (10.0, 10.5, 12.0, 0.5),
        # No longer than the step.
        (10.0, 13.0, 12.0, 2.0),
    ],
)
def test_a_step_waits_until_its_batch_is_delivered(begin, delivered, end, expected):
    assert waited(begin, delivered, end) == expected


def test_little_waiting_needs_no_advice():
    assert describe_wait(0.096, "buy") == "waited for data 10 % of the time"
    assert describe_wait(0.1, "buy") == "waited for data 10 % of the time; buy"
    assert describe_wait(0.5, "") == "waited for data 50 % of the time"


@pytest.fixture(scope="module")
def data():
    return digits.load("train", num_images=8)


def test_advice_depends_on_the_images_and_the_config(data):
    config = Config.for_model("efficientdet-lite0")
    size = 3 * sum(r.height * r.width for r in data.records) / 1e9
    cores = "give it more processor cores"
    cache = f"keep the decoded images in memory (--set data.cache=true, {size:.1f} GB)"
    assert advise(config, data) == f"{cache}, or {cores}"
    assert advise(config.override({"data.cache": True}), data) == cores
    # What is read in sequence is not cached.
    assert advise(config.override({"data.shuffle_buffer": 9}), data) == cores
    assert advise(config.override({"data.service": "grpc://a:5050"}), data) == (
        "give grpc://a:5050 more workers (python -m efficientdet_tf data serve)"
    )
    policy = "choose a cheaper augmentation than augmentation.policy"
    changed = config.override({"data.cache": True, "augmentation.policy": "v0"})
    assert advise(changed, data) == f"{policy}, or {cores}"
    columns = RecordColumns.build(data.records)
    large = np.full_like(columns.sizes, 2_000_000)
    records = RecordColumns(**{**vars(columns), "sizes": large})
    huge = DetectionData(records, data.label_map)
    smaller = (
        "decode JPEG files at a part of their size (--set data.reduce_jpeg=true) or store the "
        "images at about 640 px"
    )
    assert advise(config, huge) == f"{smaller}, or {cores}"
    assert advise(config.override({"data.reduce_jpeg": True}), huge) == cores


class Deliveries:
    """Stream whose batches arrive as told, relative to the begin of their step."""

    def __init__(self, delays):
        self._delays = iter(delays)

    def next_delivery(self):
        return self.began + next(self._delays)


def test_an_epoch_ends_with_a_line(capsys):
    stream = Deliveries([100, -1, 100, 100, -1])
    callback = DataWait(stream, "feed it")
    for epoch, steps in enumerate([1, 1, 1, 2]):
        callback.on_epoch_begin(epoch)
        for step in range(steps):
            stream.began = time.monotonic()
            callback.on_train_batch_begin(step)
            # Longer than the time between a step and its callback.
            time.sleep(0.002 if epoch < 3 else 0.05)
            callback.on_train_batch_end(step)
        callback.on_epoch_end(epoch)
    *lines, last = capsys.readouterr().err.splitlines()
    # The first step of all is not counted.
    assert lines == [
        "epoch 2: waited for data 0 % of the time",
        "epoch 3: waited for data 100 % of the time; feed it",
    ]
    # One of two equal steps.
    assert last.startswith("epoch 4: waited for data ") and last.endswith("; feed it")


def test_every_batch_is_recorded_before_it_is_returned(data):
    config = Config.for_model("efficientdet-lite0").override(
        {"model.image_size": 64, "model.max_level": 5, "training.batch_size": 4}
    )
    stream = TrainingStream(data, config, tf.distribute.OneDeviceStrategy("/cpu:0"), 0)
    start = time.monotonic()
    batches = iter(stream.batches(0))
    times = []
    for _ in range(5):
        next(batches)
        times.append((stream.next_delivery(), time.monotonic()))
    delivered = [time for time, _ in times]
    assert start < delivered[0] and delivered == sorted(set(delivered))
    assert all(ready <= returned for ready, returned in times)
