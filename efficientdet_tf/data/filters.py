"""Random blur and sharpness, by the Gaussian filter of tf-models-official.

Pure functions of tensors: all randomness is determined by the seed. Boxes are
unchanged.
"""

import functools
import math

import tensorflow as tf
from official.vision.ops import augment

# Standard deviations of the blur in pixels: just visible to out of focus.
_SIGMAS = (0.7, 1.3, 2.0)
# The 3 x 3 Gaussian whose centre weighs 5 / 13, like Pillow's SMOOTH, which AutoAugment and
# tf-models-official use to sharpen. The latter's own `sharpness` rounds down to whole levels,
# which darkens areas of one colour.
_SMOOTHING_SIGMA = 0.65
# Smaller images are unchanged: a filter would see little but their border.
_LEAST_SIDE = 16


def random_blur(image: tf.Tensor, probability: float, seed: tf.Tensor) -> tf.Tensor:
    """Blur with a Gaussian of one of three widths.

    Args:
      image: float32 [h, w, 3], RGB 0..255.
      probability: probability of the blur, 0..1.
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
    """Sharpen or soften edges.

    Args:
      image: float32 [h, w, 3], RGB 0..255.
      strength: 0..1; the difference between the image and its smoothed version
        is multiplied by 1 - strength to 1 + strength.
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
