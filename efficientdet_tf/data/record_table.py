"""Table of a data set's records as tensors, for lookup by position in a compiled graph."""

import dataclasses

import numpy as np
import tensorflow as tf

from efficientdet_tf import targets
from efficientdet_tf.data.decoding import decode_image
from efficientdet_tf.data.record_columns import RecordColumns, offsets_of
from efficientdet_tf.data.records import DetectionData


@dataclasses.dataclass(frozen=True)
class RecordTable:
    """All records of a data set as flat tensors, for lookup by position.

    Attributes:
      images: string [n], paths, or encoded files where `in_memory`.
      in_memory: bool [n], whether `images` holds the encoded file.
      apply_exif: bool [n], whether decoding applies the EXIF orientation.
      offsets: int64 [n + 1]; the objects of record i are offsets[i] to offsets[i + 1].
      boxes: float32 [m, 4], ymin, xmin, ymax, xmax in original pixels.
      classes: int32 [m], class indices or negative codes, see `targets.assign`.
    """

    images: tf.Tensor
    in_memory: tf.Tensor
    apply_exif: tf.Tensor
    offsets: tf.Tensor
    boxes: tf.Tensor
    classes: tf.Tensor

    @classmethod
    def build(cls, data: DetectionData, ignore_crowd: bool) -> "RecordTable":
        """Build the table of the records and the objects that training needs.

        Args:
          data: the data set.
          ignore_crowd: whether to keep crowd regions, as `targets.IGNORED_REGION`.
        """
        records = RecordColumns.build(data.records)
        # Ignored boxes have a class code of their own, so that augmentation transforms them too.
        classes = np.where(records.is_ignored, targets.IGNORED, records.classes)
        kept = ~records.is_crowd | records.is_ignored
        if ignore_crowd:
            classes = np.where(records.is_crowd, targets.IGNORED_REGION, classes)
            kept = np.full(len(classes), True)
        lengths = np.bincount(records.owners[kept], minlength=len(records))
        return cls(
            images=tf.constant(records.images, tf.string),
            in_memory=tf.constant([isinstance(image, bytes) for image in records.images]),
            apply_exif=tf.constant(records.apply_exif),
            offsets=tf.constant(offsets_of(lengths)),
            boxes=tf.constant(records.boxes[kept]),
            classes=tf.constant(classes[kept], tf.int32),
        )

    def read(self, position: tf.Tensor) -> tf.Tensor:
        """Read and decode the image at `position`: uint8 [h, w, 3]."""
        image = tf.gather(self.images, position)
        encoded = tf.cond(
            tf.gather(self.in_memory, position), lambda: image, lambda: tf.io.read_file(image)
        )
        return decode_image(encoded, tf.gather(self.apply_exif, position))

    def read_or_not(self, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Read the image at `position`: pixels uint8 [h, w, 3] and True, or blank and False.

        A nested data set is the only way to catch an error in a graph. It takes about half a
        millisecond.
        """
        image = tf.data.Dataset.from_tensors(position).map(lambda p: (self.read(p), True))
        none = tf.data.Dataset.from_tensors((tf.zeros([1, 1, 3], tf.uint8), False))
        image = image.ignore_errors(log_warning=False).concatenate(none)
        return image.take(1).get_single_element()

    def objects(self, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Look up the boxes float32 [n, 4] and classes int32 [n] at `position`."""
        begin, end = self.offsets[position], self.offsets[position + 1]
        return self.boxes[begin:end], self.classes[begin:end]
