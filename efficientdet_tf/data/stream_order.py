"""Order in which training reads its records, determined by the seed alone."""

import dataclasses
from collections.abc import Callable, Collection, Iterator

import tensorflow as tf

from efficientdet_tf.config import Config
from efficientdet_tf.data import stream_share
from efficientdet_tf.data.records import DataError, DetectionData
from efficientdet_tf.data.service import check_service
from efficientdet_tf.data.shard_order import Chunks, ShardOrder
from efficientdet_tf.data.stream_share import Share


@dataclasses.dataclass(frozen=True)
class Order:
    """Order of the images in a training stream, shuffled as a whole.

    Attributes:
      data: training set; unlabelled images are evenly spread among the others, at their share.
      share: what this worker reads.
      repeat: whether to repeat indefinitely, reshuffled in each pass. Default True.
      missing: positions that are not in the cache of decoded images. Other unreadable records are
        in the order, and skipped by the stream. Default none.
    """

    data: DetectionData
    share: Share
    repeat: bool = True
    missing: Collection[int] = ()

    def images(self) -> tf.data.Dataset:
        """Return the stream as (number in it, position among `record_columns.training_records`)."""
        return self.of(lambda positions: tf.data.Dataset.range(positions.start, positions.stop))

    def positions(self) -> Iterator[tuple[int, int]]:
        """Iterate over (number in the stream, position), without those that are missing."""

        def present(positions: range) -> tf.data.Dataset:
            kept = [position for position in positions if position not in self.missing]
            return tf.data.Dataset.from_tensor_slices(tf.constant(kept, tf.int64))

        return stream_share.pairs(self.of(present))

    def of(self, images: Callable[[range], tf.data.Dataset]) -> tf.data.Dataset:
        """Order images as pairs (number in the whole stream, image).

        Args:
          images: function from a range of positions among `record_columns.training_records` to
            the data set of these images; each pass over it is shuffled.
        """
        count, share = len(self.data), self.share
        stream = self._shuffled(images(range(count)), count, share.seed)
        stream = stream.repeat() if self.repeat else stream
        if self.data.unlabeled is not None:
            end = count + len(self.data.unlabeled.records)
            others = self._shuffled(images(range(count, end)), end - count, share.seed + 1)
            choice = tf.data.Dataset.counter().map(self._is_unlabeled)
            stream = tf.data.Dataset.choose_from_datasets([stream, others.repeat()], choice)
        return stream.enumerate().skip(share.first).shard(share.workers, share.worker)

    @staticmethod
    def _shuffled(images: tf.data.Dataset, size: int, seed: int) -> tf.data.Dataset:
        return images.shuffle(size, seed=seed, reshuffle_each_iteration=True)

    def _is_unlabeled(self, number: tf.Tensor) -> tf.Tensor:
        """Return 1 if an image of the stream is an unlabelled one, else 0: int64 scalar."""
        assert self.data.unlabeled is not None
        before, after = (
            stream_share.unlabeled_before(n, self.data.unlabeled) for n in (number, number + 1)
        )
        return after - before


def build(
    data: DetectionData,
    config: Config,
    share: Share,
    repeat: bool = True,
    missing: Collection[int] = (),
) -> Order | ShardOrder:
    """Return the order that a config asks for, see `Order` for the arguments.

    Raises:
      DataError: if it asks for reading in sequence what is not of TFRecord files, and for more
        workers than there are runs of records.
    """
    if not config.data.shuffle_buffer:
        return Order(data, share, repeat, missing)
    chunks = Chunks.build(data, share.workers, share.worker)
    return ShardOrder(chunks, config.data.shuffle_buffer, share, repeat)


def check(data: DetectionData, config: Config) -> None:
    """Raise `DataError` if a data set cannot be read in the way that a config asks for."""
    if config.data.service:
        if config.training.deterministic:
            raise DataError(
                "data.service: images come in the order in which its workers finish; set "
                "training.deterministic=false"
            )
        check_service(config.data.service)
    if config.data.shuffle_buffer:
        Chunks.build(data)
