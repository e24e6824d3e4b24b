"""From records in memory to batches on the device, as compiled tf.data graphs.

Pixels are read, decoded and augmented in parallel threads, and only when they
are needed. What is random follows from the seed and from the position in the
stream, not from the threads, so equal seeds give equal batches.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from efficientdet_tf import anchors, targets
from efficientdet_tf.config import Config
from efficientdet_tf.data import augmentation, filters, mixing, preprocessing
from efficientdet_tf.data.decoding import decode_image
from efficientdet_tf.data.mixing import Example
from efficientdet_tf.data.records import DataError, DetectionData, Record

# What is drawn besides flip and scale, each from a seed of its own: switching
# one on leaves the others as they are.
_POLICY, _COLOR, _GRID_MASK, _BLUR, _SHARPNESS = range(5)


@dataclasses.dataclass(frozen=True)
class _Table:
    """All records of a data set as flat tensors, looked up by position.

    Attributes:
      images: string [n], paths, or encoded files where `in_memory`.
      in_memory: bool [n].
      apply_exif: bool [n].
      offsets: int64 [n + 1]; the objects of record i are offsets[i] to offsets[i + 1].
      boxes: float32 [m, 4], ymin, xmin, ymax, xmax in original pixels.
      classes: int32 [m], as `targets.assign` takes them.
    """

    images: tf.Tensor
    in_memory: tf.Tensor
    apply_exif: tf.Tensor
    offsets: tf.Tensor
    boxes: tf.Tensor
    classes: tf.Tensor


def training_dataset(
    data: DetectionData,
    config: Config,
    batch_size: int,
    *,
    repeat: bool = True,
    seed: int = 0,
    first_image: int = 0,
    worker: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Shuffled, augmented batches with their targets.

    Crowd regions are no objects here: they are background, or left out of the class
    loss with `config.data.ignore_crowd`, as ignored objects always are. An image that
    cannot be read any more is skipped with a warning, unless `config.data.strict`.

    Args:
      data: the records.
      config: the model's input, anchors and augmentation.
      batch_size: images in a batch, over all workers; the last, smaller one is dropped.
      repeat: go on for ever, shuffled anew each time.
      seed: of the order and of the augmentation.
      first_image: images of the stream that are passed over without being read: those that a
        training has seen before it was stopped.
      worker: which share of the stream to give, in batches of one device, as
        `Strategy.distribute_datasets_from_function` passes it; all of it when None. The
        devices' batches of a step are together the batch that one device would have.

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

    order = _Order(repeat, seed, first_image)
    if worker is not None:
        batch_size = worker.get_per_replica_batch_size(batch_size)
        order = order._replace(workers=worker.num_input_pipelines, worker=worker.input_pipeline_id)
    stream = _training_stream(data, config, element, order)
    return _batches(stream, batch_size, drop_remainder=True)


def training_positions(
    data: DetectionData, *, seed: int, first_image: int, count: int
) -> list[int]:
    """Which records `training_dataset` with this seed gives, from `first_image` on.

    Images that could not be read while training are not known here.

    Args:
      data: the records.
      seed: of the training.
      first_image: images of the stream before the first.
      count: how many.

    Returns:
      `count` indices of `data.records`.
    """
    stream = _Order(True, seed, first_image).of(tf.data.Dataset.range(len(data)), len(data))
    return [int(position) for _, position in stream.take(count)]


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
      boxes float32 [n, 4] in network pixels and their classes int32 [n], as
      `targets.assign` takes them: those of ignored boxes are negative.
    """
    return _training_stream(data, config, lambda example: example, _Order(repeat, seed))


def evaluation_dataset(
    data: DetectionData,
    config: Config,
    batch_size: int,
    worker: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Every image once, in order, without augmentation, in full batches.

    The last batches are filled up with padding, so that all shapes are static and all devices
    have equally many. An image that cannot be read any more is skipped with a warning, unless
    `config.data.strict`.

    Args:
      data: the records.
      config: the model's input.
      batch_size: images in a batch of one device.
      worker: which share to give, as `Strategy.distribute_datasets_from_function` passes it; all
        of it when None.

    Returns:
      Batches of (images float32 [B, H, W, 3], RGB 0..255, padded with the mean;
      a dict of "position" int32 [B], index in `data.records`, -1 for padding, "image_scale"
      float32 [B], the original pixels in a network pixel, and "size" int32 [B, 2], the original
      height and width).
    """
    table = _table(data, ignore_crowd=False)
    size = config.model.image_size

    def element(position):
        pixels = _read(table, position)
        image, scale = preprocessing.resize_and_pad(pixels, size, config.model.pixel_mean)
        about = {"position": tf.cast(position, tf.int32), "image_scale": scale}
        return image, about | {"size": tf.shape(pixels)[:2]}

    padding = (
        tf.zeros([*size, 3]),
        {"position": tf.constant(-1), "image_scale": 1.0, "size": tf.constant(size, tf.int32)},
    )
    workers, index = (worker.num_input_pipelines, worker.input_pipeline_id) if worker else (1, 0)
    devices = worker.num_replicas_in_sync if worker else 1
    # Of all devices: then padding is the same for each.
    rounds = -(-len(data) // (batch_size * devices))
    stream = _parallel_map(tf.data.Dataset.range(len(data)).shard(workers, index), element)
    stream = _skip_failures(stream, config)
    stream = stream.concatenate(tf.data.Dataset.from_tensors(padding).repeat())
    stream = stream.take(rounds * batch_size * devices // workers)
    return _batches(stream, batch_size, drop_remainder=True)


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
    if settings.blur:
        image = filters.random_blur(image, settings.blur, tf.random.fold_in(seed, _BLUR))
    if settings.sharpness:
        sharpness_seed = tf.random.fold_in(seed, _SHARPNESS)
        image = filters.random_sharpness(image, settings.sharpness, sharpness_seed)
    return preprocessing.pad(image, size, config.model.pixel_mean), boxes, kept


class _Order(NamedTuple):
    """Which images come when.

    Attributes:
      repeat: for ever, shuffled anew each time.
      seed: of the shuffles.
      first: so many are passed over.
      workers, worker: every so many-th image is given, from this on.
    """

    repeat: bool
    seed: int
    first: int = 0
    workers: int = 1
    worker: int = 0

    def of(self, images: tf.data.Dataset, size: int) -> tf.data.Dataset:
        """(its number in the stream of all, image) of each that is given."""
        stream = images.shuffle(size, seed=self.seed, reshuffle_each_iteration=True)
        stream = stream.repeat() if self.repeat else stream
        return stream.enumerate().skip(self.first).shard(self.workers, self.worker)


def _training_stream(
    data: DetectionData, config: Config, finish: Callable[[Example], Any], order: _Order
) -> tf.data.Dataset:
    """`finish` of the shuffled and augmented examples, in one step with augmenting them."""
    filters.load(config.augmentation)
    table = _table(data, config.data.ignore_crowd)
    images = tf.data.Dataset.range(len(data))
    if config.data.cache:
        # Cached before the shuffle, which then moves references and no pixels.
        images = _parallel_map(images, lambda position: (position, _read(table, position)))
        stream = order.of(_skip_failures(images, config).cache(), len(data))
        stream = stream.map(lambda count, position_and_pixels: (count, *position_and_pixels))
    else:
        stream = _parallel_map(
            order.of(images, len(data)),
            lambda count, position: (count, position, _read(table, position)),
        )
        stream = _skip_failures(stream, config)

    def another(seed: tf.Tensor) -> Example:
        position = tf.random.stateless_uniform([], seed, 0, len(data), tf.int64)
        return Example(_read(table, position), *_objects(table, position))

    def augmented(count, position, pixels):
        example = Example(pixels, *_objects(table, position))
        return finish(_augmented(example, another, config, tf.stack([count, order.seed])))

    stream = _parallel_map(stream, augmented)
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


def _table(data: DetectionData, ignore_crowd: bool) -> _Table:
    records = data.records
    objects = [_training_objects(record, ignore_crowd) for record in records]
    boxes = [boxes for boxes, _ in objects]
    return _Table(
        images=tf.constant([record.image for record in records], tf.string),
        in_memory=tf.constant([isinstance(record.image, bytes) for record in records]),
        apply_exif=tf.constant([record.apply_exif for record in records]),
        offsets=tf.constant(np.cumsum([0, *map(len, boxes)]), tf.int64),
        boxes=tf.constant(np.concatenate([np.zeros((0, 4)), *boxes]), tf.float32),
        classes=tf.constant(
            np.concatenate([np.zeros(0), *(classes for _, classes in objects)]), tf.int32
        ),
    )


def _training_objects(record: Record, ignore_crowd: bool) -> tuple[np.ndarray, np.ndarray]:
    """Boxes float32 [n, 4] and classes int32 [n] of what training has to know of.

    Ignored boxes have a class index of their own, so that augmentation takes them along.
    """
    classes = np.where(record.is_ignored, targets.IGNORED, record.classes)
    kept = ~record.is_crowd | record.is_ignored
    if ignore_crowd:
        classes = np.where(record.is_crowd, targets.IGNORED_REGION, classes)
        kept = np.full(len(classes), True)
    return record.boxes[kept], classes[kept]


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
