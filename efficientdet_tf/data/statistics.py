"""Statistics of a data set: images, objects, box sizes and aspect ratios."""

import dataclasses

import numpy as np

from efficientdet_tf.boxes import sizes
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
    counts = np.zeros(len(data.label_map), np.int64)
    for record in data.records:
        np.add.at(counts, record.classes[record.is_counted], 1)
    return counts


def describe(
    data: DetectionData, image_size: tuple[int, int], resize: str = "pad"
) -> DataStatistics:
    """Compute the statistics of a data set.

    Args:
      data: the data set.
      image_size: (height, width) in pixels of the network's input.
      resize: "pad" or "stretch", see `efficientdet_tf.data.preprocessing.resize`. Default "pad".
    """
    sides = [np.zeros((0, 2))]
    for record in data.records:
        boxes = record.boxes[record.is_counted].astype(np.float64)
        scale = np.array(image_size) / (record.height, record.width)
        if resize == "pad":
            scale = scale.min()
        sides.append(scale * sizes(boxes))
    height, width = np.concatenate(sides).T
    return DataStatistics(
        num_images=len(data),
        num_empty=sum(1 for side in sides[1:] if not len(side)),
        objects=count_objects(data),
        sizes=np.sqrt(height * width),
        aspects=width / np.maximum(height, 1e-9),
        num_ignored=sum(int(record.is_ignored.sum()) for record in data.records),
    )
