"""Order in which training reads its records, determined by the seed alone."""

import dataclasses
from collections.abc import Callable, Collection, Iterator

import tensorflow as tf

from efficientdet_tf.config import Config
from efficientdet_tf.data.records import DataError, DetectionData
from efficientdet_tf.data.service import check_address
from efficientdet_tf.data.shard_order import Chunks, ShardOrder


@dataclasses.dataclass(frozen=True)
class Order:
    """Order of the images in a training stream, shuffled as a whole.

    Attributes:
      data: training set; unlabelled images are evenly spread among the others, at their share.
      repeat: whether to repeat indefinitely, reshuffled in each pass.
      seed: seed of the shuffles.
      first: number of images to skip at the start. Default 0.
      workers: number of workers that share the stream. Default 1.
      worker: index of this worker: it gets every `workers`-th image. Default 0.
    """

    data: DetectionData
    repeat: bool
    seed: int
    first: int = 0
    workers: int = 1
    worker: int = 0

    def images(self) -> tf.data.Dataset:
        """Return the stream as (number in it, position among `record_columns.training_records`)."""
        return self.of(lambda positions: tf.data.Dataset.range(positions.start, positions.stop))

    def positions(self, missing: Collection[int] = ()) -> Iterator[tuple[int, int]]:
        """Iterate over (number in the stream, position), as `images`.

        Args:
          missing: positions that are not in the cache of decoded images. Other unreadable
            records are in the order, and skipped by the stream. Default none.
        """

        def present(positions: range) -> tf.data.Dataset:
            kept = [position for position in positions if position not in missing]
            return tf.data.Dataset.from_tensor_slices(tf.constant(kept, tf.int64))

        for numbers, positions in self.of(present).batch(1024):
            yield from zip(numbers.numpy().tolist(), positions.numpy().tolist(), strict=True)

    def of(self, images: Callable[[range], tf.data.Dataset]) -> tf.data.Dataset:
        """Order images as pairs (number in the whole stream, image).

        Args:
          images: function from a range of positions among `record_columns.training_records` to
            the data set of these images; each pass over it is shuffled.
        """
        count = len(self.data)
        stream = self._shuffled(images(range(count)), count, self.seed)
        stream = stream.repeat() if self.repeat else stream
        if self.data.unlabeled is not None:
            end = count + len(self.data.unlabeled.records)
            others = self._shuffled(images(range(count, end)), end - count, self.seed + 1)
            choice = tf.data.Dataset.counter().map(self._is_unlabeled)
            stream = tf.data.Dataset.choose_from_datasets([stream, others.repeat()], choice)
        return stream.enumerate().skip(self.first).shard(self.workers, self.worker)

    @staticmethod
    def _shuffled(images: tf.data.Dataset, size: int, seed: int) -> tf.data.Dataset:
        return images.shuffle(size, seed=seed, reshuffle_each_iteration=True)

    def _is_unlabeled(self, number: tf.Tensor) -> tf.Tensor:
        """Return 1 if an image of the stream is an unlabelled one, else 0: int64 scalar."""
        assert self.data.unlabeled is not None
        before, after = (
            tf.floor(tf.cast(n, tf.float64) * self.data.unlabeled.share)
            for n in (number, number + 1)
        )
        return tf.cast(after - before, tf.int64)


def build(
    data: DetectionData,
    config: Config,
    repeat: bool,
    seed: int,
    first: int = 0,
    workers: int = 1,
    worker: int = 0,
) -> Order | ShardOrder:
    """Return the order that a config asks for, see `Order` for the arguments.

    Raises:
      DataError: if it asks for reading in sequence what is not of TFRecord files, and for more
        workers than there are runs of records.
    """
    if not config.data.shuffle_buffer:
        return Order(data, repeat, seed, first, workers, worker)
    chunks = Chunks.build(data, workers, worker)
    buffer = config.data.shuffle_buffer
    return ShardOrder(chunks, buffer, repeat, seed, first, workers, worker)


def check(data: DetectionData, config: Config) -> None:
    """Raise `DataError` if a data set cannot be read in the way that a config asks for."""
    if config.data.service:
        if config.training.deterministic:
            raise DataError(
                "data.service: images come in the order in which its workers finish; set "
                "training.deterministic=false"
            )
        check_address(config.data.service, "data.service")
    if config.data.shuffle_buffer:
        Chunks.build(data)
