"""Resizing without TensorFlow gives the bits of the input pipeline's."""

import numpy as np
import pytest

from efficientdet_tf.config import Config
from efficientdet_tf.data import preprocessing
from efficientdet_tf.inference.image_resize import ImageResize

PAD_VALUE = (127.0, 10.5, 3.0)


@pytest.mark.parametrize("method", ["pad", "stretch"])
@pytest.mark.parametrize("image_size", [(64, 64), (48, 80), (65, 33)])
@pytest.mark.parametrize(
    "shape", [(64, 64), (48, 80), (37, 1), (1, 900), (31, 50), (100, 90), (333, 500), (700, 300)]
)
def test_the_bits_are_those_of_training(shape, image_size, method):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    pixels, scale, size = ImageResize(image_size, method, PAD_VALUE)(image)
    expected, expected_scale = preprocessing.resize(image, image_size, method, PAD_VALUE)
    assert (pixels.dtype, scale.dtype, size.dtype) == (np.float32, np.float32, np.int32)
    np.testing.assert_array_equal(pixels, expected.numpy())
    np.testing.assert_array_equal(scale, expected_scale.numpy())
    np.testing.assert_array_equal(size, shape)


def test_the_image_is_not_changed():
    image = np.zeros((40, 40, 3), np.uint8)
    pixels, _, _ = ImageResize((40, 40), "pad", PAD_VALUE)(image)
    pixels += 1
    assert not image.any()


def test_is_that_of_the_config():
    config = Config.for_model("efficientdet-lite0").override({"model.resize": "stretch"})
    resize = ImageResize.from_config(config)
    assert resize == ImageResize((320, 320), "stretch", config.model.pixel_mean)
