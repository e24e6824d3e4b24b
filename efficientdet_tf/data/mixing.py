"""Training examples put together from several images.

Pure functions of tensors: everything random follows from the seed given.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from efficientdet_tf.config import AugmentationConfig

# Where the four parts of a mosaic meet: at least this share from each side.
_MOSAIC_MARGIN = 0.25
# Both images of a mix stay this visible, so that the labels of both are right.
_LEAST_SHARE = 0.35


class Example(NamedTuple):
    """An image with its objects.

    Attributes:
      image: [h, w, 3], RGB 0..255; uint8 as read, float32 once augmented.
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels of the image.
      classes: int32 [n], class indices, or what `targets.assign` takes instead.
    """

    image: tf.Tensor
    boxes: tf.Tensor
    classes: tf.Tensor


# Augments an example to (height, width), by a seed.
Prepare = Callable[[Example, tuple[tf.Tensor, tf.Tensor], tf.Tensor], Example]


def combine(
    example: Example,
    another: Callable[[tf.Tensor], Example],
    prepare: Prepare,
    image_size: tuple[int, int],
    settings: AugmentationConfig,
    seed: tf.Tensor,
) -> Example:
    """An example at the network's size, with mosaic and MixUp at their probabilities.

    Args:
      example: as read.
      another: reads some other example that a seed chooses; called only where
        it is needed.
      prepare: brings an example to a size, two int32 scalars; all of it is filled.
      image_size: (height, width) of the network's input.
      settings: the probabilities `mosaic` and `mixup`.
      seed: int [2].

    Returns:
      float32 [height, width, 3] with the objects of all images that it shows.
    """
    first_seed, mix_seed = tf.unstack(tf.random.split(seed))
    # As tensors like the parts of a mosaic: `prepare` is then traced only once.
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
    decision_seed, choice_seed, second_seed, share_seed = tf.unstack(tf.random.split(mix_seed, 4))
    mixed = _sometimes(
        settings.mixup,
        decision_seed,
        lambda: mixup(first, single_or_mosaic(another(choice_seed), second_seed), share_seed),
        lambda: first,
    )
    return mixed._replace(image=tf.ensure_shape(mixed.image, [*image_size, 3]))


def mosaic(parts: list[Example]) -> Example:
    """Puts four examples together (https://arxiv.org/abs/2004.10934, section 3.4).

    Args:
      parts: top left, top right, bottom left, bottom right; images beside each
        other are equally high, and those above each other equally wide.

    Returns:
      One image with the objects of all four, in this order.
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
    """Lets a second example shine through a first one (https://arxiv.org/abs/1902.04103).

    Each has a share of 0.35 to 0.65.

    Args:
      first: an example with a float32 image.
      second: another whose image has the same size.
      seed: int [2].

    Returns:
      The weighted mean of the images, with the objects of both, in this order.
    """
    share = tf.random.stateless_uniform([], seed, _LEAST_SHARE, 1 - _LEAST_SHARE)
    return Example(
        share * first.image + (1 - share) * second.image,
        tf.concat([first.boxes, second.boxes], axis=0),
        tf.concat([first.classes, second.classes], axis=0),
    )


def _mosaic_of_four(
    example: Example, another: Callable, prepare: Callable, size: tuple[int, int], seed: tf.Tensor
) -> Example:
    """The network's input divided at a random point; the example is one part of it."""
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
