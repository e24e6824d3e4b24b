"""Share of a training stream that a worker reads, and what all orders of a stream need."""

import dataclasses
from collections.abc import Iterator

import tensorflow as tf

from efficientdet_tf.data.records import UnlabeledImages


@dataclasses.dataclass(frozen=True)
class Share:
    """Share of a training stream that a worker of the training reads.

    Attributes:
      seed: seed of the shuffles.
      first: number of images of the whole stream to skip at the start. Default 0.
      workers: number of workers that share the stream. Default 1.
      worker: index of this worker: it has every `workers`-th number of the stream. Default 0.
    """

    seed: int
    first: int = 0
    workers: int = 1
    worker: int = 0

    @property
    def first_number(self) -> int:
        """Number in the whole stream of this worker's first image."""
        return self.first + self.worker


def pairs(stream: tf.data.Dataset) -> Iterator[tuple[int, int]]:
    """Iterate over a stream of (number, position)."""
    for numbers, positions in stream.batch(1024):
        yield from zip(numbers.numpy().tolist(), positions.numpy().tolist(), strict=True)


def shuffled(index: tf.Tensor, count: int, seed: int, epoch: tf.Tensor | int) -> tf.Tensor:
    """Return what an index below `count`, or several, becomes in the shuffle of an epoch: int64."""
    seeds = tf.stack([tf.constant(seed, tf.int64), epoch])
    return tf.random.experimental.index_shuffle(index, seeds, count - 1)


def unlabeled_before(number: tf.Tensor, unlabeled: UnlabeledImages) -> tf.Tensor:
    """Count the unlabelled images of a stream before a number: int64, evenly spread."""
    return tf.cast(tf.floor(tf.cast(number, tf.float64) * unlabeled.share), tf.int64)
