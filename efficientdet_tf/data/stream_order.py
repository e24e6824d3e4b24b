"""Order in which training reads its records, determined by the seed alone."""

import dataclasses
from collections.abc import Callable, Collection, Iterator

import tensorflow as tf

from efficientdet_tf.data.records import DetectionData


@dataclasses.dataclass(frozen=True)
class Order:
    """Order of the images in a training stream.

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


def training_positions(
    data: DetectionData, *, seed: int, first_image: int, missing: Collection[int] = ()
) -> Iterator[int]:
    """Iterate over the positions of the records as `training_dataset` reads them.

    Args:
      data: the data set.
      seed: seed of the training stream.
      first_image: number of images to skip at the start of the stream.
      missing: positions that are not in the cache. Other unreadable
        records are in the order, and skipped by the stream. Default none.

    Returns:
      An infinite iterator over indices of `record_columns.training_records`.
    """

    def present(positions: range) -> tf.data.Dataset:
        kept = [position for position in positions if position not in missing]
        return tf.data.Dataset.from_tensor_slices(tf.constant(kept, tf.int64))

    for block in Order(data, True, seed, first_image).of(present).batch(1024):
        yield from block[1].numpy().tolist()
