"""Augmentation of an example: the sequence of steps that a config enables."""

from collections.abc import Callable

import tensorflow as tf

from efficientdet_tf.config import Config
from efficientdet_tf.data import augmentation, mixing, preprocessing
from efficientdet_tf.data.mixing import Example
from efficientdet_tf.data.records import DetectionData

# Settings without strong augmentation, as in the last `augmentation.plain_epochs`.
_PLAIN = {
    "augmentation.policy": "none",
    "augmentation.mosaic": 0.0,
    "augmentation.mixup": 0.0,
    "augmentation.copy_paste": 0.0,
}
# Seed offsets of the steps besides flip and scale: enabling one does not change
# the draws of the others.
_POLICY, _COLOR, _GRID_MASK, _BLUR, _SHARPNESS = range(5)


def augment(
    image: tf.Tensor,
    boxes: tf.Tensor,
    config: Config,
    seed: tf.Tensor,
    image_size: tuple[int, int] | None = None,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Augment an image to the network's input size, and its boxes.

    Args:
      image: uint8 [h, w, 3], RGB.
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels of the image.
      config: config of the model's input and augmentation.
      seed: int [2].
      image_size: (height, width) of the result in pixels, integers or int32
        scalars. Default: the network's input size.

    Returns:
      float32 [H, W, 3], RGB 0..255, padded with the mean; the remaining boxes in
      its pixels, float32 [m, 4]; and their indices among the n, int32 [m].
    """
    flip_seed, scale_seed = tf.unstack(tf.random.split(seed))
    settings = config.augmentation
    size = image_size or config.model.image_size
    if settings.policy != "none":
        # Imported here: tf-models-official takes a second.
        from efficientdet_tf.data import policies

        image, boxes = policies.distort(image, boxes, settings, tf.random.fold_in(seed, _POLICY))
    if settings.horizontal_flip:
        image, boxes = augmentation.random_flip(image, boxes, flip_seed)
    scale_range = (settings.scale_min, settings.scale_max)
    stretched = config.model.image_size if config.model.resize == "stretch" else None
    image, boxes, kept = augmentation.random_scale_and_crop(
        image, boxes, size, scale_range, scale_seed, stretched
    )
    if settings.color:
        color_seed = tf.random.fold_in(seed, _COLOR)
        image = augmentation.random_color(image, settings.color, color_seed)
    if settings.blur or settings.sharpness:
        # Imported here, as above.
        from efficientdet_tf.data import filters
    if settings.blur:
        image = filters.random_blur(image, settings.blur, tf.random.fold_in(seed, _BLUR))
    if settings.sharpness:
        sharpness_seed = tf.random.fold_in(seed, _SHARPNESS)
        image = filters.random_sharpness(image, settings.sharpness, sharpness_seed)
    return preprocessing.pad(image, size, config.model.pixel_mean), boxes, kept


def augment_example(
    example: Example,
    another: Callable[[tf.Tensor], Example],
    config: Config,
    seed: tf.Tensor,
    is_plain: tf.Tensor | None = None,
) -> Example:
    """Augment a decoded example, with others in mosaic, MixUp and copy-paste.

    Args:
      example: the image, its boxes in pixels of it, and their classes.
      another: function from a seed to another decoded example.
      config: config of the model's input and augmentation.
      seed: int [2].
      is_plain: bool scalar, whether mosaic, MixUp, copy-paste and the policy are off; None for
        as in the config. Default None.

    Returns:
      An example of the network's input size, see `pipeline.training_examples`.
    """
    if is_plain is not None and config != (plain := config.override(_PLAIN)):
        # Both in the graph: no stream has to be started again in the middle of a training.
        return tf.cond(
            is_plain,
            lambda: augment_example(example, another, plain, seed),
            lambda: augment_example(example, another, config, seed),
        )
    settings, size = config.augmentation, config.model.image_size

    def prepare(example: Example, image_size: tuple[int, int], seed: tf.Tensor) -> Example:
        image, boxes, kept = augment(example.image, example.boxes, config, seed, image_size)
        return Example(image, boxes, tf.gather(example.classes, kept))

    if has_partners(config):
        # In the graph once instead of for each of up to nine images: faster to start.
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


def has_partners(config: Config) -> bool:
    """Return whether other images can be part of an image: mosaic, MixUp or copy-paste is on."""
    settings = config.augmentation
    return bool(settings.mosaic or settings.mixup or settings.copy_paste)


def draw_partner(data: DetectionData, position: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Draw the position of another image that becomes part of one: int64 scalar.

    The partner of an unlabelled image is another one, that of a labelled image never is: the
    ground truth of a composed image is known as a whole or not at all.

    Args:
      data: training set.
      position: int64 scalar, index of the image among `training_records`.
      seed: int [2].
    """
    count = len(data)
    if data.unlabeled is None:
        return tf.random.stateless_uniform([], seed, 0, count, tf.int64)
    is_labeled = position < count
    first, end = tf.where(is_labeled, 0, count), count + len(data.unlabeled.records)
    end = tf.where(is_labeled, count, end)
    first, end = tf.cast(first, tf.int64), tf.cast(end, tf.int64)
    return tf.random.stateless_uniform([], seed, first, end, tf.int64)


def training_partners(
    data: DetectionData, config: Config, *, seed: int, number: int, position: int = 0
) -> list[int]:
    """List the other records in the mosaic, MixUp or copy-paste of an image.

    Args:
      data: the data set.
      config: config of the training.
      seed: seed of the training stream.
      number: number of the image in the stream, counted from 0.
      position: index of the image among `training_records`; it matters only whether the image is
        labelled. Default 0.

    Returns:
      Indices of `training_records`, in the order drawn.
    """
    drawn = []

    def blank(height: int, width: int) -> Example:
        return Example(tf.zeros([height, width, 3]), tf.zeros([0, 4]), tf.zeros([0], tf.int32))

    def another(seed: tf.Tensor) -> Example:
        drawn.append(int(draw_partner(data, tf.constant(position), seed)))
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
