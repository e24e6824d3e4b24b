"""From records in memory to batches on the device, as compiled tf.data graphs.

Pixels are read, decoded and augmented in parallel threads, and only when they
are needed. What is random follows from the seed and from the position in the
stream, not from the threads, so equal seeds give equal batches.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from efficientdet_tf import anchors, targets
from efficientdet_tf.config import Config
from efficientdet_tf.data import augmentation, mixing, preprocessing
from efficientdet_tf.data.decoding import decode_image
from efficientdet_tf.data.mixing import Example
from efficientdet_tf.data.records import DataError, DetectionData, Record

# What is drawn besides flip and scale, each from a seed of its own: switching
# one on leaves the others as they are.
_POLICY, _COLOR, _GRID_MASK = range(3)


@dataclasses.dataclass(frozen=True)
class _Table:
    """All records of a data set as flat tensors, looked up by position.

    Attributes:
      images: string [n], paths, or encoded files where `in_memory`.
      in_memory: bool [n].
      apply_exif: bool [n].
      image_ids: int64 [n].
      offsets: int64 [n + 1]; the objects of record i are offsets[i] to offsets[i + 1].
      boxes: float32 [m, 4], ymin, xmin, ymax, xmax in original pixels.
      classes: int32 [m].
    """

    images: tf.Tensor
    in_memory: tf.Tensor
    apply_exif: tf.Tensor
    image_ids: tf.Tensor
    offsets: tf.Tensor
    boxes: tf.Tensor
    classes: tf.Tensor


def training_dataset(
    data: DetectionData, config: Config, batch_size: int, *, repeat: bool = True, seed: int = 0
) -> tf.data.Dataset:
    """Shuffled, augmented batches with their targets.

    Crowd regions are no objects here. An image that cannot be read any more is
    skipped with a warning, unless `config.data.strict`.

    Args:
      data: the records.
      config: the model's input, anchors and augmentation.
      batch_size: images in a batch; the last, smaller one is dropped.
      repeat: go on for ever, shuffled anew each time.
      seed: of the order and of the augmentation; a resumed run should give another.

    Returns:
      Batches of (images float32 [B, H, W, 3], RGB 0..255, padded with the mean;
      targets). The targets are a dict with, for each level L, "cls_L", int32
      [B, h, w, A], and "box_L", float32 [B, h, w, A * 4], of `targets.assign`,
      and "num_positives", float32 [B]. All shapes are static.

    Raises:
      DataError: for a data set smaller than one batch that is not repeated.
    """
    if not repeat and len(data) < batch_size:
        raise DataError(f"{data.source}: {len(data)} images are fewer than a batch of {batch_size}")

    def element(example: Example):
        return example.image, _targets(example, config)

    stream = _training_stream(data, config, element, repeat, seed)
    return _batches(stream, batch_size, drop_remainder=True)


def training_examples(
    data: DetectionData, config: Config, *, repeat: bool = True, seed: int = 0
) -> tf.data.Dataset:
    """What `training_dataset` makes targets and batches of, image by image.

    Args:
      data: the records.
      config: the model's input and augmentation.
      repeat: go on for ever, shuffled anew each time.
      seed: of the order and of the augmentation.

    Returns:
      Examples: an image float32 [H, W, 3], RGB 0..255, padded with the mean, its
      boxes float32 [n, 4] in network pixels and their classes int32 [n].
    """
    return _training_stream(data, config, lambda example: example, repeat, seed)


def evaluation_dataset(data: DetectionData, config: Config, batch_size: int) -> tf.data.Dataset:
    """Every image once, in order, without augmentation.

    The last batch holds what is left and may be smaller. An image that cannot
    be read any more is skipped with a warning, unless `config.data.strict`.

    Args:
      data: the records.
      config: the model's input.
      batch_size: images in a batch.

    Returns:
      Batches of (images float32 [B, H, W, 3], RGB 0..255, padded with the mean;
      a dict of "image_id" int64 [B], "image_scale" float32 [B], the original
      pixels in a network pixel, "height" and "width" int32 [B], the original
      size).
    """
    table = _table(data, with_crowd=True)

    def element(position):
        pixels = _read(table, position)
        image, scale = preprocessing.resize_and_pad(
            pixels, config.model.image_size, config.model.pixel_mean
        )
        size = tf.shape(pixels)
        image_id = tf.gather(table.image_ids, position)
        return image, {
            "image_id": image_id,
            "image_scale": scale,
            "height": size[0],
            "width": size[1],
        }

    stream = _parallel_map(tf.data.Dataset.range(len(data)), element)
    return _batches(_skip_failures(stream, config), batch_size, drop_remainder=False)


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
    return preprocessing.pad(image, size, config.model.pixel_mean), boxes, kept


def _training_stream(
    data: DetectionData, config: Config, finish: Callable[[Example], Any], repeat: bool, seed: int
) -> tf.data.Dataset:
    """`finish` of the shuffled and augmented examples, in one step with augmenting them."""
    table = _table(data, with_crowd=False)
    order = tf.data.Dataset.range(len(data))

    def with_pixels(position):
        return position, _read(table, position)

    if config.data.cache:
        # Cached before the shuffle, which then moves references and no pixels.
        order = _skip_failures(_parallel_map(order, with_pixels), config).cache()
    stream = order.shuffle(len(data), seed=seed, reshuffle_each_iteration=True)
    stream = stream.repeat() if repeat else stream
    if not config.data.cache:
        stream = _skip_failures(_parallel_map(stream, with_pixels), config)

    def another(seed: tf.Tensor) -> Example:
        position = tf.random.stateless_uniform([], seed, 0, len(data), tf.int64)
        return Example(_read(table, position), *_objects(table, position))

    def augmented(count, position_and_pixels):
        position, pixels = position_and_pixels
        example = Example(pixels, *_objects(table, position))
        return finish(_augmented(example, another, config, tf.stack([count, seed])))

    stream = _parallel_map(stream.enumerate(), augmented)
    mixes = config.augmentation.mosaic or config.augmentation.mixup
    return _skip_failures(stream, config) if mixes else stream


def _augmented(example: Example, another, config: Config, seed: tf.Tensor) -> Example:
    """One of `training_examples` from an image as read."""
    settings, size = config.augmentation, config.model.image_size

    def prepare(example: Example, image_size, seed) -> Example:
        image, boxes, kept = augment(example.image, example.boxes, config, seed, image_size)
        return Example(image, boxes, tf.gather(example.classes, kept))

    if settings.mosaic or settings.mixup:
        # In the graph once, not for each of up to ten images: it starts faster.
        prepare = tf.function(prepare, experimental_attributes={"_noinline": True})
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


def _targets(example: Example, config: Config) -> dict[str, tf.Tensor]:
    """The targets of one image, as in `training_dataset` without the batch."""
    model = config.model
    class_targets, box_targets, num_positives = targets.assign(
        anchors.of_config(config), example.boxes, example.classes, config.anchors.match_threshold
    )
    maps = targets.by_level(
        class_targets, box_targets, model.image_size, model.min_level, model.max_level
    )
    return maps | {"num_positives": num_positives}


def _table(data: DetectionData, with_crowd: bool) -> _Table:
    records = data.records

    def kept(record: Record) -> np.ndarray:
        return np.full(len(record.boxes), True) if with_crowd else ~record.is_crowd

    counts = [int(kept(record).sum()) for record in records]
    boxes = [record.boxes[kept(record)] for record in records]
    classes = [record.classes[kept(record)] for record in records]
    return _Table(
        images=tf.constant([record.image for record in records], tf.string),
        in_memory=tf.constant([isinstance(record.image, bytes) for record in records]),
        apply_exif=tf.constant([record.apply_exif for record in records]),
        image_ids=tf.constant([record.image_id for record in records], tf.int64),
        offsets=tf.constant(np.cumsum([0, *counts]), tf.int64),
        boxes=tf.constant(np.concatenate([np.zeros((0, 4)), *boxes]), tf.float32),
        classes=tf.constant(np.concatenate([np.zeros(0), *classes]), tf.int32),
    )


def _read(table: _Table, position: tf.Tensor) -> tf.Tensor:
    """The decoded image at `position`: uint8 [h, w, 3]."""
    image = tf.gather(table.images, position)
    encoded = tf.cond(
        tf.gather(table.in_memory, position), lambda: image, lambda: tf.io.read_file(image)
    )
    return decode_image(encoded, tf.gather(table.apply_exif, position))


def _objects(table: _Table, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Boxes float32 [n, 4] and classes int32 [n] of the record at `position`."""
    begin, end = table.offsets[position], table.offsets[position + 1]
    return table.boxes[begin:end], table.classes[begin:end]


def _parallel_map(dataset: tf.data.Dataset, function) -> tf.data.Dataset:
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _batches(dataset: tf.data.Dataset, batch_size: int, drop_remainder: bool) -> tf.data.Dataset:
    options = tf.data.Options()
    # Workers share the images out among them: the images are no files to tf.data.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    dataset = dataset.batch(batch_size, drop_remainder=drop_remainder)
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)


def _skip_failures(dataset: tf.data.Dataset, config: Config) -> tf.data.Dataset:
    """Leaves out, with a warning, the elements whose image cannot be read."""
    return dataset if config.data.strict else dataset.ignore_errors(log_warning=True)
