"""Overlapping pairs of a detection and an object, in all images."""

import dataclasses

import numpy as np
from pycocotools import mask

from efficientdet_tf.evaluation.detection_arrays import DetectionArrays
from efficientdet_tf.evaluation.ground_truth_arrays import GroundTruthArrays


@dataclasses.dataclass(frozen=True)
class Overlaps:
    """Pairs of a detection and an object in the same image.

    Attributes:
      detections: int64 [p], positions in the detections.
      objects: int64 [p], positions in the ground truth.
      ious: float64 [p], IoU; for a crowd region the share of the detection inside.
    """

    detections: np.ndarray
    objects: np.ndarray
    ious: np.ndarray

    def __len__(self) -> int:
        return len(self.ious)

    def taken(self, which: np.ndarray) -> "Overlaps":
        """Select pairs by a bool [p] mask, or int [m] indices in the desired order."""
        return Overlaps(self.detections[which], self.objects[which], self.ious[which])


def overlaps(truth: GroundTruthArrays, detections: DetectionArrays, minimum: float) -> Overlaps:
    """Find the pairs that overlap, of any two classes.

    Args:
      truth: objects.
      detections: detections in any order.
      minimum: minimum IoU, above 0.

    Returns:
      The pairs, ordered by detection, then by IoU, then by object.
    """
    by_image = np.argsort(detections.image_ids, kind="stable")
    boxes = detections.coco_boxes()
    is_crowd = truth.is_crowd.astype(np.uint8)
    parts = [Overlaps(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for image_id, objects in _rows_of_images(truth.image_ids).items():
        limits = np.searchsorted(detections.image_ids, [image_id, image_id + 1], sorter=by_image)
        found = by_image[slice(*limits)]
        if len(found):
            # Its division rounds like the reference's on every machine.
            ious = mask.iou(boxes[found], truth.coco_boxes[objects], is_crowd[objects])
            rows, columns = np.nonzero(ious >= minimum)
            parts.append(Overlaps(found[rows], objects.start + columns, ious[rows, columns]))
    joined = Overlaps(
        np.concatenate([part.detections for part in parts]),
        np.concatenate([part.objects for part in parts]),
        np.concatenate([part.ious for part in parts]),
    )
    return joined.taken(np.lexsort((joined.objects, joined.ious, joined.detections)))


def _rows_of_images(image_ids: np.ndarray) -> dict[int, slice]:
    """Return the slice of rows of each image id, for ids in ascending order."""
    ids, starts = np.unique(image_ids, return_index=True)
    ends = [*starts[1:].tolist(), len(image_ids)]
    return {id_: slice(*rows) for id_, *rows in zip(ids.tolist(), starts.tolist(), ends)}
