"""Random flip, scale, crop, colour and GridMask.

Flip, scale and crop are the paper's (section 5.1). Pure functions of tensors:
all randomness is determined by the seed.
"""

import math
from collections.abc import Sequence

import tensorflow as tf

from efficientdet_tf.data import preprocessing


def random_flip(image: tf.Tensor, boxes: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Flip horizontally with a probability of 1/2.

    Args:
      image: [h, w, 3] of any type.
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels.
      seed: int [2].

    Returns:
      The image and its boxes, same shapes and types.
    """

    def mirrored() -> tuple[tf.Tensor, tf.Tensor]:
        width = tf.cast(tf.shape(image)[1], tf.float32)
        ymin, xmin, ymax, xmax = tf.unstack(boxes, axis=1)
        flipped_boxes = tf.stack([ymin, width - xmax, ymax, width - xmin], axis=1)
        return tf.reverse(image, [1]), flipped_boxes

    chosen = tf.random.stateless_uniform([], seed) < 0.5
    return tf.cond(chosen, mirrored, lambda: (image, boxes))


def random_scale_and_crop(
    image: tf.Tensor,
    boxes: tf.Tensor,
    image_size: tuple[int, int],
    scale_range: tuple[float, float],
    seed: tf.Tensor,
    stretched: tuple[int, int] | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Scale by a random factor and crop to the network's input size.

    A factor of 1 fits the image into `image_size`. The original is cropped first, so
    that only visible pixels are interpolated.

    Args:
      image: uint8 or float32 [h, w, 3].
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels of that image.
      image_size: (height, width) of the network's input in pixels, integers or
        int32 scalars.
      scale_range: smallest and largest factor.
      seed: int [2].
      stretched: size whose aspect ratio every image is given before it is cropped; None to
        keep the image's. Default None.

    Returns:
      float32 [h', w', 3] with h' and w' at most `image_size`; the clipped,
      non-empty boxes in its pixels, float32 [m, 4]; and their indices among the
      n boxes, int32 [m].
    """
    original_size = tf.cast(tf.shape(image)[:2], tf.float32)
    limit = tf.cast(tf.stack(image_size), tf.float32)
    draws = tf.random.stateless_uniform([3], seed)
    factor = scale_range[0] + draws[0] * (scale_range[1] - scale_range[0])
    scale = factor * preprocessing.fit(original_size, image_size, stretched)
    crop_size = tf.minimum(original_size, tf.math.ceil(limit / scale))
    offset = tf.floor(draws[1:] * (original_size - crop_size + 1))
    # A draw just below 1 may round up to it.
    offset = tf.minimum(offset, original_size - crop_size)
    # Truncated as in the published models; a stretched image fills the input.
    truncate = tf.floor if stretched is None else tf.round
    scaled_size = tf.clip_by_value(truncate(crop_size * scale), 1, limit)
    image = _crop_and_resize(image, offset, crop_size, scaled_size)
    boxes = (boxes - tf.tile(offset, [2])) * tf.tile(scaled_size / crop_size, [2])
    boxes, kept = preprocessing.clip_boxes(boxes, image_size)
    return image, boxes, kept


def random_color(image: tf.Tensor, strength: float, seed: tf.Tensor) -> tf.Tensor:
    """Jitter brightness, contrast, saturation and hue.

    Args:
      image: float32 [h, w, 3], RGB 0..255.
      strength: s in 0..1. Brightness changes by up to s / 2 of the full scale,
        contrast and saturation by factors of 1 - s to 1 + s, and hue by up to
        s / 10 of the colour wheel.
      seed: int [2].

    Returns:
      float32 [h, w, 3], RGB 0..255.
    """
    draws = strength * tf.random.stateless_uniform([4], seed, -1, 1)
    image = tf.image.adjust_contrast(image / 255, 1 + draws[0])
    image = tf.clip_by_value(image + draws[1] / 2, 0.0, 1.0)
    image = tf.image.adjust_saturation(image, 1 + draws[2])
    return 255 * tf.image.adjust_hue(image, draws[3] / 10)


def random_grid_mask(
    image: tf.Tensor, probability: float, filling: Sequence[float], seed: tf.Tensor
) -> tf.Tensor:
    """Fill the squares of a random grid, a quarter of the image, with a colour.

    GridMask, https://arxiv.org/abs/2001.04086: the grid has a random rotation and
    offset; its unit is a fifth to a half of the shorter side, and the squares have
    half of its length. Boxes are unchanged.

    Args:
      image: float32 [h, w, 3].
      probability: probability of the mask, 0..1.
      filling: three numbers, the fill colour on the image's scale.
      seed: int [2].

    Returns:
      float32 [h, w, 3].
    """
    decision, length, turn, *shift = tf.unstack(tf.random.stateless_uniform([5], seed))

    def masked() -> tf.Tensor:
        size = tf.cast(tf.shape(image)[:2], tf.float32)
        unit = tf.reduce_min(size) * (0.2 + 0.3 * length)
        y, x = tf.range(size[0])[:, None] / unit, tf.range(size[1])[None, :] / unit
        sine, cosine = tf.sin(2 * math.pi * turn), tf.cos(2 * math.pi * turn)
        across, along = cosine * x - sine * y + shift[0], sine * x + cosine * y + shift[1]
        # Ten times faster than "% 1".
        hidden = (across - tf.floor(across) < 0.5) & (along - tf.floor(along) < 0.5)
        return tf.where(hidden[:, :, None], tf.constant(filling, tf.float32), image)

    return tf.cond(decision < probability, masked, lambda: image)


def _crop_and_resize(
    image: tf.Tensor, offset: tf.Tensor, crop_size: tf.Tensor, scaled_size: tf.Tensor
) -> tf.Tensor:
    """Crop and resize; offset and sizes are integral, float32 [2] each: height, width."""
    begin = tf.concat([tf.cast(offset, tf.int32), [0]], axis=0)
    size = tf.concat([tf.cast(crop_size, tf.int32), [3]], axis=0)
    crop = tf.slice(image, begin, size)
    return tf.image.resize(crop, tf.cast(scaled_size, tf.int32))
