"""Input pipeline: from records to batches, as compiled tf.data graphs.

Pixels are read, decoded and augmented in parallel threads, and only on demand.
Randomness is determined by the seed and the position in the stream, not by the
threads, so equal seeds give equal batches.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from efficientdet_tf import anchors, targets
from efficientdet_tf.config import Config
from efficientdet_tf.data import preprocessing, service, stream_order
from efficientdet_tf.data.augmenting import augment_example, draw_partner
from efficientdet_tf.data.deliveries import Deliveries
from efficientdet_tf.data.mixing import Example
from efficientdet_tf.data.reading import ReadFailures, Reading, parallel_map
from efficientdet_tf.data.record_table import RecordTable
from efficientdet_tf.data.records import DataError, DetectionData
from efficientdet_tf.data.service import ServedOrder
from efficientdet_tf.data.shard_order import ShardOrder
from efficientdet_tf.data.stream_order import Order
from efficientdet_tf.data.stream_share import Share


@tf.autograph.experimental.do_not_convert
def training_dataset(
    data: DetectionData,
    config: Config,
    batch_size: int,
    *,
    repeat: bool = True,
    seed: int = 0,
    first_image: int = 0,
    plain_from: int | None = None,
    worker: tf.distribute.InputContext | None = None,
    failures: ReadFailures | None = None,
    deliveries: Deliveries | None = None,
) -> tf.data.Dataset:
    """Build shuffled, augmented batches with their targets.

    Crowd regions are background, or with `config.data.ignore_crowd` excluded from the class
    loss, as ignored objects always are. An image that has become unreadable is skipped,
    unless `config.data.strict`; as a part of another image, that one replaces it. If no image is
    readable, iteration eventually raises `tf.errors.InvalidArgumentError`.

    With `config.data.service`, and if `repeat`, workers of a tf.data service prepare the images;
    their order then depends on when these are ready.

    Unlabelled images of `data.unlabeled` have targets that contribute nothing to the losses of the
    ground truth.

    Args:
      data: the data set.
      config: config of the model's input, anchors and augmentation.
      batch_size: global batch size, in images; the last, smaller batch is dropped.
      repeat: whether to repeat indefinitely, reshuffled in each pass. Default True.
      seed: seed of the order and of the augmentation. Default 0.
      first_image: number of images at the start of the stream to skip without reading, for a
        resumed training. Default 0.
      plain_from: number of the first image in the stream, counted from 0, that is augmented without
        mosaic, MixUp, copy-paste and policy; None for no such image. Default None.
      worker: share of the stream to return, in batches of one device, as passed by
        `Strategy.distribute_datasets_from_function`; None for all of it. The devices' batches
        of a step together equal the batch of a single device. Default None.
      failures: record of the skipped images, one for each data set; with None, TensorFlow
        warns of them. Default None.
      deliveries: record of the batches; None to record nothing. Default None.

    Returns:
      Batches of (images float32 [B, H, W, 3], RGB 0..255, padded with the mean;
      targets). The targets are the results of `targets.assign` as a dict: "class_targets",
      int32 [B, N], "box_targets", float32 [B, N, 4], and "num_positives", float32 [B].
      All shapes are static.

    Raises:
      DataError: if the batch size is below 1, if the data set is not repeated and smaller
        than one batch, and if it cannot be read as `data.shuffle_buffer` asks for.
    """
    _check_batch_size(batch_size)
    if not repeat and len(data) < batch_size:
        raise DataError(f"{data.source}: {len(data)} images are fewer than a batch of {batch_size}")

    table = _training_table(data, config)

    def element(example: Example, position: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        assigned = _targets(example, config, table.has_ignored)
        if data.unlabeled is not None:
            assigned = _without_loss(assigned, position >= len(data))
        return example.image, assigned

    reading = Reading.of(config, batch_size, failures)
    share = Share(seed, first_image)
    if worker is not None:
        batch_size = worker.get_per_replica_batch_size(batch_size)
        workers, index = worker.num_input_pipelines, worker.input_pipeline_id
        share = dataclasses.replace(share, workers=workers, worker=index)
    if config.data.service and repeat:
        served = ServedOrder(data, share)
        stream = _served_stream(data, table, config, element, served, reading, plain_from)
    else:
        order = stream_order.build(data, config, share, repeat)
        stream = _training_stream(data, table, config, element, order, reading, plain_from)
    return _batches(stream, batch_size, deliveries)


@tf.autograph.experimental.do_not_convert
def training_examples(
    data: DetectionData, config: Config, *, repeat: bool = True, seed: int = 0
) -> tf.data.Dataset:
    """Build the stream of augmented examples that `training_dataset` batches.

    Args:
      data: the data set.
      config: config of the model's input and augmentation.
      repeat: whether to repeat indefinitely, reshuffled in each pass. Default True.
      seed: seed of the order and of the augmentation. Default 0.

    Returns:
      Examples: an image float32 [H, W, 3], RGB 0..255, padded with the mean, its
      boxes float32 [n, 4] in network pixels and their classes int32 [n], the input of
      `targets.assign`: negative for ignored boxes.
    """
    reading = Reading.of(config, 1, None)
    table = _training_table(data, config)
    order = stream_order.build(data, config, Share(seed), repeat)
    return _training_stream(data, table, config, lambda example, _: example, order, reading)


@tf.autograph.experimental.do_not_convert
def evaluation_dataset(
    data: DetectionData,
    config: Config,
    batch_size: int,
    worker: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Build full batches of every image once, in order, without augmentation.

    The last batches are padded, so that all shapes are static and all devices get equally many
    batches. An image that has become unreadable is skipped with a warning, unless
    `config.data.strict`.

    Args:
      data: the data set.
      config: config of the model's input.
      batch_size: batch size of one device, in images.
      worker: share of the images to return, as passed by
        `Strategy.distribute_datasets_from_function`; None for all of them. Default None.

    Returns:
      Batches of (images float32 [B, H, W, 3], RGB 0..255, padded with the mean;
      a dict of "position" int32 [B], index in `data.records`, -1 for padding, "scale_to_original"
      float32 [B, 2], original pixels per network pixel, vertically and horizontally, and "size"
      int32 [B, 2], the original height and width).

    Raises:
      DataError: if the batch size is below 1.
    """
    _check_batch_size(batch_size)
    table = RecordTable.build(data, ignore_crowd=False)
    model = config.model

    def element(position: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        pixels = table.read(position)
        image, scale = preprocessing.resize(
            pixels, model.image_size, model.resize, model.pixel_mean
        )
        about = {"position": tf.cast(position, tf.int32), "scale_to_original": scale}
        return image, about | {"size": tf.shape(pixels)[:2]}

    padding = (
        tf.zeros([*model.image_size, 3]),
        {
            "position": tf.constant(-1),
            "scale_to_original": tf.ones([2]),
            "size": tf.constant(model.image_size, tf.int32),
        },
    )
    workers, index = (worker.num_input_pipelines, worker.input_pipeline_id) if worker else (1, 0)
    devices = worker.num_replicas_in_sync if worker else 1
    # Over all devices, so that each gets the same number of batches.
    rounds = -(-len(data) // (batch_size * devices))
    stream = parallel_map(tf.data.Dataset.range(len(data)).shard(workers, index), element)
    if not config.data.strict:
        # The evaluation detects which are missing.
        stream = stream.ignore_errors(log_warning=False)
    stream = stream.concatenate(tf.data.Dataset.from_tensors(padding).repeat())
    stream = stream.take(rounds * batch_size * devices // workers)
    return _batches(stream, batch_size)


def _training_table(data: DetectionData, config: Config) -> RecordTable:
    """Build the table of the training images, decoded smaller where the config says so."""
    needed_size = None
    if config.data.reduce_jpeg:
        # Scaled up by the largest factor of the scale jitter, an image must not be enlarged.
        height, width = config.model.image_size
        factor = config.augmentation.scale_max
        needed_size = factor * height, factor * width
    return RecordTable.build(data, config.data.ignore_crowd, needed_size)


def _training_stream(
    data: DetectionData,
    table: RecordTable,
    config: Config,
    finish: Callable[[Example, tf.Tensor], Any],
    order: Order | ShardOrder,
    reading: Reading,
    plain_from: int | None = None,
) -> tf.data.Dataset:
    """Build the stream of shuffled, augmented examples.

    `finish` runs in the same map, with an example and its position.
    """

    def cached(positions: range) -> tf.data.Dataset:
        numbered = tf.data.Dataset.range(positions.start, positions.stop)
        numbered = numbered.map(lambda position: (position, position))
        images = reading.read(table, numbered, positions.start, 1, end=positions.stop)
        return images.map(lambda _, position, pixels: (position, pixels)).cache()

    if config.data.cache:
        assert isinstance(order, Order)  # Settings refuse to cache what is read in sequence.
        # Cached before the shuffle, which then moves references instead of pixels.
        stream = order.of(cached)
        stream = stream.map(lambda number, position_and_pixels: (number, *position_and_pixels))
        if order.repeat:
            # An infinite repeat ends only if no image is cached.
            stream = stream.concatenate(reading.no_image_left(stream.element_spec))
    else:
        first, stride = order.share.first_number, order.share.workers
        stream = reading.read(table, order.images(), first, stride)

    augmented = _augmentation(data, table, config, order.share.seed, reading, plain_from)
    return parallel_map(stream, lambda *image: finish(augmented(*image), image[1]))


def _served_stream(
    data: DetectionData,
    table: RecordTable,
    config: Config,
    finish: Callable[[Example, tf.Tensor], Any],
    order: ServedOrder,
    reading: Reading,
    plain_from: int | None,
) -> tf.data.Dataset:
    """Build the stream of examples that the workers of a tf.data service read and augment."""
    # Python cannot be called there: what they cannot read is recorded when it arrives.
    elsewhere = Reading(strict=False, most_in_a_row=0, failures=None)
    augmented = _augmentation(data, table, config, order.share.seed, elsewhere, plain_from)

    def prepared(number: tf.Tensor, position: tf.Tensor) -> tuple:
        pixels, is_read = table.read_or_not(position)
        return position, is_read, finish(augmented(number, position, pixels), position)

    stream = parallel_map(order.images(), prepared)
    return reading.without_unread(service.served(stream, config.data.service))


def _augmentation(
    data: DetectionData,
    table: RecordTable,
    config: Config,
    seed: int,
    reading: Reading,
    plain_from: int | None,
) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Example]:
    """Return the function from an image's number, position and pixels to its augmented example."""

    # In the graph once instead of for each of up to eight others: faster to start.
    @tf.function(autograph=False, experimental_attributes={"_noinline": True})
    def partner(position: tf.Tensor, seed: tf.Tensor, otherwise: Example) -> Example:
        return reading.partner(table, draw_partner(data, position, seed), otherwise)

    def augmented(number: tf.Tensor, position: tf.Tensor, pixels: tf.Tensor) -> Example:
        example = table.example(position, pixels)
        is_plain = None if plain_from is None else number >= plain_from
        return augment_example(
            example,
            lambda seed: partner(position, seed, example),
            config,
            tf.stack([number, seed]),
            is_plain,
        )

    return augmented


def _targets(example: Example, config: Config, has_ignored: bool) -> dict[str, tf.Tensor]:
    """Assign the targets of one image, as in `training_dataset` without the batch."""
    class_targets, box_targets, num_positives = targets.assign(
        anchors.grid_from_config(config),
        example.boxes,
        example.classes,
        config.anchors.positive_iou_threshold,
        config.anchors.ignore_iou_threshold,
        has_ignored,
    )
    return {
        "class_targets": class_targets,
        "box_targets": box_targets,
        "num_positives": num_positives,
    }


def _without_loss(assigned: dict[str, tf.Tensor], is_unlabeled: tf.Tensor) -> dict[str, tf.Tensor]:
    """Exclude all anchors of an unlabelled image, which has no positive ones, from the losses."""
    class_targets = tf.where(is_unlabeled, targets.IGNORED, assigned["class_targets"])
    return assigned | {"class_targets": class_targets}


def _batches(
    dataset: tf.data.Dataset, batch_size: int, deliveries: Deliveries | None = None
) -> tf.data.Dataset:
    options = tf.data.Options()
    # Sharded by image: tf.data does not see the image files.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    dataset = dataset.batch(batch_size, drop_remainder=True)
    if deliveries is not None:
        dataset = dataset.map(deliveries.recorded)
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)


def _check_batch_size(batch_size: int) -> None:
    """Raise `DataError` if the batch size is below 1."""
    if batch_size < 1:
        raise DataError(f"batch_size: {batch_size} is below 1; use a whole number from 1 on")
