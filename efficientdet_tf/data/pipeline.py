"""From records in memory to batches on the device, as compiled tf.data graphs.

Pixels are read, decoded and augmented in parallel threads, and only when they
are needed. What is random follows from the seed and from the position in the
stream, not from the threads, so equal seeds give equal batches.
"""

import dataclasses
import os
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from efficientdet_tf import anchors, targets
from efficientdet_tf.config import Config
from efficientdet_tf.data import augmentation, mixing, preprocessing
from efficientdet_tf.data.decoding import decode_image
from efficientdet_tf.data.mixing import Example
from efficientdet_tf.data.records import DataError, DetectionData, Record

# So many images in a row that cannot be read end a stream, and at least four batches.
_MOST_FAILURES = 64
# What is drawn besides flip and scale, each from a seed of its own: switching
# one on leaves the others as they are.
_POLICY, _COLOR, _GRID_MASK, _BLUR, _SHARPNESS = range(5)


@dataclasses.dataclass
class ReadFailures:
    """Record of the images that a training stream could not read, written as it goes.

    Attributes:
      gaps: numbers in the stream, counted from 0 over all workers, of the first image that was
        skipped and of the next one that was not; in order, and noticed before the batch that
        comes after is given.
      positions: indices of `data.records`, of other images: those not cached, and partners in
        a mosaic or a mix.
      has_ended: whether the stream has ended, as too many in a row could not be read.
    """

    gaps: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    positions: list[int] = dataclasses.field(default_factory=list)
    has_ended: bool = False


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
    check_batch_size(batch_size)
    if not repeat and len(data) < batch_size:
        raise DataError(f"{data.source}: {len(data)} images are fewer than a batch of {batch_size}")

    def element(example: Example):
        return example.image, _targets(example, config)

    order = _Order(repeat, seed, first_image)
    reading = _Reading.of(config, batch_size, failures)
    if worker is not None:
        batch_size = worker.get_per_replica_batch_size(batch_size)
        order = order._replace(workers=worker.num_input_pipelines, worker=worker.input_pipeline_id)
    stream = _training_stream(data, config, element, order, reading)
    return _batches(stream, batch_size, drop_remainder=True)


def training_positions(
    data: DetectionData, *, seed: int, first_image: int, missing: Collection[int] = ()
) -> Iterator[int]:
    """Iterate over the order in which `training_dataset` with this seed reads the records.

    Args:
      data: the records.
      seed: of the training.
      first_image: images of the stream before the first.
      missing: indices of `data.records` that a cache lacks. Others that cannot be read are
        in the order, and skipped by the stream.

    Returns:
      Indices of `data.records`, without end.
    """
    there = [position for position in range(len(data)) if position not in missing]
    order = _Order(True, seed, first_image)
    images = tf.data.Dataset.from_tensor_slices(tf.constant(there, tf.int64))
    for block in order.of(images, len(data)).batch(1024):
        yield from block[1].numpy().tolist()


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

    def blank(height, width) -> Example:
        return Example(tf.zeros([height, width, 3]), tf.zeros([0, 4]), tf.zeros([0], tf.int32))

    def another(seed: tf.Tensor) -> Example:
        drawn.append(int(_partner(seed, len(data))))
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
    reading = _Reading.of(config, 1, None)
    return _training_stream(data, config, lambda example: example, _Order(repeat, seed), reading)


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
    check_batch_size(batch_size)
    table = _table(data, ignore_crowd=False)
    size = config.model.image_size

    def element(position):
        pixels = _read(table, position)
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
    stream = _parallel_map(tf.data.Dataset.range(len(data)).shard(workers, index), element)
    if not config.data.strict:
        # The evaluation notices which are missing.
        stream = stream.ignore_errors(log_warning=False)
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
    if settings.blur or settings.sharpness:
        # Late, as above.
        from efficientdet_tf.data import filters
    if settings.blur:
        image = filters.random_blur(image, settings.blur, tf.random.fold_in(seed, _BLUR))
    if settings.sharpness:
        sharpness_seed = tf.random.fold_in(seed, _SHARPNESS)
        image = filters.random_sharpness(image, settings.sharpness, sharpness_seed)
    return preprocessing.pad(image, size, config.model.pixel_mean), boxes, kept


class _Order(NamedTuple):
    """Which images come when.

    Attributes:
      repeat: without end, reshuffled in each pass.
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
    data: DetectionData,
    config: Config,
    finish: Callable[[Example], Any],
    order: _Order,
    reading: "_Reading",
) -> tf.data.Dataset:
    """`finish` of the shuffled and augmented examples, in one step with augmenting them."""
    table = _table(data, config.data.ignore_crowd)
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

    def augmented(count, position, pixels):
        example = Example(pixels, *_objects(table, position))

        def another(seed: tf.Tensor) -> Example:
            return reading.partner(table, _partner(seed, len(data)), example)

        return finish(_augmented(example, another, config, tf.stack([count, order.seed])))

    return _parallel_map(stream, augmented)


def _partner(seed: tf.Tensor, count: int) -> tf.Tensor:
    """Which record joins another: int64 scalar below `count`."""
    return tf.random.stateless_uniform([], seed, 0, count, tf.int64)


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


class _Reading:
    """How images are read, and what happens with those that cannot be.

    Args:
      strict: every failure ends the stream.
      most_in_a_row: so many failures in a row, about, end it in any case.
      failures: where they are recorded, if anywhere.
    """

    def __init__(self, strict: bool, most_in_a_row: int, failures: ReadFailures | None):
        self._strict = strict
        # Those at work at the same time count until they are done.
        self._most = most_in_a_row + 4 * (os.cpu_count() or 1)
        self._failures = failures
        with tf.device("/CPU:0"):
            self._in_a_row = tf.Variable(0, trainable=False, dtype=tf.int64)

    @classmethod
    def of(cls, config: Config, batch_size: int, failures: ReadFailures | None) -> "_Reading":
        """As a config has it, for global batches of a size."""
        return cls(config.data.strict, max(_MOST_FAILURES, 4 * batch_size), failures)

    def read(
        self,
        table: _Table,
        stream: tf.data.Dataset,
        first: int,
        stride: int,
        end: int | None = None,
    ) -> tf.data.Dataset:
        """(number, position, pixels) of a stream of (number, position), without what fails.

        Args:
          table: of the images.
          stream: numbers count from `first` by `stride`.
          end: the number after the last, of a stream that has one, to notice failures at its end.
        """
        if self._strict:
            return _parallel_map(stream, lambda n, position: (n, position, _read(table, position)))
        stream = _parallel_map(stream, lambda *element: (*element, *self._tried(table, element[1])))
        stream = stream.ignore_errors(log_warning=self._failures is None)
        if end is not None:
            last = (tf.constant(end, tf.int64), tf.constant(0, tf.int64))
            last = (*last, tf.zeros([1, 1, 3], tf.uint8), True)
            stream = stream.concatenate(tf.data.Dataset.from_tensors(last))

        def noticed(expected, element):
            number, position, pixels, was_tried = element
            is_noteworthy = (number != expected) | ~was_tried
            done = tf.cond(
                is_noteworthy,
                lambda: self._notice_gap(expected, number, was_tried),
                lambda: tf.constant(False),
            )
            with tf.control_dependencies([done]):
                return number + stride, (number, position, pixels)

        stream = stream.scan(tf.constant(first, tf.int64), noticed)
        return stream if end is None else stream.filter(lambda number, *_: number < end)

    def partner(self, table: _Table, position: tf.Tensor, otherwise: Example) -> Example:
        """The example at a position; another one where it cannot be read."""
        if self._strict:
            return Example(_read(table, position), *_objects(table, position))
        pixels, is_read = _read_or_not(table, position)

        def failed():
            with tf.control_dependencies([self._notice_position(position)]):
                return Example(*map(tf.identity, otherwise))

        return tf.cond(is_read, lambda: Example(pixels, *_objects(table, position)), failed)

    def no_image_left(self, element_spec) -> tf.data.Dataset:
        """A data set whose first element is an error."""

        def element(_):
            zero = tf.constant(0, tf.int64)
            with tf.control_dependencies([self._notice_gap(zero, zero, tf.constant(False))]):
                return tf.nest.map_structure(
                    lambda spec: tf.zeros([size or 1 for size in spec.shape], spec.dtype),
                    element_spec,
                )

        return tf.data.Dataset.range(1).map(element)

    def _tried(self, table: _Table, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Pixels and True; after too many failures in a row, False without another trial."""
        count = self._in_a_row.assign_add(1)

        def read():
            pixels = _read(table, position)
            with tf.control_dependencies([pixels]), tf.control_dependencies([self._reset()]):
                return tf.identity(pixels), True

        return tf.cond(count <= self._most, read, lambda: (tf.zeros([1, 1, 3], tf.uint8), False))

    def _reset(self) -> tf.Operation:
        return self._in_a_row.assign(0, read_value=False)

    def _notice_gap(self, first, end, goes_on) -> tf.Tensor:
        def notice(first, end, goes_on):
            # What is read ahead comes here again after the end.
            if end > first and not self._failures.has_ended:
                self._failures.gaps.append((int(first), int(end)))
            self._failures.has_ended |= not goes_on
            return False

        noticed = tf.constant(False)
        if self._failures is not None:
            noticed = tf.numpy_function(notice, [first, end, goes_on], tf.bool)
        with tf.control_dependencies([noticed]):
            text = "too many images in a row cannot be read"
            with tf.control_dependencies([tf.debugging.Assert(goes_on, [text])]):
                return tf.constant(False)

    def _notice_position(self, position: tf.Tensor) -> tf.Tensor:
        def notice(position):
            self._failures.positions.append(int(position))
            return False

        if self._failures is None:
            return tf.constant(False)
        return tf.numpy_function(notice, [position], tf.bool)


def _read_or_not(table: _Table, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Pixels uint8 [h, w, 3] and True, or an empty image and False.

    A data set within the function is the one way to catch an error in a graph. It takes about
    half a millisecond.
    """
    image = tf.data.Dataset.from_tensors(position).map(lambda p: (_read(table, p), True))
    none = tf.data.Dataset.from_tensors((tf.zeros([1, 1, 3], tf.uint8), False))
    image = image.ignore_errors(log_warning=False).concatenate(none)
    return image.take(1).get_single_element()


def check_batch_size(batch_size: int) -> None:
    """Raise `DataError` for a batch without images."""
    if batch_size < 1:
        raise DataError(f"batch_size: {batch_size} is below 1; use a whole number from 1 on")
