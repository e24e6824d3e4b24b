"""Batches that fit into memory: their size, micro-batches, gradient checkpointing."""

import numpy as np
import pytest
import tensorflow as tf

import tiny
from efficientdet_tf import data as data_lib
from efficientdet_tf.errors import UserError
from efficientdet_tf.training import memory, memory_fit
from efficientdet_tf.training.compiling import compiled_model, set_memory_saving
from efficientdet_tf.training.measured_memory import PeakMemory
from efficientdet_tf.training.memory_fit import (
    MemorySaving,
    choose_batch_size,
    describe_batch_size,
    fit_memory,
    memory_savings,
)

ACCUMULATION = "training.gradient_accumulation_steps"
CHECKPOINTING = "training.gradient_checkpointing"


@pytest.mark.parametrize(
    ("batch", "images", "replicas", "expected"),
    [
        (64, 20 * 64, 1, 64),
        (64, 20 * 64 - 1, 1, 32),
        # 8 images at least, even for fewer steps.
        (64, 205, 1, 8),
        (64, 10, 1, 8),
        (12, 10, 1, 12),
        (4, 10, 1, 4),
        # As many for each device.
        (48, 205, 3, 12),
        (64, 205, 16, 16),
    ],
)
def test_batches_are_smaller_for_few_images(batch, images, replicas, expected):
    config = tiny.config(**{"training.batch_size": batch})
    assert choose_batch_size(config, images, replicas) == expected
    assert expected % replicas == 0


def test_the_line_says_why_a_batch_is_smaller():
    assert describe_batch_size(64, 64, 10_000) == "batch: 64 images"
    assert describe_batch_size(64, 8, 1205) == (
        "batch: 8 images instead of 64, which makes 150 steps of an epoch; the learning rate "
        "follows"
    )


@pytest.mark.parametrize(
    ("settings", "replicas", "given", "expected"),
    [
        # Gradient checkpointing before micro-batches of fewer than 4 images.
        ({}, 1, (), ["1", "2", "4", "1c", "2c", "4c", "8c", "16c"]),
        ({}, 2, (), ["1", "2", "1c", "2c", "4c", "8c"]),
        ({ACCUMULATION: 2}, 1, (), ["2", "4", "2c", "4c", "8c", "16c"]),
        ({CHECKPOINTING: True}, 1, (), ["1c", "2c", "4c", "8c", "16c"]),
        ({ACCUMULATION: 8}, 1, (), ["8", "8c", "16c"]),
        ({"training.batch_size": 12}, 1, (), ["1", "2", "1c", "2c", "4c"]),
        ({"training.batch_size": 1}, 1, (), ["1", "1c"]),
        # Not what the user has chosen.
        ({}, 1, (ACCUMULATION,), ["1", "1c"]),
        ({}, 1, (CHECKPOINTING,), ["1", "2", "4", "8", "16"]),
        ({}, 1, (ACCUMULATION, CHECKPOINTING), ["1"]),
    ],
)
def test_ways_to_save_memory(settings, replicas, given, expected):
    config = tiny.config(**{"training.batch_size": 16, **settings})
    found = memory_savings(config, replicas, given)
    assert [f"{each.accumulation}{'c' * each.checkpointing}" for each in found] == expected


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return data_lib.load(tiny.write_coco_file(tmp_path_factory.mktemp("coco"), 8))


@pytest.fixture(scope="module")
def config(data):
    return tiny.config(**{"training.batch_size": 8, "model.num_classes": len(data.label_map)})


@pytest.fixture
def fitting(data, config, monkeypatch):
    """Function that fits a batch of 8 images with given sizes of steps, in GB."""

    def fit(estimated, measured, settings=()):
        estimates, measurements = iter(estimated), iter(measured)

        def estimate(model, config):
            return memory.Memory(int(10**9 * next(estimates)), 0, 0, 0, 0)

        def measure(steps, peak, cached):
            size = next(measurements)
            return None if size is None else int(10**9 * size)

        monkeypatch.setattr(memory, "available", lambda devices: 10**9)
        monkeypatch.setattr(memory, "estimate", estimate)
        monkeypatch.setattr(memory_fit, "_measure", measure)
        return fit_memory(config.override(dict(settings)), data, tf.distribute.get_strategy())

    return fit


def test_a_batch_is_divided_until_estimate_and_step_fit(fitting):
    # A tenth of the memory stays free; then a step needs too much, and one fails on a GPU.
    fit = fitting([0.91, 0.8, 0.7, 0.6], [0.95, None, 0.5])
    assert fit.saving == MemorySaving(2, True)
    assert fit.saving.settings == {ACCUMULATION: 2, CHECKPOINTING: True}
    assert str(fit) == (
        "memory: 0.5 GB in a real step of 8 images in 2 micro-batches with gradient "
        "checkpointing, 0.6 GB estimated, of 1.0 GB; 0.9 GB otherwise"
    )


def test_what_fits_in_no_way_is_one_line(fitting):
    with pytest.raises(UserError) as error:
        fitting([9, 8, 7, 6, 5, 4], [])
    assert str(error.value) == (
        "memory: a step of 8 images in 8 micro-batches with gradient checkpointing needs about "
        "4.0 GB, and 1.0 GB are available; use a smaller model.image_size or a smaller --model"
    )


def test_decoded_images_count_apart(fitting, data, config):
    size = memory.decoded_size(data.records)
    fit = fitting([0.1], [0.1], {"data.cache": True})
    assert fit.available == 10**9 - size < 10**9


def test_a_model_takes_the_memory_savings_of_another_config(config):
    # Whose backbone can be recomputed.
    config = config.override(tiny.EFFICIENTNET)
    other = config.override(MemorySaving(2, True).settings)
    model = compiled_model(config, 1)
    plain = memory.estimate(model, config)
    set_memory_saving(model, other)
    changed = memory.estimate(model, other)
    assert changed == memory.estimate(compiled_model(other, 1), other)
    assert changed.activations < plain.activations / 2


def test_the_peak_is_that_since_the_restart():
    peak = PeakMemory(tf.distribute.get_strategy())
    block = np.ones(300_000_000, np.uint8)
    del block
    assert 250_000_000 < peak.bytes() < 1_000_000_000
    peak.restart()
    assert peak.bytes() < 250_000_000
