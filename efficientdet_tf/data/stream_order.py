"""Order in which training reads its records, determined by the seed alone."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

import tensorflow as tf

from efficientdet_tf.data.records import DetectionData


class Order(NamedTuple):
    """Order of the images in a training stream.

    Attributes:
      repeat: whether to repeat indefinitely, reshuffled in each pass.
      seed: seed of the shuffles.
      first: number of images to skip at the start. Default 0.
      workers: number of workers that share the stream. Default 1.
      worker: index of this worker: it gets every `workers`-th image. Default 0.
    """

    repeat: bool
    seed: int
    first: int = 0
    workers: int = 1
    worker: int = 0

    def of(self, images: tf.data.Dataset, size: int) -> tf.data.Dataset:
        """Order a data set of `size` images as pairs (number in the whole stream, image)."""
        stream = images.shuffle(size, seed=self.seed, reshuffle_each_iteration=True)
        stream = stream.repeat() if self.repeat else stream
        return stream.enumerate().skip(self.first).shard(self.workers, self.worker)


def training_positions(
    data: DetectionData, *, seed: int, first_image: int, missing: Collection[int] = ()
) -> Iterator[int]:
    """Iterate over the positions of the records as `training_dataset` reads them.

    Args:
      data: the data set.
      seed: seed of the training stream.
      first_image: number of images to skip at the start of the stream.
      missing: indices of `data.records` that are not in the cache. Other unreadable
        records are in the order, and skipped by the stream. Default none.

    Returns:
      An infinite iterator over indices of `data.records`.
    """
    present = [position for position in range(len(data)) if position not in missing]
    order = Order(True, seed, first_image)
    images = tf.data.Dataset.from_tensor_slices(tf.constant(present, tf.int64))
    for block in order.of(images, len(data)).batch(1024):
        yield from block[1].numpy().tolist()
