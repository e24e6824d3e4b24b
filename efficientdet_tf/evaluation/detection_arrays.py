"""The detections of a whole data set as arrays: 56 bytes each, a dict takes ten times that."""

import dataclasses
import json
import os
from collections.abc import Iterable

import numpy as np

from efficientdet_tf.boxes import to_xywh
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.files import replacing

# Detections that are dicts at the same time while a file is written.
_WRITTEN_AT_ONCE = 10_000


@dataclasses.dataclass(frozen=True)
class DetectionArrays:
    """Detections, one after another in any order.

    Attributes:
      image_ids: int64 [n], of the images' records.
      boxes: float64 [n, 4], ymin, xmin, ymax, xmax in pixels of the original image.
      scores: float64 [n], higher is surer.
      class_indices: int64 [n], of the label map.
    """

    image_ids: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    class_indices: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def joined(cls, parts: Iterable["DetectionArrays"]) -> "DetectionArrays":
        """All detections of several arrays, in order."""
        parts = [*parts, _NOTHING]
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def taken(self, which: np.ndarray) -> "DetectionArrays":
        """Some of the detections.

        Args:
          which: bool [n], or int [m] in the wanted order.
        """
        return DetectionArrays(
            self.image_ids[which], self.boxes[which], self.scores[which], self.class_indices[which]
        )

    def coco_boxes(self) -> np.ndarray:
        """float64 [n, 4], x, y, width, height in pixels, as COCO writes boxes."""
        return to_xywh(self.boxes)

    def coco_results(self, label_map: LabelMap) -> list[dict]:
        """All detections in COCO's results format.

        Args:
          label_map: gives the category ids.
        """
        columns = self.image_ids, self.class_indices, self.coco_boxes(), self.scores
        return [
            {"image_id": image_id, "category_id": label_map.ids[index], "bbox": box, "score": score}
            for image_id, index, box, score in zip(*(column.tolist() for column in columns))
        ]

    def write_coco_results(self, path: str | os.PathLike, label_map: LabelMap) -> None:
        """Write a JSON file in COCO's results format, piece by piece.

        Args:
          path: of the file.
          label_map: gives the category ids.

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
