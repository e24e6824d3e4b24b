"""Ground truth of a whole data set as arrays."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from efficientdet_tf.boxes import to_xywh
from efficientdet_tf.data.records import Record


@dataclasses.dataclass(frozen=True)
class GroundTruthArrays:
    """Objects of all images, ordered by image id; objects of an image in their own order.

    Attributes:
      image_ids: int64 [n], image ids of the records.
      coco_boxes: float64 [n, 4], x, y, width, height in pixels of the original image.
      class_indices: int64 [n], class indices in the label map; -1 for an unknown category.
      areas: float64 [n], in pixels; decides the size of an object.
      is_counted: bool [n], neither crowd nor ignored.
      is_crowd: bool [n], regions of many objects of a class.
    """

    image_ids: np.ndarray
    coco_boxes: np.ndarray
    class_indices: np.ndarray
    areas: np.ndarray
    is_counted: np.ndarray
    is_crowd: np.ndarray

    def __len__(self) -> int:
        return len(self.image_ids)

    @classmethod
    def from_records(cls, records: Sequence[Record]) -> "GroundTruthArrays":
        """Join the objects of all records.

        Args:
          records: images and ground truth, with distinct image ids.
        """
        records = sorted(records, key=lambda record: record.image_id)

        def joined(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
            return np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype)

        counts = [len(record.boxes) for record in records]
        boxes = [record.boxes.reshape(-1, 4) for record in records]
        return cls(
            image_ids=np.repeat(np.array([r.image_id for r in records], np.int64), counts),
            coco_boxes=to_xywh(np.concatenate([np.zeros((0, 4), np.float32), *boxes])),
            class_indices=joined([record.classes for record in records], np.int64),
            areas=joined([record.area for record in records], np.float64),
            is_counted=joined([record.is_counted for record in records], bool),
            is_crowd=joined([record.is_crowd for record in records], bool),
        )
