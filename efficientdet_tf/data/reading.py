"""Reading of a training stream's images, with handling of read failures."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from efficientdet_tf.config import Config
from efficientdet_tf.data.mixing import Example
from efficientdet_tf.data.record_table import RecordTable

# A stream ends after this many consecutive read failures, and at least four batches.
_MOST_FAILURES = 64


@dataclasses.dataclass
class ReadFailures:
    """Images that a training stream could not read; updated during iteration.

    Attributes:
      gaps: pairs of numbers in the stream, counted from 0 over all workers: of the first
        skipped image and of the next image read; in order, and recorded before the batch
        after the gap is returned.
      positions: indices of `data.records` of other unreadable images: those not cached,
        partners in a mosaic, MixUp or copy-paste, and all of a tf.data service.
      has_ended: whether the stream has ended after too many consecutive failures.
    """

    gaps: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    positions: list[int] = dataclasses.field(default_factory=list)
    has_ended: bool = False

    def record_gap(self, first: np.int64, end: np.int64, continues: bool) -> bool:
        """Record a gap, if any, and the end of the stream; return False, for the graph."""
        # Prefetched elements arrive here again after the end.
        if end > first and not self.has_ended:
            self.gaps.append((int(first), int(end)))
        self.has_ended |= not continues
        return False

    def record_served(self, position: np.int64, continues: bool) -> bool:
        """Record an image that another process could not read; return False, for the graph."""
        if not self.has_ended:
            self.positions.append(int(position))
        self.has_ended |= not continues
        return False

    def record_position(self, position: np.int64) -> bool:
        """Record another unreadable image; return False, for the graph."""
        self.positions.append(int(position))
        return False


class Reading:
    """Reader of images that skips and records read failures.

    Args:
      strict: whether any failure ends the stream.
      most_in_a_row: approximate number of consecutive failures that ends the stream.
      failures: record of the failures; None to record nothing.
    """

    def __init__(self, strict: bool, most_in_a_row: int, failures: ReadFailures | None) -> None:
        self._strict = strict
        # Concurrent reads count as failures until they finish.
        self._most = most_in_a_row + 4 * (os.cpu_count() or 1)
        self._failures = failures
        with tf.device("/CPU:0"):
            self._in_a_row = tf.Variable(0, trainable=False, dtype=tf.int64)

    @classmethod
    def of(cls, config: Config, batch_size: int, failures: ReadFailures | None) -> "Reading":
        """Build from a config, for a global batch size."""
        return cls(config.data.strict, max(_MOST_FAILURES, 4 * batch_size), failures)

    def read(
        self,
        table: RecordTable,
        stream: tf.data.Dataset,
        first: int,
        stride: int,
        end: int | None = None,
    ) -> tf.data.Dataset:
        """Map a stream of (number, position) to (number, position, pixels), without failures.

        Args:
          table: table of the records.
          stream: the stream of int64 pairs, with or without the encoded images as third elements,
            see `RecordTable.read`.
          first: number of the first element.
          stride: difference between consecutive numbers.
          end: number after the last element of a finite stream, to detect failures at its
            end; None for an infinite one. Default None.
        """
        if self._strict:
            return parallel_map(stream, lambda n, *image: (n, image[0], table.read(*image)))
        stream = parallel_map(
            stream, lambda n, *image: (n, image[0], *self._tried(lambda: table.read(*image)))
        )
        stream = stream.ignore_errors(log_warning=self._failures is None)
        if end is not None:
            number, position = tf.constant(end, tf.int64), tf.constant(0, tf.int64)
            last = tf.data.Dataset.from_tensors(
                (number, position, tf.zeros([1, 1, 3], tf.uint8), True)
            )
            stream = stream.concatenate(last)

        def noticed(expected: tf.Tensor, element: tuple[tf.Tensor, ...]) -> tuple:
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

    def without_unread(self, stream: tf.data.Dataset) -> tf.data.Dataset:
        """Leave out and record the elements (position, was it read, result) that were not read.

        Of a stream that other processes compute.

        Returns:
          The results.
        """

        def noticed(in_a_row: tf.Tensor, element: tuple) -> tuple:
            position, is_read, result = element
            in_a_row = tf.where(is_read, 0, in_a_row + 1)
            continues = in_a_row <= (0 if self._strict else self._most)
            done = tf.cond(
                is_read, lambda: tf.constant(False), lambda: self._notice_end(position, continues)
            )
            with tf.control_dependencies([done]):
                return in_a_row, (tf.identity(is_read), result)

        stream = stream.scan(tf.constant(0), noticed)
        stream = stream.filter(lambda is_read, _: is_read)
        return stream.map(lambda _, result: result)

    def partner(self, table: RecordTable, position: tf.Tensor, otherwise: Example) -> Example:
        """Read the example at a position; return `otherwise` if it cannot be read."""
        if self._strict:
            return table.example(position, table.read(position))
        pixels, is_read = table.read_or_not(position)

        def failed() -> Example:
            with tf.control_dependencies([self._notice_position(position)]):
                return Example(*map(tf.identity, otherwise))

        return tf.cond(is_read, lambda: table.example(position, pixels), failed)

    def no_image_left(self, element_spec: Any) -> tf.data.Dataset:
        """Build a data set whose first element raises an error."""

        def element(_: tf.Tensor) -> Any:
            zero = tf.constant(0, tf.int64)
            with tf.control_dependencies([self._notice_gap(zero, zero, tf.constant(False))]):
                return tf.nest.map_structure(
                    lambda spec: tf.zeros([size or 1 for size in spec.shape], spec.dtype),
                    element_spec,
                )

        return tf.data.Dataset.range(1).map(element)

    def _tried(self, read_pixels: Callable[[], tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        """Read (pixels, True); after too many consecutive failures (blank, False), unread."""
        count = self._in_a_row.assign_add(1)

        def read() -> tuple[tf.Tensor, bool]:
            pixels = read_pixels()
            # Zero, and computed from the pixels: a control dependency on a function that is
            # called, as the decoding is, does not wait for its result once it is inlined.
            zero = tf.minimum(tf.size(pixels, out_type=tf.int64), 0)
            with tf.control_dependencies([self._in_a_row.assign(zero, read_value=False)]):
                return tf.identity(pixels), True

        return tf.cond(count <= self._most, read, lambda: (tf.zeros([1, 1, 3], tf.uint8), False))

    def _notice_gap(self, first: tf.Tensor, end: tf.Tensor, continues: tf.Tensor) -> tf.Tensor:
        noticed = tf.constant(False)
        if self._failures is not None:
            arguments = [first, end, continues]
            noticed = tf.numpy_function(self._failures.record_gap, arguments, tf.bool)
        with tf.control_dependencies([noticed]):
            return self._assert_continues(continues)

    @staticmethod
    def _assert_continues(continues: tf.Tensor) -> tf.Tensor:
        text = "too many images in a row cannot be read"
        with tf.control_dependencies([tf.debugging.Assert(continues, [text])]):
            return tf.constant(False)

    def _notice_end(self, position: tf.Tensor, continues: tf.Tensor) -> tf.Tensor:
        noticed = tf.constant(False)
        if self._failures is not None:
            arguments = [position, continues]
            noticed = tf.numpy_function(self._failures.record_served, arguments, tf.bool)
        with tf.control_dependencies([noticed]):
            return self._assert_continues(continues)

    def _notice_position(self, position: tf.Tensor) -> tf.Tensor:
        if self._failures is None:
            return tf.constant(False)
        return tf.numpy_function(self._failures.record_position, [position], tf.bool)


def parallel_map(dataset: tf.data.Dataset, function: Callable) -> tf.data.Dataset:
    """Map elements in parallel threads, in their order."""
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
