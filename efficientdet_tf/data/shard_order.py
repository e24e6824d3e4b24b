"""Order in which TFRecord shards are read in sequence: few large reads instead of one an image.

A chunk is a run of consecutive records, about 8 MB, read at once. Each pass over the data has the
chunks of all shards in another random order; their images are shuffled in windows of
`data.shuffle_buffer` images. A worker has every n-th chunk for itself. All of this is determined by
the seed, and any place of the stream is found without reading what is before it.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from efficientdet_tf.data import stream_share
from efficientdet_tf.data.image_sources import FileRanges
from efficientdet_tf.data.record_columns import RecordColumns
from efficientdet_tf.data.records import DataError, DetectionData
from efficientdet_tf.data.stream_share import Share
from efficientdet_tf.data.tfrecord_reading import encoded_images

_CHUNK_BYTES = 8 << 20
# Chunks are smaller where a worker had fewer than these to shuffle.
_FEWEST_CHUNKS = 16
# What may follow the last image in its record.
_END_BYTES = 4096
# Chunks that are read at the same time.
_PARALLEL_READS = 4


@dataclasses.dataclass(frozen=True)
class ShardOrder:
    """Order of the images in a training stream that reads TFRecord shards in sequence.

    Attributes:
      chunks: the chunks of this worker.
      buffer: number of images of a window.
      share: what this worker reads.
      repeat: whether to repeat indefinitely, reshuffled in each pass. Default True.
    """

    chunks: "Chunks"
    buffer: int
    share: Share
    repeat: bool = True

    def images(self) -> tf.data.Dataset:
        """Return the stream as (number in it, position in `data.records`, encoded image).

        An encoded image is empty where its chunk could not be read.
        """
        return self._numbered(self.chunks.read)

    def positions(self) -> Iterator[tuple[int, int]]:
        """Iterate over (number in the stream, position in `data.records`), without the images."""
        return stream_share.pairs(self._numbered(self.chunks.positions_of))

    def _numbered(self, read: Callable[[tf.Tensor], tuple[tf.Tensor, ...]]) -> tf.data.Dataset:
        share = self.share
        first_epoch, place = divmod(share.first // share.workers, self.chunks.num_images)
        first_window = place // self.buffer
        first_chunk, skipped = self._chunk_at(first_epoch, first_window * self.buffer)

        def images_of(epoch: tf.Tensor) -> tf.data.Dataset:
            def from_start(number: int) -> tf.Tensor:
                return tf.where(epoch == first_epoch, tf.constant(number, tf.int64), 0)

            chunks = tf.data.Dataset.range(from_start(first_chunk), len(self.chunks))
            chunks = chunks.map(lambda number: self._shuffled_chunk(epoch, number))
            read_chunks = chunks.map(read, num_parallel_calls=_PARALLEL_READS, deterministic=True)
            windows = read_chunks.unbatch().skip(from_start(skipped)).batch(self.buffer)
            windows = windows.enumerate(from_start(first_window))
            windows = windows.map(lambda number, window: self._shuffled(epoch, number, window))
            # The next window is read while one is used.
            return windows.prefetch(1).unbatch()

        end = np.iinfo(np.int64).max if self.repeat else first_epoch + 1
        stream = tf.data.Dataset.range(first_epoch, end).flat_map(images_of)
        numbers = tf.data.Dataset.counter(share.first_number, share.workers)
        stream = tf.data.Dataset.zip(numbers, stream.skip(place % self.buffer))
        return stream.map(lambda number, image: (number, *image))

    def _chunk_at(self, epoch: int, image: int) -> tuple[int, int]:
        """Return which of an epoch's chunks has an image of it, and the image's place in that."""
        order = self._shuffled_chunk(epoch, tf.range(len(self.chunks), dtype=tf.int64))
        ends = np.cumsum(self.chunks.sizes[order.numpy()])
        number = int(np.searchsorted(ends, image, side="right"))
        return number, image - int(ends[number - 1] if number else 0)

    def _shuffled_chunk(self, epoch: tf.Tensor | int, number: tf.Tensor) -> tf.Tensor:
        """Return the chunk that comes as `number` in an epoch, or several."""
        return stream_share.shuffled(number, len(self.chunks), self.share.seed, epoch)

    def _shuffled(
        self, epoch: tf.Tensor, number: tf.Tensor, window: tuple[tf.Tensor, ...]
    ) -> tuple[tf.Tensor, ...]:
        seed = tf.random.fold_in(tf.stack([tf.constant(self.share.seed, tf.int64), epoch]), number)
        order = tf.range(tf.shape(window[0])[0])
        order = tf.random.experimental.stateless_shuffle(order, seed)
        return tuple(tf.gather(values, order) for values in window)


@dataclasses.dataclass(frozen=True, eq=False)
class Chunks:
    """Chunks of TFRecord files that a worker reads, as columns.

    Attributes:
      files: string [c], path of each chunk's file.
      record_offsets: int64 [c], where its first record begins, in bytes.
      num_records: int64 [c], number of its records, with those that are not used.
      num_bytes: int64 [c], number of bytes to its end, or little less.
      begins: int64 [c + 1]; the images of chunk i are begins[i] to begins[i + 1].
      positions: int64 [n], position of each image in `data.records`.
      ranks: int64 [n], number of each image's record in its chunk, from 0.
    """

    files: list[str]
    record_offsets: np.ndarray
    num_records: np.ndarray
    num_bytes: np.ndarray
    begins: np.ndarray
    positions: np.ndarray
    ranks: np.ndarray

    @classmethod
    def build(cls, data: DetectionData, workers: int = 1, worker: int = 0) -> "Chunks":
        """Divide the images of a data set into chunks, and choose those of a worker.

        Raises:
          DataError: for images that are no parts of TFRecord files, and more workers than chunks.
        """
        images = _file_ranges(data)
        by_place = np.lexsort((images.record_offsets, images.file_indices))
        file_indices, offsets = images.file_indices[by_place], images.record_offsets[by_place]
        total = int(images.lengths.sum())
        chunk_bytes = min(_CHUNK_BYTES, total // (_FEWEST_CHUNKS * workers) + 1)
        is_first = np.diff(file_indices, prepend=-1) != 0
        is_first |= np.diff(offsets // chunk_bytes, prepend=-1) != 0
        first = np.flatnonzero(is_first)
        begins = np.append(first, len(by_place))
        numbers = images.record_numbers[by_place]
        ranks = numbers - np.repeat(numbers[first], np.diff(begins))
        if len(first) < workers:
            raise DataError(
                f"data.shuffle_buffer: {data.source} has too few images for {workers} workers that "
                "each read their own; set it to 0"
            )
        ends = (images.offsets + images.lengths)[by_place[begins[1:] - 1]]
        mine = np.arange(worker, len(first), workers)
        chosen = np.concatenate([np.arange(begins[i], begins[i + 1]) for i in mine])
        return cls(
            files=[images.files[index][0] for index in file_indices[first[mine]]],
            record_offsets=offsets[first[mine]],
            num_records=ranks[begins[mine + 1] - 1] + 1,
            num_bytes=(ends - offsets[first])[mine],
            begins=np.append(0, np.cumsum(np.diff(begins)[mine])),
            positions=by_place[chosen],
            ranks=ranks[chosen],
        )

    @property
    def num_images(self) -> int:
        """Number of images in all chunks."""
        return len(self.positions)

    @property
    def sizes(self) -> np.ndarray:
        """int64 [c], number of images of each chunk."""
        return np.diff(self.begins)

    def __len__(self) -> int:
        return len(self.files)

    def positions_of(self, chunk: tf.Tensor) -> tuple[tf.Tensor]:
        """Return the positions of a chunk's images in `data.records`, int64 [m]."""
        begins = tf.constant(self.begins)
        return (tf.constant(self.positions)[begins[chunk] : begins[chunk + 1]],)

    def read(self, chunk: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Read a chunk: positions int64 [m], and encoded images, all empty if it is unreadable."""
        begins = tf.constant(self.begins)
        ranks = tf.constant(self.ranks)[begins[chunk] : begins[chunk + 1]]
        (positions,) = self.positions_of(chunk)

        def encoded(chunk: tf.Tensor) -> tf.Tensor:
            columns = self.files, self.record_offsets, self.num_records, self.num_bytes
            file, offset, count, size = (tf.gather(tf.constant(c), chunk) for c in columns)
            return tf.gather(encoded_images(file, offset, count, size + _END_BYTES), ranks)

        # A nested data set is the only way to catch an error in a graph.
        images = tf.data.Dataset.from_tensors(chunk).map(encoded)
        none = tf.data.Dataset.from_tensors(tf.fill(tf.shape(positions), ""))
        images = images.ignore_errors(log_warning=False).concatenate(none)
        return positions, images.take(1).get_single_element()


def _file_ranges(data: DetectionData) -> FileRanges:
    """Return where the images of a data set are.

    Raises:
      DataError: unless all are parts of TFRecord files.
    """
    if data.unlabeled is not None:
        raise DataError("data.shuffle_buffer: not with unlabelled images; set it to 0")
    images = RecordColumns.build(data.records).images
    if not isinstance(images, FileRanges):
        raise DataError(
            f"data.shuffle_buffer: {data.source} is not of TFRecord files, which alone are read in "
            "sequence; set it to 0, or write such files (python -m efficientdet_tf data convert)"
        )
    return images
