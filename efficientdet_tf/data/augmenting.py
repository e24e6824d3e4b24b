"""Augmentation of a whole example: the steps that a config switches on, in their order."""

from collections.abc import Callable

import tensorflow as tf

from efficientdet_tf.config import Config
from efficientdet_tf.data import augmentation, mixing, preprocessing
from efficientdet_tf.data.mixing import Example
from efficientdet_tf.data.records import DetectionData

# What is drawn besides flip and scale, each from a seed of its own: switching
# one on leaves the others as they are.
_POLICY, _COLOR, _GRID_MASK, _BLUR, _SHARPNESS = range(5)


def augment(
    image: tf.Tensor,
    boxes: tf.Tensor,
    config: Config,
    seed: tf.Tensor,
    image_size: tuple[int, int] | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """A randomly changed image at the network's size, and its boxes.

    Args:
      image: uint8 [h, w, 3], RGB.
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels of the image.
      config: the model's input and augmentation.
      seed: int [2].
      image_size: (height, width) of the result, whole numbers or int32 scalars,
        where it is not the network's size.

    Returns:
      float32 [H, W, 3], RGB 0..255, padded with the mean; the boxes that are
      left in pixels of it, float32 [m, 4]; int32 [m], which of the n they are.
    """
    flip_seed, scale_seed = tf.unstack(tf.random.split(seed))
    settings = config.augmentation
    size = image_size or config.model.image_size
    if settings.policy != "none":
        # Late: what it needs of tf-models-official takes a second to import.
        from efficientdet_tf.data import policies

        image, boxes = policies.distort(image, boxes, settings, tf.random.fold_in(seed, _POLICY))
    if settings.horizontal_flip:
        image, boxes = augmentation.random_flip(image, boxes, flip_seed)
    scale_range = (settings.scale_min, settings.scale_max)
    image, boxes, kept = augmentation.random_scale_and_crop(
        image, boxes, size, scale_range, scale_seed
    )
    if settings.color:
        color_seed = tf.random.fold_in(seed, _COLOR)
        image = augmentation.random_color(image, settings.color, color_seed)
    if settings.blur or settings.sharpness:
        # Late, as above.
        from efficientdet_tf.data import filters
    if settings.blur:
        image = filters.random_blur(image, settings.blur, tf.random.fold_in(seed, _BLUR))
    if settings.sharpness:
        sharpness_seed = tf.random.fold_in(seed, _SHARPNESS)
        image = filters.random_sharpness(image, settings.sharpness, sharpness_seed)
    return preprocessing.pad(image, size, config.model.pixel_mean), boxes, kept


def augment_example(
    example: Example, another: Callable[[tf.Tensor], Example], config: Config, seed: tf.Tensor
) -> Example:
    """Augment an image as it was read, together with others where the config mixes them.

    Args:
      example: the image, its boxes in pixels of it, and their classes.
      another: from a seed to another example that was read.
      config: the model's input and augmentation.
      seed: int [2].

    Returns:
      An example of the network's size, as of `pipeline.training_examples`.
    """
    settings, size = config.augmentation, config.model.image_size

    def prepare(example: Example, image_size: tuple[int, int], seed: tf.Tensor) -> Example:
        image, boxes, kept = augment(example.image, example.boxes, config, seed, image_size)
        return Example(image, boxes, tf.gather(example.classes, kept))

    if settings.mosaic or settings.mixup:
        # In the graph once, not for each of up to ten images: it starts faster.
        prepare = tf.function(prepare, autograph=False, experimental_attributes={"_noinline": True})
        example = mixing.combine(example, another, prepare, size, settings, seed)
    else:
        example = prepare(example, size, seed)
    if settings.grid_mask:
        mask_seed = tf.random.fold_in(seed, _GRID_MASK)
        example = example._replace(
            image=augmentation.random_grid_mask(
                example.image, settings.grid_mask, config.model.pixel_mean, mask_seed
            )
        )
    return example


def draw_partner(seed: tf.Tensor, count: int) -> tf.Tensor:
    """Draw which record joins another: int64 scalar below `count`."""
    return tf.random.stateless_uniform([], seed, 0, count, tf.int64)


def training_partners(data: DetectionData, config: Config, *, seed: int, number: int) -> list[int]:
    """Find which other records are part of a mosaic or a mix.

    Args:
      data: the records.
      config: of the training.
      seed: of the training.
      number: of the image in the stream, counted from 0.

    Returns:
      Indices of `data.records`, as they were drawn.
    """
    drawn = []

    def blank(height: int, width: int) -> Example:
        return Example(tf.zeros([height, width, 3]), tf.zeros([0, 4]), tf.zeros([0], tf.int32))

    def another(seed: tf.Tensor) -> Example:
        drawn.append(int(draw_partner(seed, len(data))))
        return blank(1, 1)

    mixing.combine(
        blank(1, 1),
        another,
        lambda example, size, seed: blank(*size),
        config.model.image_size,
        config.augmentation,
        tf.constant([number, seed], tf.int64),
    )
    return drawn
