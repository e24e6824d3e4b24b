"""Streams of images are the same with TensorFlow's optimisation of graphs as without.

Users have it; the other tests of this folder do not.
"""

import os

import numpy as np
import pytest
import tensorflow as tf

import tiny
from efficientdet_tf.data import load
from efficientdet_tf.data.pipeline import evaluation_dataset, training_dataset
from efficientdet_tf.data.reading import ReadFailures

pytestmark = pytest.mark.optimized_graphs

# Settings by the name of the case. Policies and `augmentation.color` are rounded otherwise.
CASES = {
    "plain": {},
    "cached": {"data.cache": True},
    "mixed": {f"augmentation.{name}": 0.5 for name in ("mosaic", "mixup", "copy_paste")},
}


@pytest.fixture
def data(tmp_path):
    """Eight images in files, with their objects."""
    return load(tiny.write_coco_file(tmp_path, num_images=8))


def as_traced(make):
    """Return what a function returns without the optimisation."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        return make()
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


def assert_equal(batches, others):
    assert len(batches) == len(others) > 1
    tf.nest.map_structure(np.testing.assert_array_equal, batches, others)


@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_training_batches_are_the_same(data, settings):
    def batches():
        stream = training_dataset(data, tiny.config(**settings), 4, seed=3)
        return list(stream.take(4).as_numpy_iterator())

    assert_equal(batches(), as_traced(batches))


def test_batches_of_an_evaluation_are_the_same(data):
    def batches():
        return list(evaluation_dataset(data, tiny.config(), 3).as_numpy_iterator())

    assert_equal(batches(), as_traced(batches))


@pytest.mark.parametrize("settings", [CASES["plain"], CASES["cached"]], ids=["plain", "cached"])
def test_where_no_image_can_be_read_the_stream_ends(data, settings):
    for record in data.records:
        os.remove(record.image)
    failures = ReadFailures()
    stream = training_dataset(data, tiny.config(**settings), 2, failures=failures)
    with pytest.raises(tf.errors.InvalidArgumentError, match="too many images in a row cannot"):
        next(iter(stream))
    assert failures.has_ended


def test_after_an_image_that_is_skipped_failures_are_counted_anew(data):
    """Every eighth image fails: more in all than the failures in a row that end a stream."""
    os.remove(data.records[2].image)
    failures = ReadFailures()
    stream = training_dataset(data, tiny.config(), 7, failures=failures)
    assert sum(1 for _ in stream.take(110)) == 110
    skipped = sum(end - first for first, end in failures.gaps)
    assert skipped > 100 and not failures.has_ended
