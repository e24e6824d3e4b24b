"""Batches as an input pipeline hands them over: when each was ready, and the first images."""

import collections
import time
from typing import Any

import numpy as np
import tensorflow as tf


class Deliveries:
    """Record of the batches of a stream; updated during iteration.

    Args:
      most_images: number of images at the start of the stream to keep, with their targets.

    Attributes:
      times: time, in seconds of `time.monotonic`, at which each batch became ready; in order, and
        recorded before the batch is returned.
    """

    def __init__(self, most_images: int) -> None:
        self.times: collections.deque[float] = collections.deque()
        self._most_images = most_images
        self._kept: list[list[np.ndarray]] = []
        self._structure: Any = None

    def first_images(self, count: int) -> Any:
        """Return at most `count` of the kept images as one batch of NumPy arrays.

        None before the first batch.
        """
        if not self._kept:
            return None
        count = min(count, self._most_images)
        joined = [np.concatenate(parts)[:count] for parts in zip(*self._kept)]
        return tf.nest.pack_sequence_as(self._structure, joined)

    def recorded(self, *batch: Any) -> Any:
        """Return a batch, in a graph, that is recorded once it is ready."""
        tensors = tf.nest.flatten(batch)
        self._structure = tf.nest.map_structure(lambda _: None, batch)
        with tf.control_dependencies(tensors):
            is_wanted = tf.numpy_function(self._record, [], tf.bool)
        is_wanted.set_shape([])
        done = tf.cond(
            is_wanted,
            lambda: tf.numpy_function(self._keep, tensors, tf.bool),
            lambda: tf.constant(False),
        )
        with tf.control_dependencies([done]):
            return tf.nest.map_structure(tf.identity, batch)

    def _record(self) -> bool:
        """Record the time; return whether the images are still wanted."""
        self.times.append(time.monotonic())
        return sum(len(images) for images, *_ in self._kept) < self._most_images

    def _keep(self, *arrays: np.ndarray) -> bool:
        # Copies: TensorFlow may use the memory for another batch.
        self._kept.append([array[: self._most_images].copy() for array in arrays])
        return True
