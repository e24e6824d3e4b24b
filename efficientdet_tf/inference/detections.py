"""Detections of an image, the result of a detector."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Detections:
    """Detections of one image, best first.

    Attributes:
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels of the upright
        image, clipped to it.
      scores: float32 [n], 0..1.
      class_indices: int32 [n], indices of the detector's label map.
    """

    boxes: np.ndarray
    scores: np.ndarray
    class_indices: np.ndarray

    def __len__(self) -> int:
        return len(self.scores)

    def above(self, score: float) -> "Detections":
        """Select the detections with at least the score `score`."""
        kept = self.scores >= score
        return Detections(self.boxes[kept], self.scores[kept], self.class_indices[kept])
