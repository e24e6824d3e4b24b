"""Detections of a whole data set as arrays: 56 bytes each, a tenth of a dict."""

import dataclasses
import json
import os
from collections.abc import Iterable

import numpy as np

from efficientdet_tf.boxes import to_xywh
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.files import replacing

# Number of detections converted to dicts at a time when writing a file.
_WRITTEN_AT_ONCE = 10_000


@dataclasses.dataclass(frozen=True)
class DetectionArrays:
    """Detections in any order.

    Attributes:
      image_ids: int64 [n], image ids of the records.
      boxes: float64 [n, 4], ymin, xmin, ymax, xmax in pixels of the original image.
      scores: float64 [n], higher is more confident.
      class_indices: int64 [n], class indices in the label map.
    """

    image_ids: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    class_indices: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def joined(cls, parts: Iterable["DetectionArrays"]) -> "DetectionArrays":
        """Concatenate detections."""
        parts = [*parts, _NOTHING]
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def taken(self, which: np.ndarray) -> "DetectionArrays":
        """Select detections.

        Args:
          which: bool [n] mask, or int [m] indices in the desired order.
        """
        return DetectionArrays(
            self.image_ids[which], self.boxes[which], self.scores[which], self.class_indices[which]
        )

    def coco_boxes(self) -> np.ndarray:
        """Convert the boxes to COCO's form: float64 [n, 4], x, y, width, height in pixels."""
        return to_xywh(self.boxes)

    def coco_results(self, label_map: LabelMap) -> list[dict]:
        """Convert all detections to COCO's results format.

        Args:
          label_map: classes with category ids.
        """
        columns = self.image_ids, self.class_indices, self.coco_boxes(), self.scores
        return [
            {"image_id": image_id, "category_id": label_map.ids[index], "bbox": box, "score": score}
            for image_id, index, box, score in zip(*(column.tolist() for column in columns))
        ]

    def write_coco_results(self, path: str | os.PathLike, label_map: LabelMap) -> None:
        """Write a JSON file in COCO's results format, in chunks.

        Args:
          path: path of the file.
          label_map: classes with category ids.

        Raises:
          WriteError: when it cannot be written.
        """
        with replacing(path) as partial, open(partial, "w", encoding="utf-8") as file:
            file.write("[")
            for start in range(0, len(self), _WRITTEN_AT_ONCE):
                some = self.taken(np.arange(start, min(start + _WRITTEN_AT_ONCE, len(self))))
                text = json.dumps(some.coco_results(label_map))
                file.write(", " * (start > 0) + text[1:-1])
            file.write("]")


_NOTHING = DetectionArrays(
    np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64)
)
