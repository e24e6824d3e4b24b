"""Statistics of a data set: images, objects, box sizes and aspect ratios."""

import dataclasses

import numpy as np

from efficientdet_tf.boxes import sizes
from efficientdet_tf.data.record_columns import RecordColumns
from efficientdet_tf.data.records import DetectionData


@dataclasses.dataclass(frozen=True)
class DataStatistics:
    """Statistics of the images and objects of a data set.

    Crowd regions and ignored objects are not counted as objects.

    Attributes:
      num_images: number of images.
      num_empty: number of images without an object.
      objects: int64 [classes], number of objects of each class.
      sizes: float64 [n], square root of each object's box area, in pixels of the
        network's input.
      aspects: float64 [n], width divided by height of each object's box.
      num_ignored: number of ignored objects.
    """

    num_images: int
    num_empty: int
    objects: np.ndarray
    sizes: np.ndarray
    aspects: np.ndarray
    num_ignored: int


def count_objects(data: DetectionData) -> np.ndarray:
    """Count objects by class, without crowd regions and ignored ones: int64 [classes]."""
    records = RecordColumns.build(data.records)
    return np.bincount(records.classes[records.is_counted], minlength=len(data.label_map))


def describe(
    data: DetectionData, image_size: tuple[int, int], resize: str = "pad"
) -> DataStatistics:
    """Compute the statistics of a data set.

    Args:
      data: the data set.
      image_size: (height, width) in pixels of the network's input.
      resize: "pad" or "stretch", see `efficientdet_tf.data.preprocessing.resize`. Default "pad".
    """
    records = RecordColumns.build(data.records)
    scales = np.array(image_size) / records.sizes
    if resize == "pad":
        scales = np.broadcast_to(scales.min(axis=1, keepdims=True), scales.shape)
    owners = records.owners[records.is_counted]
    boxes = records.boxes[records.is_counted].astype(np.float64)
    height, width = (scales[owners] * sizes(boxes)).T
    return DataStatistics(
        num_images=len(data),
        num_empty=len(data) - len(np.unique(owners)),
        objects=count_objects(data),
        sizes=np.sqrt(height * width),
        aspects=width / np.maximum(height, 1e-9),
        num_ignored=int(records.is_ignored.sum()),
    )
