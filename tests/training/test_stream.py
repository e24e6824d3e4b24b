"""Images of training steps, and skipped images."""

import dataclasses
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from efficientdet_tf.config import Config
from efficientdet_tf.data.augmenting import training_partners
from efficientdet_tf.data.records import DataError, DetectionData, LabelMap, Record
from efficientdet_tf.data.stream_order import Order
from efficientdet_tf.data.stream_share import Share
from efficientdet_tf.metrics_history import read_skipped_images
from efficientdet_tf.training.callbacks import SkippedImages
from efficientdet_tf.training.loop import TrainingLoop
from efficientdet_tf.training.stream import TrainingStream

DEVICE = tf.distribute.OneDeviceStrategy("/cpu:0")


@pytest.fixture
def data(tmp_path) -> DetectionData:
    """Seven images, each of its own grey level, without objects."""
    records = []
    for i in range(7):
        path = str(tmp_path / f"{i}.png")
        Image.fromarray(np.full((64, 64, 3), 10 * i, np.uint8)).save(path)
        nothing = np.zeros(0, np.int32)
        boxes = np.zeros((0, 4), np.float32)
        records.append(
            Record(100 + i, path, 64, 64, boxes, nothing, nothing > 0, nothing, path, False)
        )
    return DetectionData(records, LabelMap((1,), ("thing",)), source="made")


@pytest.fixture
def config() -> Config:
    return Config.for_model("efficientdet-lite0").override(
        {
            "model.image_size": 64,
            "model.max_level": 5,
            "augmentation.scale_min": 1,
            "augmentation.scale_max": 1,
            "training.batch_size": 2,
            "training.seed": 1,
        }
    )


def names(images, data) -> list[str]:
    """Return the image names of a batch, by grey level."""
    levels = np.rint(images.numpy().mean(axis=(1, 2, 3)) / 10).astype(int)
    return list(dict.fromkeys(f"{100 + i} ({data.records[i].name})" for i in levels))


@pytest.mark.parametrize("first_step", [0, 3])
def test_the_first_image_of_a_stream_is_named_when_it_is_skipped(data, config, first_step):
    # So many that it is read once.
    records = [data.records[i % 7] for i in range(2000)]
    many = dataclasses.replace(data, records=records)
    first = first_step * config.training.batch_size
    _, position = next(Order(many, Share(config.training.seed, first)).positions())
    records[position] = dataclasses.replace(records[position], image="gone.png", name="gone.png")
    stream = TrainingStream(many, config, DEVICE, 0)
    next(iter(stream.batches(first_step)))
    assert [(record.name, reason) for record, reason in stream.newly_unreadable()] == [
        ("gone.png", "No such file or directory")
    ]


@pytest.mark.parametrize("cache", [False, True])
def test_skipped_images_are_accounted_for_and_a_resumed_stream_is_the_same(data, config, cache):
    config = config.override({"data.cache": cache})
    os.remove(data.records[6].image)
    with open(data.records[2].image, "wb"):
        pass
    stream = TrainingStream(data, config, DEVICE, 0)
    batches, skipped, seen = iter(stream.batches(0)), [], []
    for _ in range(9):
        images, _ = next(batches)
        stream.step_done()
        seen.append(names(images, data))
        assert stream.images_of_last_step() == seen[-1]
        skipped.append(stream.num_skipped)
    assert {(record.image_id, reason) for record, reason in stream.newly_unreadable()} == {
        (102, "the file is empty"),
        (106, "No such file or directory"),
    }
    assert list(stream.newly_unreadable()) == []
    # Of 18 images, the last in the fourth pass over five.
    assert stream.num_unread == 2 if cache else 6 <= stream.num_unread <= 8
    assert skipped == [0] * 9 if cache else skipped == sorted(skipped) and skipped[-1] >= 6

    resumed = TrainingStream(data, config, DEVICE, skipped[3])
    batches = iter(resumed.batches(4))
    for expected, total in zip(seen[4:], skipped[4:], strict=True):
        images, _ = next(batches)
        resumed.step_done()
        assert names(images, data) == expected == resumed.images_of_last_step()
        assert resumed.num_skipped == total


def test_partners_in_mosaics_are_among_the_images_of_a_step(data, config):
    config = config.override({"augmentation.mosaic": 1.0})
    os.remove(data.records[6].image)
    stream = TrainingStream(data, config, DEVICE, 0)
    batches = iter(stream.batches(0))
    for _ in range(3):
        images, _ = next(batches)
        stream.step_done()
        # All but the padding.
        levels = {int(round(level / 10)) for level in np.unique(images) if level != 127}
        named = {int(name.split()[0]) - 100 for name in stream.images_of_last_step()}
        assert named == levels
        assert 6 not in named and len(named) >= 3
    mixed = config.override({"augmentation.mixup": 1.0})
    # Three of its own mosaic; the MixUp partner and its three.
    assert len(training_partners(data, mixed, seed=1, number=0)) == 7
    pasted = config.override({"augmentation.mosaic": 0.0, "augmentation.copy_paste": 1.0})
    assert len(training_partners(data, pasted, seed=1, number=0)) == 1


def test_steps_without_strong_augmentation_have_no_partners(data, config):
    config = config.override({"augmentation.mosaic": 1.0})
    plain = TrainingStream(data, config.override({"augmentation.mosaic": 0.0}), DEVICE, 0)
    expected = iter(plain.batches(0))
    for first_step in (0, 2):
        stream = TrainingStream(data, config, DEVICE, 0, plain_from=2)
        batches = iter(stream.batches(first_step))
        for step in range(first_step, 4):
            images, _ = next(batches)
            stream.step_done()
            named = stream.images_of_last_step()
            if step < 2:
                assert len(named) > 2
            else:
                assert names(images, data) == named and len(named) <= 2
    for _ in range(4):
        plain_images, _ = next(expected)
    np.testing.assert_array_equal(images, plain_images)


@pytest.mark.parametrize(("plain_epochs", "first"), [(0, None), (2, 30), (5, 0), (9, 0)])
def test_the_last_epochs_are_those_without_strong_augmentation(config, plain_epochs, first):
    config = config.override({"training.epochs": 5, "augmentation.plain_epochs": plain_epochs})
    nothing = dict.fromkeys(("model", "train_data", "val_data", "progress", "output", "patience"))
    assert TrainingLoop(config=config, steps=10, **nothing)._first_plain_step == first


@pytest.mark.parametrize(("batch_size", "count"), [(2, 2), (10, 8)])
def test_the_first_images_are_those_of_the_first_step(data, config, batch_size, count):
    config = config.override({"training.batch_size": batch_size})
    stream = TrainingStream(data, config, DEVICE, 0)
    distributed = stream.batches(3)
    assert stream.first_images() is None
    batches = iter(distributed)
    first = next(batches)
    # Others follow beside it.
    next(batches)
    kept = tf.nest.flatten(stream.first_images())
    for ours, expected in zip(kept, tf.nest.flatten(first), strict=True):
        np.testing.assert_array_equal(ours, expected[:count])


def test_the_end_of_a_stream_is_explained(data, config):
    for record in data.records:
        os.remove(record.image)
    stream = TrainingStream(data, config, DEVICE, 0)
    with pytest.raises(tf.errors.InvalidArgumentError) as failure:
        next(iter(stream.batches(0)))
    text = str(stream.explain(failure.value))
    count = int(text.split()[2])
    assert 64 <= count <= 64 + 4 * os.cpu_count()
    last = text.split()[-6].rstrip(":")
    assert text == (
        f"training data: {count} images in a row cannot be read, the last {last}: "
        "No such file or directory"
    )
    assert last in {record.name for record in data.records}


@pytest.mark.parametrize("cache", [False, True])
def test_the_first_image_that_ends_a_strict_training_is_named(data, config, cache):
    config = config.override({"data.strict": True, "data.cache": cache})
    os.remove(data.records[3].image)
    stream = TrainingStream(data, config, DEVICE, 0)
    batches = iter(stream.batches(0))
    with pytest.raises(tf.errors.NotFoundError) as failure:
        while True:
            next(batches)
            stream.step_done()
    error = stream.explain(failure.value)
    assert isinstance(error, DataError)
    assert str(error) == (
        f"{data.records[3].name}: No such file or directory; data.strict ends training at the "
        "first image that cannot be read"
    )


def test_skipped_images_are_named_once_in_a_file_and_on_the_terminal(
    data, config, tmp_path, capsys
):
    path = tmp_path / "skipped_images.csv"
    path.write_text("image,reason\nearlier.jpg,was gone\n")
    os.remove(data.records[6].image)
    stream = TrainingStream(data, config, DEVICE, 0)
    callback = SkippedImages(stream, path)
    counts = []
    batches = iter(stream.batches(0))
    for epoch in range(2):
        callback.on_epoch_begin(epoch)
        for step in range(6):
            next(batches)
            callback.on_train_batch_end(step, {})
        logs = {}
        callback.on_epoch_end(epoch, logs)
        counts.append(logs["images_skipped"])
    # Two passes over six images each.
    assert sum(counts) == stream.num_unread and all(1 <= count <= 3 for count in counts)
    gone = data.records[6].name
    assert capsys.readouterr().err.splitlines() == [
        f"{gone}: No such file or directory; skipped in training"
    ]
    assert read_skipped_images(path) == {
        "earlier.jpg": "was gone",
        gone: "No such file or directory",
    }
