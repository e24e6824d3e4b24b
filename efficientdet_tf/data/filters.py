"""Blur and sharpness, by the Gaussian filter of tf-models-official.

Pure functions of tensors: everything random follows from the seed given. Boxes
stay as they are.
"""

import functools
import math

import tensorflow as tf
from official.vision.ops import augment

# Standard deviations of the blur in pixels: from just visible to out of focus.
_SIGMAS = (0.7, 1.3, 2.0)
# The 3 x 3 Gaussian whose centre weighs 5 / 13, as that of Pillow's SMOOTH, by which AutoAugment
# and tf-models-official sharpen. The latter's own `sharpness` rounds down to whole levels, which
# darkens areas of one colour.
_SMOOTHING_SIGMA = 0.65
# Smaller images, of which a filter would see little but the border, stay as they are.
_LEAST_SIDE = 16


def random_blur(image: tf.Tensor, probability: float, seed: tf.Tensor) -> tf.Tensor:
    """Blurs with a Gaussian of one of three widths.

    Args:
      image: float32 [h, w, 3], RGB 0..255.
      probability: of its being done.
      seed: int [2].

    Returns:
      float32 [h, w, 3], RGB 0..255.
    """
    decision, width = tf.unstack(tf.random.stateless_uniform([2], seed))

    def blurred(sigma: float) -> tf.Tensor:
        size = 2 * math.ceil(3 * sigma) + 1
        return _smoothed(image, size, sigma)

    def any_width() -> tf.Tensor:
        branches = [functools.partial(blurred, sigma) for sigma in _SIGMAS]
        return tf.switch_case(tf.cast(width * len(branches), tf.int32), branches)

    return tf.cond((decision < probability) & _is_large(image), any_width, lambda: image)


def random_sharpness(image: tf.Tensor, strength: float, seed: tf.Tensor) -> tf.Tensor:
    """Makes edges sharper or softer.

    Args:
      image: float32 [h, w, 3], RGB 0..255.
      strength: 0..1; the difference between the image and its smoothed self is
        multiplied by 1 - strength to 1 + strength.
      seed: int [2].

    Returns:
      float32 [h, w, 3], RGB 0..255.
    """
    factor = tf.random.stateless_uniform([], seed, 1 - strength, 1 + strength)

    def changed() -> tf.Tensor:
        smoothed = _smoothed(image, 3, _SMOOTHING_SIGMA)
        return tf.clip_by_value(smoothed + factor * (image - smoothed), 0.0, 255.0)

    return tf.cond(_is_large(image), changed, lambda: image)


def _is_large(image: tf.Tensor) -> tf.Tensor:
    return tf.reduce_min(tf.shape(image)[:2]) >= _LEAST_SIDE


def _smoothed(image: tf.Tensor, size: int, sigma: float) -> tf.Tensor:
    return tf.ensure_shape(augment.gaussian_filter2d(image, size, sigma), image.shape)
