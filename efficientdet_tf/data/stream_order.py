"""The order in which a training reads its records: it follows from the seed alone."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

import tensorflow as tf

from efficientdet_tf.data.records import DetectionData


class Order(NamedTuple):
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
    order = Order(True, seed, first_image)
    images = tf.data.Dataset.from_tensor_slices(tf.constant(there, tf.int64))
    for block in order.of(images, len(data)).batch(1024):
        yield from block[1].numpy().tolist()
