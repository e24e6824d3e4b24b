"""Reading of TFRecord shards in sequence: order, places, workers, and what cannot be read."""

import dataclasses
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import tiny
from commands import call
from efficientdet_tf import data as data_lib
from efficientdet_tf.config import Config
from efficientdet_tf.data import DataError, DetectionData, digits
from efficientdet_tf.data.image_sources import read_encoded
from efficientdet_tf.data.pipeline import training_dataset
from efficientdet_tf.data.reading import ReadFailures
from efficientdet_tf.data.record_images import why_unreadable
from efficientdet_tf.data.shard_order import Chunks, ShardOrder
from efficientdet_tf.data.stream_share import Share
from efficientdet_tf.data.tfrecord import write_tfrecord
from efficientdet_tf.training.stream import TrainingStream

NUM_IMAGES, BUFFER = 50, 16


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[str]:
    """Three shards of the digits."""
    folder = tmp_path_factory.mktemp("shards")
    images = digits.load("train", num_images=NUM_IMAGES)
    return write_tfrecord(images, str(folder / "train.tfrecord"), shards=3)


@pytest.fixture(scope="module")
def data(shards) -> DetectionData:
    return data_lib.load(str(Path(shards[0]).parent))


@pytest.fixture(scope="module")
def config() -> Config:
    settings = {"model.image_size": 128, "data.shuffle_buffer": BUFFER}
    return Config.for_model("efficientdet-lite0").override(settings)


def order_of(
    data: DetectionData, first: int = 0, workers: int = 1, worker: int = 0, buffer: int = BUFFER
) -> ShardOrder:
    chunks = Chunks.build(data, workers, worker)
    return ShardOrder(chunks, buffer, Share(5, first, workers, worker))


def pairs_of(order: ShardOrder, count: int) -> list[tuple[int, int]]:
    return list(islice(order.positions(), count))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_each_pass_has_each_image_once_in_another_order(data, workers):
    seen: list[int] = []
    for worker in range(workers):
        order = order_of(data, 0, workers, worker)
        count = order.chunks.num_images
        pairs = pairs_of(order, 3 * count)
        assert [number for number, _ in pairs] == list(
            range(worker, worker + 3 * count * workers, workers)
        )
        epochs = np.reshape([position for _, position in pairs], [3, count])
        for epoch in epochs:
            np.testing.assert_array_equal(np.sort(epoch), np.sort(order.chunks.positions))
        assert (epochs[0] != epochs[1]).any() and (epochs[1] != epochs[2]).any()
        seen += epochs[0].tolist()
    # Each image has one worker.
    assert sorted(seen) == list(range(NUM_IMAGES))


@pytest.mark.parametrize("workers", [1, 2])
def test_any_place_is_found(data, workers):
    whole = pairs_of(order_of(data, 0, workers, workers - 1), 400)
    for first in (2, 14, 16, 48, 50, 100, 266):
        found = pairs_of(order_of(data, first, workers, workers - 1), 40)
        assert found == whole[first // workers : first // workers + 40], first


def test_images_are_those_of_the_positions(data):
    order = order_of(data, first=7)
    images = order.images().take(100).as_numpy_iterator()
    for (number, position, encoded), pair in zip(images, order.positions()):
        assert (number, position) == pair
        assert encoded == read_encoded(data.records[position].image)


def test_chunks_are_runs_of_consecutive_records(data, monkeypatch):
    """Those of the worker alone, with less than the size of a chunk between their ends."""
    every = Chunks.build(data)
    assert len(every) >= 16 and every.num_images == NUM_IMAGES
    monkeypatch.setattr("efficientdet_tf.data.shard_order._FEWEST_CHUNKS", 1)
    whole = Chunks.build(data)
    # Never over the border of a file.
    assert whole.files == sorted({record.image.file for record in data.records})
    assert whole.record_offsets.tolist() == [0, 0, 0]
    assert whole.num_records.tolist() == whole.sizes.tolist() == [17, 17, 16]


def test_records_that_are_not_used_are_passed_over(data):
    kept = [record for i, record in enumerate(data.records) if i % 3]
    some = dataclasses.replace(data, records=kept)
    for _, position, encoded in order_of(some).images().take(len(kept)).as_numpy_iterator():
        assert encoded == read_encoded(kept[position].image)


def test_a_window_mixes_several_chunks(data):
    positions = [position for _, position in pairs_of(order_of(data), NUM_IMAGES)]
    chunks = Chunks.build(data)
    chunk_of = np.repeat(np.arange(len(chunks)), chunks.sizes)[np.argsort(chunks.positions)]
    steps = np.diff(chunk_of[positions])
    # In the order of the files, 33 of 49 images follow one of their chunk.
    assert (steps == 0).sum() < 15
    unmixed = [position for _, position in pairs_of(order_of(data, buffer=1), NUM_IMAGES)]
    assert (np.diff(chunk_of[unmixed]) == 0).sum() == NUM_IMAGES - len(chunks)


def batches(data: DetectionData, config: Config, count: int, **arguments) -> Sequence[np.ndarray]:
    stream = training_dataset(data, config, 4, seed=1, **arguments)
    return [images.numpy() for images, _ in stream.take(count)]


def test_a_training_resumes_at_any_image(data, config):
    whole = batches(data, config, 20)
    np.testing.assert_array_equal(batches(data, config, 4, first_image=64), whole[16:])
    assert not np.array_equal(whole, batches(data, config.override({"data.shuffle_buffer": 0}), 20))


def test_workers_read_images_of_their_own(data, config):
    shares = [
        batches(data, config, 6, worker=tf.distribute.InputContext(2, index, 2))
        for index in range(2)
    ]
    assert [share[0].shape[0] for share in shares] == [2, 2]
    images = [image.tobytes() for share in shares for batch in share for image in batch]
    assert len(set(images)) == 24


@pytest.fixture
def damaged(data, tmp_path) -> tuple[DetectionData, list[int]]:
    """A copy of the shards with an image that is damaged, and one that is cut off."""
    records, broken = [], []
    for record in data.records:
        image = record.image
        copy = tmp_path / os.path.basename(image.file)
        if not copy.exists():
            copy.write_bytes(Path(image.file).read_bytes())
        records.append(dataclasses.replace(record, image=image._replace(file=str(copy))))
    for position in (20, NUM_IMAGES - 1):
        broken.append(position)
        image = records[position].image
        content = bytearray(Path(image.file).read_bytes())
        # Near its end: it can be decoded all the same.
        content[image.offset + image.length - 4] ^= 255
        Path(image.file).write_bytes(content[: image.offset + 30] if position > 20 else content)
    return dataclasses.replace(data, records=records), broken


def test_only_the_unreadable_images_of_a_chunk_are_skipped_and_recorded(damaged, config):
    data, broken = damaged
    assert [why_unreadable(data.records[position]) for position in broken] == [
        "its record is damaged: a checksum is wrong",
        "the file is shorter than when it was indexed",
    ]
    chunks = Chunks.build(data)
    pairs = list(islice(ShardOrder(chunks, BUFFER, Share(1)).positions(), 120))
    failures = ReadFailures()
    batches(data, config, 24, failures=failures)
    skipped = [number for gap in failures.gaps for number in range(*gap)]
    expected = [number for number, position in pairs if position in broken]
    assert skipped == expected[: len(skipped)] and len(skipped) >= 2
    assert (failures.positions, failures.has_ended) == ([], False)


def test_a_run_names_the_images_that_it_skips_and_those_of_a_step(damaged, config):
    data, broken = damaged
    config = config.override({"training.batch_size": 4})
    stream = TrainingStream(data, config, tf.distribute.get_strategy(), 0)
    steps = iter(stream.batches(0))
    for _ in range(13):
        next(steps)
        stream.step_done()
    found = {record.name for record, _ in stream.newly_unreadable()}
    assert found == {data.records[position].name for position in broken}
    pairs = ShardOrder(Chunks.build(data), BUFFER, Share(0)).positions()
    # After a pass of 48 images and two that are broken, a step of the next one.
    read = [(n, position) for n, position in islice(pairs, 60) if position not in broken][48:52]
    assert stream.num_skipped == read[-1][0] - 51
    names = [f"{data.records[p].image_id} ({data.records[p].name})" for _, p in read]
    assert stream.images_of_last_step() == names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda data: digits.load("train", num_images=4),
            "data.shuffle_buffer: digits (train) is not of TFRecord files, which alone are read in "
            "sequence; set it to 0, or write such files (python -m efficientdet_tf data convert)",
        ),
        (
            lambda data: dataclasses.replace(data, records=data.records[:1]),
            "data.shuffle_buffer: {source} has too few images for 2 workers that each read their "
            "own; set it to 0",
        ),
    ],
)
def test_what_cannot_be_read_in_sequence_is_refused(data, config, change, message):
    worker = tf.distribute.InputContext(2, 0, 2)
    with pytest.raises(DataError) as error:
        training_dataset(change(data), config, 4, worker=worker)
    assert str(error.value) == message.format(source=data.source)


def test_a_run_with_other_data_is_refused_before_it_starts(tmp_path):
    model_dir, coco_file = tmp_path / "run", tiny.write_coco_file(tmp_path, 2)
    data = (f"--train_data={coco_file}", f"--val_data={coco_file}")
    done = call("train.py", *data, "--set=data.shuffle_buffer=100", f"--model_dir={model_dir}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"train: data.shuffle_buffer: {coco_file} is not of TFRecord files, which alone are read "
        "in sequence; set it to 0, or write such files (python -m efficientdet_tf data convert)"
    )
    assert not (model_dir / "config.yaml").exists()
