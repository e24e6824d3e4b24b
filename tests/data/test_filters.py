"""Blur and sharpness change edges, and nothing else."""

import functools

import numpy as np
import pytest
import tensorflow as tf

from efficientdet_tf.config import Config
from efficientdet_tf.data import augmenting, digits, filters, pipeline

FILTERS = {"blur": filters.random_blur, "sharpness": filters.random_sharpness}


def edges(image) -> float:
    """Mean difference of neighbours."""
    image = np.asarray(image, np.float64)
    return np.abs(np.diff(image, axis=0)).mean() + np.abs(np.diff(image, axis=1)).mean()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Squares of random colours, 40 x 56 pixels."""
    squares = np.random.default_rng(0).uniform(0, 255, (5, 7, 3)).astype(np.float32)
    return squares.repeat(8, axis=0).repeat(8, axis=1)


@functools.cache
def compiled(name: str, strength: float):
    """Filter as a graph, as in the input pipeline."""
    return tf.function(
        lambda image, seed: FILTERS[name](image, strength, seed),
        input_signature=(tf.TensorSpec([None, None, 3]), tf.TensorSpec([2], tf.int32)),
    )


@pytest.mark.parametrize("name", FILTERS)
def test_equal_seeds_give_equal_images_of_the_same_shape_and_range(name, image):
    for number in range(12):
        changed = compiled(name, 1.0)(image, [number, 0])
        assert changed.shape == image.shape and changed.dtype == tf.float32
        assert np.min(changed) >= 0 and np.max(changed) <= 255.001
        np.testing.assert_array_equal(changed, compiled(name, 1.0)(image, [number, 0]))
    results = {compiled(name, 1.0)(image, [number, 0]).numpy().tobytes() for number in range(12)}
    assert len(results) > 2


def test_a_blur_softens_as_often_as_wished_and_keeps_the_colours(image):
    softened = 0
    for number in range(60):
        blurred = compiled("blur", 0.5)(image, [number, 0]).numpy()
        if np.array_equal(blurred, image):
            continue
        softened += 1
        assert edges(blurred) < 0.98 * edges(image)
        np.testing.assert_allclose(blurred.mean((0, 1)), image.mean((0, 1)), atol=4)
    assert 18 < softened < 42


def test_sharpness_goes_both_ways(image):
    ratios = [
        edges(compiled("sharpness", 1.0)(image, [number, 0])) / edges(image) for number in range(20)
    ]
    assert min(ratios) < 0.99 and max(ratios) > 1.01
    gentle = [
        edges(compiled("sharpness", 0.1)(image, [number, 0])) / edges(image) for number in range(20)
    ]
    assert max(abs(np.array(gentle) - 1)) < max(abs(np.array(ratios) - 1)) / 3


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("color", [0.0, 255.0, 100.0])
def test_one_colour_stays_as_it_is(name, color):
    image = np.full((30, 20, 3), color, np.float32)
    np.testing.assert_allclose(compiled(name, 1.0)(image, [1, 2]), image, atol=0.5)


@pytest.mark.parametrize("name", FILTERS)
def test_images_too_small_for_a_filter_stay_as_they_are(name):
    image = np.random.default_rng(0).uniform(0, 255, (3, 40, 3)).astype(np.float32)
    np.testing.assert_array_equal(compiled(name, 1.0)(image, [1, 2]), image)


@pytest.mark.parametrize("name", FILTERS)
def test_boxes_flip_and_scale_are_the_same_with_and_without(name):
    config = Config.for_model("efficientdet-lite0").override({"model.image_size": [96, 128]})
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
    boxes = np.array([[20, 30, 40, 60]], np.float32)
    other = config.override({f"augmentation.{name}": 1.0})
    changed = 0
    for number in range(6):
        seed = tf.constant([number, 0])
        plain = augmenting.augment(image, boxes, config, seed)
        filtered = augmenting.augment(image, boxes, other, seed)
        np.testing.assert_array_equal(plain[1], filtered[1])
        np.testing.assert_array_equal(plain[2], filtered[2])
        # The padding is no part of the image.
        padding = (plain[0].numpy() == np.float32(config.model.pixel_mean)).all(2)
        np.testing.assert_array_equal(filtered[0].numpy()[padding], plain[0].numpy()[padding])
        changed += int(not np.array_equal(plain[0], filtered[0]))
    assert changed >= 4


def test_the_input_pipeline_gives_equal_batches_for_equal_seeds():
    config = Config.for_model("efficientdet-lite0").override(
        {
            "model.image_size": 64,
            "augmentation.blur": 0.5,
            "augmentation.sharpness": 0.5,
            "augmentation.mosaic": 0.5,
        }
    )
    data = digits.load("train", num_images=4)
    first, again = (
        next(iter(pipeline.training_dataset(data, config, 4, seed=3)))[0] for _ in range(2)
    )
    np.testing.assert_array_equal(first, again)
    assert first.shape == (4, 64, 64, 3) and first.numpy().max() <= 255.001
