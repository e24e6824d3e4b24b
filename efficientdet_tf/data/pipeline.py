"""From records in memory to batches on the device, as compiled tf.data graphs.

Pixels are read, decoded and augmented in parallel threads, and only when they
are needed. What is random follows from the seed and from the position in the
stream, not from the threads, so equal seeds give equal batches.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from efficientdet_tf import anchors, targets
from efficientdet_tf.config import Config
from efficientdet_tf.data import preprocessing
from efficientdet_tf.data.augmenting import augment_example, draw_partner
from efficientdet_tf.data.mixing import Example
from efficientdet_tf.data.reading import ReadFailures, Reading, parallel_map
from efficientdet_tf.data.record_table import RecordTable
from efficientdet_tf.data.records import DataError, DetectionData
from efficientdet_tf.data.stream_order import Order


@tf.autograph.experimental.do_not_convert
def training_dataset(
    data: DetectionData,
    config: Config,
    batch_size: int,
    *,
    repeat: bool = True,
    seed: int = 0,
    first_image: int = 0,
    worker: tf.distribute.InputContext | None = None,
    failures: ReadFailures | None = None,
) -> tf.data.Dataset:
    """Shuffled, augmented batches with their targets.

    Crowd regions are no objects here: they are background, or left out of the class
    loss with `config.data.ignore_crowd`, as ignored objects always are. An image that
    cannot be read any more is skipped, unless `config.data.strict`; in a mosaic or a mix
    another takes its place. Where none can be read, iterating raises
    `tf.errors.InvalidArgumentError` after a while.

    Args:
      data: the records.
      config: the model's input, anchors and augmentation.
      batch_size: images in a batch, over all workers; the last, smaller one is dropped.
      repeat: without end, reshuffled in each pass.
      seed: of the order and of the augmentation.
      first_image: images of the stream that are passed over without being read: those that a
        training has seen before it was stopped.
      worker: which share of the stream to give, in batches of one device, as
        `Strategy.distribute_datasets_from_function` passes it; all of it when None. The
        devices' batches of a step are together the batch that one device would have.
      failures: where to record the images that are skipped; one for each data set. TensorFlow
        warns of them when None.

    Returns:
      Batches of (images float32 [B, H, W, 3], RGB 0..255, padded with the mean;
      targets). The targets are a dict of what `targets.assign` gives: "class_targets",
      int32 [B, N], "box_targets", float32 [B, N, 4], and "num_positives", float32 [B].
      All shapes are static.

    Raises:
      DataError: for a batch size below 1; for a data set smaller than one batch that is not
        repeated.
    """
    _check_batch_size(batch_size)
    if not repeat and len(data) < batch_size:
        raise DataError(f"{data.source}: {len(data)} images are fewer than a batch of {batch_size}")

    def element(example: Example) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        return example.image, _targets(example, config)

    order = Order(repeat, seed, first_image)
    reading = Reading.of(config, batch_size, failures)
    if worker is not None:
        batch_size = worker.get_per_replica_batch_size(batch_size)
        order = order._replace(workers=worker.num_input_pipelines, worker=worker.input_pipeline_id)
    stream = _training_stream(data, config, element, order, reading)
    return _batches(stream, batch_size)


@tf.autograph.experimental.do_not_convert
def training_examples(
    data: DetectionData, config: Config, *, repeat: bool = True, seed: int = 0
) -> tf.data.Dataset:
    """What `training_dataset` makes targets and batches of, image by image.

    Args:
      data: the records.
      config: the model's input and augmentation.
      repeat: without end, reshuffled in each pass.
      seed: of the order and of the augmentation.

    Returns:
      Examples: an image float32 [H, W, 3], RGB 0..255, padded with the mean, its
      boxes float32 [n, 4] in network pixels and their classes int32 [n], as
      `targets.assign` takes them: those of ignored boxes are negative.
    """
    reading = Reading.of(config, 1, None)
    return _training_stream(data, config, lambda example: example, Order(repeat, seed), reading)


@tf.autograph.experimental.do_not_convert
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
      a dict of "position" int32 [B], index in `data.records`, -1 for padding, "scale_to_original"
      float32 [B], the original pixels in a network pixel, and "size" int32 [B, 2], the original
      height and width).

    Raises:
      DataError: for a batch size below 1.
    """
    _check_batch_size(batch_size)
    table = RecordTable.build(data, ignore_crowd=False)
    size = config.model.image_size

    def element(position: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        pixels = table.read(position)
        image, scale = preprocessing.resize_and_pad(pixels, size, config.model.pixel_mean)
        about = {"position": tf.cast(position, tf.int32), "scale_to_original": scale}
        return image, about | {"size": tf.shape(pixels)[:2]}

    padding = (
        tf.zeros([*size, 3]),
        {
            "position": tf.constant(-1),
            "scale_to_original": 1.0,
            "size": tf.constant(size, tf.int32),
        },
    )
    workers, index = (worker.num_input_pipelines, worker.input_pipeline_id) if worker else (1, 0)
    devices = worker.num_replicas_in_sync if worker else 1
    # Of all devices: then padding is the same for each.
    rounds = -(-len(data) // (batch_size * devices))
    stream = parallel_map(tf.data.Dataset.range(len(data)).shard(workers, index), element)
    if not config.data.strict:
        # The evaluation notices which are missing.
        stream = stream.ignore_errors(log_warning=False)
    stream = stream.concatenate(tf.data.Dataset.from_tensors(padding).repeat())
    stream = stream.take(rounds * batch_size * devices // workers)
    return _batches(stream, batch_size)


def _training_stream(
    data: DetectionData,
    config: Config,
    finish: Callable[[Example], Any],
    order: Order,
    reading: Reading,
) -> tf.data.Dataset:
    """`finish` of the shuffled and augmented examples, in one step with augmenting them."""
    table = RecordTable.build(data, config.data.ignore_crowd)
    images = tf.data.Dataset.range(len(data))
    if config.data.cache:
        # Cached before the shuffle, which then moves references and no pixels.
        numbered = images.map(lambda position: (position, position))
        stream = reading.read(table, numbered, 0, 1, end=len(data))
        stream = stream.map(lambda _, position, pixels: (position, pixels)).cache()
        stream = order.of(stream, len(data))
        stream = stream.map(lambda count, position_and_pixels: (count, *position_and_pixels))
        if order.repeat:
            # What is repeated for ever ends where there is nothing.
            stream = stream.concatenate(reading.no_image_left(stream.element_spec))
    else:
        first = order.first + order.worker
        stream = reading.read(table, order.of(images, len(data)), first, order.workers)

    def augmented(count: tf.Tensor, position: tf.Tensor, pixels: tf.Tensor) -> Any:
        example = Example(pixels, *table.objects(position))

        def another(seed: tf.Tensor) -> Example:
            return reading.partner(table, draw_partner(seed, len(data)), example)

        return finish(augment_example(example, another, config, tf.stack([count, order.seed])))

    return parallel_map(stream, augmented)


def _targets(example: Example, config: Config) -> dict[str, tf.Tensor]:
    """The targets of one image, as in `training_dataset` without the batch."""
    class_targets, box_targets, num_positives = targets.assign(
        anchors.from_config(config),
        example.boxes,
        example.classes,
        config.anchors.positive_iou_threshold,
    )
    return {
        "class_targets": class_targets,
        "box_targets": box_targets,
        "num_positives": num_positives,
    }


def _batches(dataset: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    options = tf.data.Options()
    # Workers share the images out among them: the images are no files to tf.data.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    dataset = dataset.batch(batch_size, drop_remainder=True)
    return dataset.prefetch(tf.data.AUTOTUNE).with_options(options)


def _check_batch_size(batch_size: int) -> None:
    """Raise `DataError` for a batch without images."""
    if batch_size < 1:
        raise DataError(f"batch_size: {batch_size} is below 1; use a whole number from 1 on")
