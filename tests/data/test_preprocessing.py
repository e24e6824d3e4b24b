"""Preprocessing agrees with the published implementation, in every kind of graph."""

import numpy as np
import pytest
import tensorflow as tf

from efficientdet_tf.config import Config
from efficientdet_tf.data import augmentation, preprocessing
from efficientdet_tf.inference.detection_function import InputResize
from keras_layers.pixels import NormalizePixels

MEAN = (123.675, 116.28, 103.53)


@pytest.fixture(scope="module")
def golden(goldens):
    return np.load(goldens / "preprocess.npz")


@pytest.mark.parametrize("case", range(4))
def test_image_agrees_with_the_reference(golden, case):
    model = Config.for_model(str(golden[f"model_{case}"])).model
    size = tuple(int(side) for side in golden[f"output_size_{case}"])
    # As in evaluation and every export, and in the first layer of the network.
    image, scale, _ = InputResize(size, "pad", model.pixel_mean)(golden[f"image_{case}"])
    normalized = NormalizePixels(model.pixel_mean, model.pixel_std)(image)
    np.testing.assert_allclose(normalized, golden[f"output_{case}"], atol=1e-4)
    np.testing.assert_allclose(scale, [golden[f"scale_to_original_{case}"]] * 2, rtol=1e-6)
    # The padding is exactly zero, as in the reference.
    np.testing.assert_array_equal(normalized == 0, golden[f"output_{case}"] == 0)


@pytest.mark.parametrize("case", range(4))
def test_boxes_agree_with_the_reference(golden, case):
    original = np.array(golden[f"image_{case}"].shape[:2])
    size = tuple(int(side) for side in golden[f"output_size_{case}"])
    boxes = golden[f"gt_boxes_in_{case}"] * np.tile(original, 2).astype(np.float32)
    # As in training, without randomness.
    image, resized, kept = augmentation.random_scale_and_crop(
        golden[f"image_{case}"], boxes, size, (1.0, 1.0), tf.constant([0, 0])
    )
    expected = golden[f"output_{case}"]
    assert [int(side) for side in image.shape[:2]] == [
        np.flatnonzero(expected.any(axis=(1 - axis, 2))).max() + 1 for axis in (0, 1)
    ]
    np.testing.assert_allclose(resized, golden[f"gt_boxes_out_{case}"], atol=1e-4)
    np.testing.assert_array_equal(kept, [0, 1, 2])


def test_no_boxes_stay_no_boxes():
    boxes, kept = preprocessing.clip_boxes(tf.zeros([0, 4]), (64, 64))
    assert boxes.shape == [0, 4]
    assert kept.shape == [0]


@pytest.mark.parametrize("shape", [(1, 1000), (1000, 1), (1, 1), (64, 96), (7, 5)])
def test_every_shape_gives_the_static_output_shape(shape):
    image = np.full((*shape, 3), 255, np.uint8)

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])
    def resize(image):
        return preprocessing.resize(image, (64, 96), "pad", MEAN)

    assert resize.get_concrete_function().output_shapes[0] == [64, 96, 3]
    resized, scale = resize(image)
    seen = np.all(resized == 255.0, axis=-1)
    rows, columns = seen.any(axis=1).sum(), seen.any(axis=0).sum()
    # The image touches the far border in at least one direction, or all but.
    assert rows >= 63 or columns >= 95
    assert seen[:rows, :columns].all() and seen.sum() == rows * columns
    np.testing.assert_allclose(scale, [max(shape[0] / 64, shape[1] / 96)] * 2, rtol=1e-6)
    np.testing.assert_array_equal(
        resized[~seen], np.broadcast_to(np.float32(MEAN), (64, 96, 3))[~seen]
    )


def test_uint8_and_float32_images_are_alike():
    image = np.random.default_rng(0).integers(0, 256, (33, 21, 3)).astype(np.uint8)
    from_bytes, _ = preprocessing.resize(image, (64, 64), "pad", MEAN)
    from_floats, _ = preprocessing.resize(image.astype(np.float32), (64, 64), "pad", MEAN)
    np.testing.assert_array_equal(from_bytes, from_floats)


def test_a_stretched_image_fills_the_input():
    image = np.random.default_rng(0).integers(0, 256, (33, 140, 3)).astype(np.uint8)
    stretched, scale = preprocessing.resize(image, (64, 96), "stretch", MEAN)
    np.testing.assert_array_equal(stretched, tf.image.resize(image, (64, 96)))
    np.testing.assert_allclose(scale, [33 / 64, 140 / 96], rtol=1e-6)


@pytest.mark.parametrize("shape", [(33, 140), (200, 100), (64, 96), (97, 31)], ids=str)
def test_a_stretched_image_is_the_same_in_training_and_evaluation(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    boxes = np.array([[3, 5, 21, 17]], np.float32)
    expected, scale = preprocessing.resize(image, (64, 96), "stretch", MEAN)
    trained, resized, _ = augmentation.random_scale_and_crop(
        image, boxes, (64, 96), (1.0, 1.0), tf.constant([0, 0]), stretched=(64, 96)
    )
    np.testing.assert_array_equal(trained, expected)
    np.testing.assert_allclose(resized * np.tile(scale, 2), boxes, rtol=1e-5)


def test_a_part_of_a_mosaic_keeps_the_shape_of_stretched_images():
    """Objects have the aspect ratio that they have in the network's input."""
    boxes = np.array([[10, 10, 30, 30]], np.float32)
    _, resized, _ = augmentation.random_scale_and_crop(
        np.zeros((50, 100, 3), np.uint8), boxes, (32, 20), (1, 1), [0, 0], stretched=(64, 64)
    )
    # Stretched to 64 x 64, then scaled to 20 x 20.
    np.testing.assert_allclose(resized, [[10 * 20 / 50, 2, 30 * 20 / 50, 6]], rtol=1e-5)


def test_resizes_the_same_inside_a_saved_model(tmp_path):
    module = tf.Module()
    module.resize = tf.function(
        lambda image: preprocessing.resize(image, (64, 96), "pad", MEAN),
        input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)],
    )
    tf.saved_model.save(module, str(tmp_path))
    image = np.random.default_rng(1).integers(0, 256, (50, 41, 3)).astype(np.uint8)
    here, scale = preprocessing.resize(image, (64, 96), "pad", MEAN)
    there, scale_there = tf.saved_model.load(str(tmp_path)).resize(image)
    np.testing.assert_allclose(there, here, atol=1e-4)
    np.testing.assert_array_equal(scale_there, scale)
