"""Table of a data set's records as tensors, for lookup by position in a compiled graph."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from efficientdet_tf import targets
from efficientdet_tf.data.decoding import REDUCTIONS, decode_image
from efficientdet_tf.data.image_sources import FileRange, FileRanges, ImageSource
from efficientdet_tf.data.mixing import Example
from efficientdet_tf.data.record_columns import RecordColumns, offsets_of, training_records
from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.data.tfrecord_reading import encoded_images

# Traced once instead of for each data set: it takes a fifth of a second.
_decode_image = tf.function(decode_image, autograph=False)


@dataclasses.dataclass(frozen=True)
class RecordTable:
    """All records of a data set as flat tensors, for lookup by position.

    Attributes:
      files: string [k], paths, or encoded images where `in_memory`.
      in_memory: bool [k], whether `files` holds the encoded image.
      file_indices: int32 [n], index of each image's file.
      record_offsets: int64 [n], where in a TFRecord file the record of each image begins, in bytes;
        -1 for an image that is no part of one. None if none is.
      apply_exif: bool [n], whether decoding applies the EXIF orientation.
      offsets: int64 [n + 1]; the objects of record i are offsets[i] to offsets[i + 1].
      boxes: float32 [m, 4], ymin, xmin, ymax, xmax in original pixels.
      classes: int32 [m], class indices or negative codes, see `targets.assign`.
      has_ignored: whether any class is a negative code.
      sizes: float32 [n, 2], original height and width; None without `reductions`.
      reductions: int32 [n], see `decoding.decode_image`; None for full size.
    """

    files: tf.Tensor
    in_memory: tf.Tensor
    file_indices: tf.Tensor
    record_offsets: tf.Tensor | None
    apply_exif: tf.Tensor
    offsets: tf.Tensor
    boxes: tf.Tensor
    classes: tf.Tensor
    has_ignored: bool
    sizes: tf.Tensor | None = None
    reductions: tf.Tensor | None = None

    @classmethod
    def build(
        cls,
        data: DetectionData,
        ignore_crowd: bool,
        needed_size: tuple[float, float] | None = None,
    ) -> "RecordTable":
        """Build the table of `training_records` and the objects that training needs.

        Args:
          data: the data set.
          ignore_crowd: whether to keep crowd regions, as `targets.IGNORED_REGION`.
          needed_size: (height, width) in pixels; JPEG images that are still as large when
            reduced are decoded so. None decodes all in full size. Default None.
        """
        records = RecordColumns.build(training_records(data))
        # Ignored boxes have a class code of their own, so that augmentation transforms them too.
        classes = np.where(records.is_ignored, targets.IGNORED, records.classes)
        kept = ~records.is_crowd | records.is_ignored
        if ignore_crowd:
            classes = np.where(records.is_crowd, targets.IGNORED_REGION, classes)
            kept = np.full(len(classes), True)
        lengths = np.bincount(records.owners[kept], minlength=len(records))
        return cls(
            **_places(records.images),
            apply_exif=tf.constant(records.apply_exif),
            offsets=tf.constant(offsets_of(lengths)),
            boxes=tf.constant(records.boxes[kept]),
            classes=tf.constant(classes[kept], tf.int32),
            has_ignored=bool((classes[kept] < 0).any()),
            **_reductions(records.sizes, needed_size),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def read(self, position: tf.Tensor, encoded: tf.Tensor | None = None) -> tf.Tensor:
        """Read and decode the image at `position`: uint8 [h, w, 3].

        Args:
          position: int64 scalar.
          encoded: the image if it is read already, string scalar; with None, or if it is empty, it
            is read. Default None.
        """
        reduction = None if self.reductions is None else tf.gather(self.reductions, position)
        apply_exif = tf.gather(self.apply_exif, position)
        if encoded is None:
            encoded = self._encoded(position)
        else:
            given = encoded
            encoded = tf.cond(given == "", lambda: self._encoded(position), lambda: given)
        return _decode_image(encoded, apply_exif, reduction)

    def _encoded(self, position: tf.Tensor) -> tf.Tensor:
        index = tf.gather(self.file_indices, position)
        file = tf.gather(self.files, index)

        def whole() -> tf.Tensor:
            in_memory = tf.gather(self.in_memory, index)
            return tf.cond(in_memory, lambda: file, lambda: tf.io.read_file(file))

        if self.record_offsets is None:
            return whole()
        offset = tf.gather(self.record_offsets, position)
        return tf.cond(offset < 0, whole, lambda: encoded_images(file, offset)[0])

    def read_or_not(self, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Read the image at `position`: pixels uint8 [h, w, 3] and True, or blank and False.

        A nested data set is the only way to catch an error in a graph. It takes about half a
        millisecond.
        """
        image = tf.data.Dataset.from_tensors(position).map(lambda p: (self.read(p), True))
        none = tf.data.Dataset.from_tensors((tf.zeros([1, 1, 3], tf.uint8), False))
        image = image.ignore_errors(log_warning=False).concatenate(none)
        return image.take(1).get_single_element()

    def example(self, position: tf.Tensor, pixels: tf.Tensor) -> Example:
        """Return the image that was read at `position`, and its objects in pixels of it."""
        begin, end = self.offsets[position], self.offsets[position + 1]
        boxes, classes = self.boxes[begin:end], self.classes[begin:end]
        if self.sizes is not None:
            read_size = tf.cast(tf.shape(pixels)[:2], tf.float32)
            boxes *= tf.tile(read_size / tf.gather(self.sizes, position), [2])
        return Example(pixels, boxes, classes)


def _places(images: Sequence[ImageSource]) -> dict[str, tf.Tensor | None]:
    """Return the fields of `RecordTable` that say where the images are."""
    if not isinstance(images, FileRanges) and any(isinstance(i, FileRange) for i in images):
        images = FileRanges.build(
            # Whole files and bytes among parts of files.
            image if isinstance(image, FileRange) else FileRange(image, 0, -1, -1, 0)  # type: ignore[arg-type]
            for image in images
        )
    if isinstance(images, FileRanges):
        files: Sequence = [file for file, _ in images.files]
        return {
            "files": tf.constant(files, tf.string),
            "in_memory": tf.constant([isinstance(file, bytes) for file in files]),
            "file_indices": tf.constant(images.file_indices),
            "record_offsets": tf.constant(images.record_offsets),
        }
    return {
        "files": tf.constant(images, tf.string),
        "in_memory": tf.constant([isinstance(image, bytes) for image in images]),
        "file_indices": tf.range(len(images)),
        "record_offsets": None,
    }


def _reductions(
    sizes: np.ndarray, needed_size: tuple[float, float] | None
) -> dict[str, tf.Tensor | None]:
    """Return the fields of `RecordTable` that say by how much images are reduced."""
    if needed_size is None:
        return {}
    surplus = (sizes / needed_size).min(axis=1)
    indices = np.searchsorted(REDUCTIONS, surplus, side="right") - 1
    return {
        "sizes": tf.constant(sizes, tf.float32),
        "reductions": tf.constant(np.maximum(indices, 0), tf.int32),
    }
