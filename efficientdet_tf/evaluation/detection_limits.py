"""Objects of dense images that limits on the number of detections leave undetected."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from efficientdet_tf.data.record_columns import RecordColumns
from efficientdet_tf.data.records import Record

# COCO's: largest number of detections of a class in an image.
COCO_MAX_DETECTIONS = 100
# Detections for each object of the fullest image that a larger limit has room for.
_ROOM = 1.2


@dataclasses.dataclass(frozen=True)
class Excess:
    """Objects that count and exceed a limit on the number of detections.

    Attributes:
      limit: largest number of detections.
      images: number of images with more objects than that.
      most: largest number of objects.
      objects: number of objects beyond the limit, which cannot be detected.
      of_objects: number of all objects.
    """

    limit: int
    images: int
    most: int
    objects: int
    of_objects: int

    @property
    def room(self) -> int:
        """A limit with room for the objects of every image."""
        return 100 * math.ceil(_ROOM * self.most / 100)

    @property
    def remedy(self) -> str:
        """What exceeds `detection.max_detections`, and what to set."""
        more = "image has" if self.images == 1 else "images have"
        return (
            f"detection.max_detections={self.limit}: {self.images:,} {more} more objects, up to "
            f"{self.most:,}, and {self.objects:,} of all {self.of_objects:,} cannot be detected; "
            f"--set detection.max_detections={self.room}, in training and evaluation"
        )


def beyond_max_detections(records: Sequence[Record], max_detections: int) -> Excess | None:
    """Count the objects beyond a limit of an image; None if there are none.

    Args:
      records: images and ground truth.
      max_detections: largest number of detections of an image.
    """
    columns = RecordColumns.build(records)
    return _excess(columns.owners[columns.is_counted], max_detections)


def beyond_coco(records: Sequence[Record]) -> Excess | None:
    """Count the objects beyond COCO's limit of a class in an image; None if there are none."""
    columns = RecordColumns.build(records)
    owners, classes = columns.owners[columns.is_counted], columns.classes[columns.is_counted]
    return _excess(owners, COCO_MAX_DETECTIONS, classes)


def _excess(owners: np.ndarray, limit: int, classes: np.ndarray | None = None) -> Excess | None:
    """Count the objects beyond a limit of each image, or of each class in it."""
    keys = np.stack([owners, owners * 0 if classes is None else classes])
    groups, counts = np.unique(keys, axis=1, return_counts=True)
    beyond = counts > limit
    if not beyond.any():
        return None
    return Excess(
        limit=limit,
        images=len(np.unique(groups[0, beyond])),
        most=int(counts.max()),
        objects=int((counts[beyond] - limit).sum()),
        of_objects=len(owners),
    )
