"""Mosaic, MixUp and copy-paste: training examples composed of several images.

Pure functions of tensors: all randomness is determined by the seed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from efficientdet_tf.box_tensors import intersection_and_union
from efficientdet_tf.boxes import sizes
from efficientdet_tf.config import AugmentationConfig

# Least distance of the mosaic's centre from each side, as a fraction of the side.
_MOSAIC_MARGIN = 0.25
# Least MixUp weight of either image, so that the labels of both hold.
_LEAST_SHARE = 0.35
# Largest share of an object's box that pasted boxes cover.
_MOST_COVERED = 0.3
# Probability with which an object of the other image is pasted.
_PASTED = 0.5


class Example(NamedTuple):
    """An image and its ground truth.

    Attributes:
      image: [h, w, 3], RGB 0..255; uint8 as decoded, float32 after augmentation.
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels of the image.
      classes: int32 [n], class indices, or the negative codes of `targets.assign`.
    """

    image: tf.Tensor
    boxes: tf.Tensor
    classes: tf.Tensor


# (example, (height, width), seed) -> augmented example of that size.
Prepare = Callable[[Example, tuple[tf.Tensor, tf.Tensor], tf.Tensor], Example]


def combine(
    example: Example,
    another: Callable[[tf.Tensor], Example],
    prepare: Prepare,
    image_size: tuple[int, int],
    settings: AugmentationConfig,
    seed: tf.Tensor,
) -> Example:
    """Augment an example to the network's input size, with mosaic, MixUp and copy-paste.

    Args:
      example: the example as decoded.
      another: function from a seed to another decoded example; called only if
        needed.
      prepare: function that augments an example to a size, two int32 scalars,
        and fills all of it.
      image_size: (height, width) of the network's input.
      settings: the augmentation settings; the probabilities `mosaic`, `mixup` and
        `copy_paste` are used.
      seed: int [2].

    Returns:
      An example with a float32 [height, width, 3] image and the ground truth of
      all source images; of a pasted one, that of the pasted objects.
    """
    first_seed, mix_seed = tf.unstack(tf.random.split(seed))
    # Tensors, as for the parts of a mosaic, so that `prepare` is traced only once.
    size = tuple(map(tf.constant, image_size))

    def single_or_mosaic(example: Example, seed: tf.Tensor) -> Example:
        decision_seed, seed = tf.unstack(tf.random.split(seed))
        return _sometimes(
            settings.mosaic,
            decision_seed,
            lambda: _mosaic_of_four(example, another, prepare, size, seed),
            lambda: prepare(example, size, seed),
        )

    first = single_or_mosaic(example, first_seed)
    # Seeds of its own: whether it is on does not change the draws of the others.
    paste_seeds = tf.unstack(tf.random.split(tf.random.fold_in(mix_seed, 0), 4))
    first = _sometimes(
        settings.copy_paste,
        paste_seeds[0],
        lambda: copy_paste(
            first, prepare(another(paste_seeds[1]), size, paste_seeds[2]), paste_seeds[3]
        ),
        lambda: first,
    )
    decision_seed, choice_seed, second_seed, share_seed = tf.unstack(tf.random.split(mix_seed, 4))
    mixed = _sometimes(
        settings.mixup,
        decision_seed,
        lambda: mixup(first, single_or_mosaic(another(choice_seed), second_seed), share_seed),
        lambda: first,
    )
    return mixed._replace(image=tf.ensure_shape(mixed.image, [*image_size, 3]))


def mosaic(parts: list[Example]) -> Example:
    """Compose four examples into one mosaic (https://arxiv.org/abs/2004.10934, section 3.3).

    Args:
      parts: the examples at top left, top right, bottom left and bottom right;
        images in a row have equal height, images in a column equal width.

    Returns:
      One image with the ground truth of all four, in this order.
    """
    top, bottom = (tf.concat([a.image, b.image], axis=1) for a, b in (parts[:2], parts[2:]))
    y, x = tf.unstack(tf.cast(tf.shape(parts[0].image)[:2], tf.float32))
    offsets = [(0.0, 0.0), (0.0, x), (y, 0.0), (y, x)]
    boxes = [part.boxes + tf.stack(offset * 2) for part, offset in zip(parts, offsets)]
    return Example(
        tf.concat([top, bottom], axis=0),
        tf.concat(boxes, axis=0),
        tf.concat([part.classes for part in parts], axis=0),
    )


def mixup(first: Example, second: Example, seed: tf.Tensor) -> Example:
    """Blend two examples (MixUp, https://arxiv.org/abs/1902.04103).

    The weight of each image is uniform in 0.35 to 0.65.

    Args:
      first: an example with a float32 image.
      second: an example whose float32 image has the same size.
      seed: int [2].

    Returns:
      The weighted mean of the images, with the ground truth of both, in this order.
    """
    share = tf.random.stateless_uniform([], seed, _LEAST_SHARE, 1 - _LEAST_SHARE)
    return Example(
        share * first.image + (1 - share) * second.image,
        tf.concat([first.boxes, second.boxes], axis=0),
        tf.concat([first.classes, second.classes], axis=0),
    )


def copy_paste(first: Example, second: Example, seed: tf.Tensor) -> Example:
    """Paste objects of one example into another, as the rectangles of their boxes.

    After Simple Copy-Paste (https://arxiv.org/abs/2012.07177), which has masks. Half of the
    objects are pasted at random, at their place and size. Pasted boxes together cover at most
    0.3 of each box of `first`, so that its objects stay, and each at most 0.3 of another box of
    `second`, whose parts would be seen without a label; others are left out, as are ignored
    objects.

    Args:
      first: an example with a float32 image.
      second: an example whose float32 image has the same size.
      seed: int [2].

    Returns:
      `first` with the pixels of the pasted boxes, to whole pixels, and the ground truth of
      `first`, then of the pasted objects in random order.
    """
    whole = tf.concat([tf.floor(second.boxes[:, :2]), tf.math.ceil(second.boxes[:, 2:])], axis=1)
    draws = tf.random.stateless_uniform(tf.shape(second.classes), seed)
    of_others = tf.linalg.set_diag(_covered(whole, second.boxes), tf.zeros_like(draws))
    is_candidate = (draws < _PASTED) & (second.classes >= 0)
    is_candidate &= tf.reduce_all(of_others <= _MOST_COVERED, axis=1)
    order = tf.argsort(draws)
    order = tf.boolean_mask(order, tf.gather(is_candidate, order))

    of_first = _covered(tf.gather(whole, order), first.boxes)
    is_alone = tf.reduce_all(of_first <= _MOST_COVERED, axis=1)
    of_first = tf.where(is_alone[:, tf.newaxis], of_first, 0.0)
    is_together = tf.reduce_all(tf.cumsum(of_first) <= _MOST_COVERED, axis=1)
    pasted = tf.boolean_mask(order, is_alone & is_together)
    inside = _inside(tf.gather(whole, pasted), tf.shape(first.image)[:2])
    return Example(
        tf.where(inside[:, :, tf.newaxis], second.image, first.image),
        tf.concat([first.boxes, tf.gather(second.boxes, pasted)], axis=0),
        tf.concat([first.classes, tf.gather(second.classes, pasted)], axis=0),
    )


def _covered(boxes: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Return the share of each other box that each box covers: float32 [boxes, others]."""
    intersection, _ = intersection_and_union(boxes[:, tf.newaxis], others[tf.newaxis])
    return tf.math.divide_no_nan(intersection, tf.reduce_prod(sizes(others), axis=-1))


def _inside(boxes: tf.Tensor, image_size: tf.Tensor) -> tf.Tensor:
    """Return which pixels are in any of the boxes, whose sides are whole: bool [height, width]."""
    y, x = (tf.range(tf.cast(side, tf.float32)) for side in tf.unstack(image_size))
    rows = (y >= boxes[:, :1]) & (y < boxes[:, 2:3])
    columns = (x >= boxes[:, 1:2]) & (x < boxes[:, 3:])
    rows, columns = tf.cast(rows, tf.float32), tf.cast(columns, tf.float32)
    return tf.matmul(rows, columns, transpose_a=True) > 0


def _mosaic_of_four(
    example: Example, another: Callable, prepare: Callable, size: tuple[int, int], seed: tf.Tensor
) -> Example:
    """Build a mosaic of the example and three others, split at a random point."""
    seeds = tf.unstack(tf.random.split(seed, 8))
    draws = tf.random.stateless_uniform([2], seeds[7], _MOSAIC_MARGIN, 1 - _MOSAIC_MARGIN)
    height, width = size
    y, x = tf.unstack(tf.cast(draws * tf.cast(tf.stack(size), tf.float32), tf.int32))
    sizes = [(y, x), (y, width - x), (height - y, x), (height - y, width - x)]
    examples = [example, *(another(seed) for seed in seeds[:3])]
    return mosaic([prepare(*items) for items in zip(examples, sizes, seeds[3:7])])


def _sometimes(probability: float, seed: tf.Tensor, chosen: Callable, otherwise: Callable) -> Any:
    if not probability:
        return otherwise()
    return tf.cond(tf.random.stateless_uniform([], seed) < probability, chosen, otherwise)
