"""COCO metrics by pycocotools, category by category, from arrays.

pycocotools needs a dict for each detection and keeps its matches for every category,
size and image until the end: gigabytes for 5,000 images. Categories are independent, so
here each is evaluated separately, on the images with objects or detections of it, and
only its curves are kept. The numbers are bit-identical.

Of pycocotools' private API only `_prepare`, `_gts` and `_dts` are replaced, and only
here; `evaluateImg` returns the fields that `accumulate` reads.

Uncounted objects are matched after all others, and detections matched to them count
neither as true nor as false positives:

* a crowd region, as in COCO: any number of detections, by the share of the detection's
  area inside the region;
* an ignored object: also any number of detections, as in Pascal VOC's benchmark, but by
  IoU, at each of COCO's IoU thresholds: it is a single object, and a small box inside it
  is not a detection of it. A detection that overlaps both a counted and an ignored object
  is matched to the counted one (Pascal VOC: to the one it overlaps more);
* an object of unknown category: matched by detections of every category.
"""

import contextlib
import dataclasses
import io
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from pycocotools import mask
from pycocotools.cocoeval import COCOeval

from efficientdet_tf.boxes import to_xywh
from efficientdet_tf.data.records import LabelMap, Record
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays

# The only category of a `_CategoryEvaluation`.
_CATEGORY = 0


def evaluate(
    records: Sequence[Record], detections: DetectionArrays, label_map: LabelMap
) -> COCOeval:
    """Evaluate detections.

    Args:
      records: images and ground truth, with distinct image ids.
      detections: detections in these images.
      label_map: categories.

    Returns:
      The evaluation of pycocotools: `eval` has "precision" and "recall" with categories
      by ascending id, as in `params.catIds`; `stats` has the twelve metrics.
    """
    evaluation = COCOeval(iouType="bbox")
    evaluation.params.imgIds = sorted(record.image_id for record in records)
    evaluation.params.catIds = sorted(label_map.ids)
    objects = _objects(records)
    # Best score first; equal scores keep their order, as in pycocotools.
    order = np.lexsort((-detections.scores, detections.image_ids, detections.class_indices))
    limits = np.searchsorted(detections.class_indices, np.arange(len(label_map) + 1), sorter=order)
    precision, recall = [], []
    # pycocotools always prints its progress to stdout.
    with contextlib.redirect_stdout(io.StringIO()):
        for id_ in evaluation.params.catIds:
            index = label_map.ids.index(id_)
            found = detections.taken(order[limits[index] : limits[index + 1]])
            category = _CategoryEvaluation(objects.select_class(index, found), found)
            category.evaluate()
            category.accumulate()
            precision.append(category.eval["precision"])
            recall.append(category.eval["recall"])
        evaluation.eval = {
            "precision": np.concatenate(precision, axis=2),
            "recall": np.concatenate(recall, axis=1),
        }
        evaluation.summarize()
    return evaluation


@dataclasses.dataclass(frozen=True)
class _Objects:
    """Ground-truth objects of all images, concatenated.

    Attributes:
      image_ids: int64 [n].
      boxes: float64 [n, 4], x, y, width, height in pixels.
      class_indices: int64 [n], -1 for an unknown category.
      areas: float64 [n], in pixels.
      is_counted: bool [n].
      is_crowd: bool [n].
    """

    image_ids: np.ndarray
    boxes: np.ndarray
    class_indices: np.ndarray
    areas: np.ndarray
    is_counted: np.ndarray
    is_crowd: np.ndarray

    def select_class(self, index: int, found: DetectionArrays) -> "_Objects":
        """Select the objects of a class, and those of no class in images with its detections."""
        is_of_class = self.class_indices == index
        has_no_class = (self.class_indices < 0) & np.isin(self.image_ids, found.image_ids)
        which = np.flatnonzero(is_of_class | has_no_class)
        which = which[np.argsort(self.image_ids[which], kind="stable")]
        names = [field.name for field in dataclasses.fields(self)]
        return _Objects(*(getattr(self, name)[which] for name in names))


def _objects(records: Sequence[Record]) -> _Objects:
    def joined(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
        return np.concatenate([np.zeros(0, dtype), *arrays]).astype(dtype)

    counts = [len(record.boxes) for record in records]
    ids = np.array([record.image_id for record in records], np.int64)
    boxes = [record.boxes.reshape(-1, 4) for record in records]
    return _Objects(
        image_ids=np.repeat(ids, counts),
        boxes=to_xywh(np.concatenate([np.zeros((0, 4), np.float32), *boxes])),
        class_indices=joined([record.classes for record in records], np.int64),
        areas=joined([record.area for record in records], np.float64),
        is_counted=joined([record.is_counted for record in records], bool),
        is_crowd=joined([record.is_crowd for record in records], bool),
    )


class _CategoryEvaluation(COCOeval):
    """pycocotools evaluation of one category.

    Args:
      objects: objects of the category, ordered by image id.
      found: detections of the category, ordered by image id, then best score first.
    """

    def __init__(self, objects: _Objects, found: DetectionArrays) -> None:
        super().__init__(iouType="bbox")
        self._objects, self._found = objects, found
        self._found_boxes = found.coco_boxes()
        self._found_areas = self._found_boxes[:, 2] * self._found_boxes[:, 3]
        self._rows = {
            name: _rows_of_images(arrays.image_ids)
            for name, arrays in (("objects", objects), ("found", found))
        }
        # Images without objects and detections of the category do not change the metrics.
        self.params.imgIds = sorted(set(self._rows["objects"]) | set(self._rows["found"]))
        self.params.catIds = [_CATEGORY]

    def _prepare(self) -> None:
        self._gts, self._dts = defaultdict(list), defaultdict(list)
        objects, found = self._objects, self._found
        for image_id, rows in self._rows["objects"].items():
            # Ids from 1: pycocotools takes 0 for "no match". "iscrowd" stands for being matched
            # any number of times.
            self._gts[image_id, _CATEGORY] = [
                {"id": number, "area": area, "iscrowd": excused, "ignore": excused}
                for number, (area, excused) in enumerate(
                    zip(objects.areas[rows].tolist(), (~objects.is_counted[rows]).tolist()), 1
                )
            ]
            detection_rows = self._rows["found"].get(image_id, slice(0))
            self._dts[image_id, _CATEGORY] = [
                {"id": number, "area": area, "score": score}
                for number, (area, score) in enumerate(
                    zip(
                        self._found_areas[detection_rows].tolist(),
                        found.scores[detection_rows].tolist(),
                    ),
                    1,
                )
            ]

    def evaluateImg(self, imgId: int, catId: int, aRng: list[float], maxDet: int) -> dict | None:
        """Return the matches of an image, as read by `accumulate`."""
        if imgId in self._rows["objects"]:
            return super().evaluateImg(imgId, catId, aRng, maxDet)
        # Most images: no matches, and detections of another size do not count.
        rows = self._rows["found"][imgId]
        rows = slice(rows.start, min(rows.stop, rows.start + maxDet))
        areas, thresholds = self._found_areas[rows], len(self.params.iouThrs)
        outside = (areas < aRng[0]) | (areas > aRng[1])
        return {
            "dtScores": self._found.scores[rows],
            "dtMatches": np.zeros((thresholds, len(areas)), bool),
            "dtIgnore": outside[None].repeat(thresholds, axis=0),
            "gtIgnore": np.zeros(0),
        }

    def computeIoU(self, imgId: int, catId: int) -> np.ndarray | list:
        """Compute IoU, float64 [detections, objects], best scores first; [] without either."""
        if imgId not in self._rows["objects"] or imgId not in self._rows["found"]:
            return []
        objects, found = self._rows["objects"][imgId], self._rows["found"][imgId]
        return mask.iou(
            self._found_boxes[found][: self.params.maxDets[-1]],
            self._objects.boxes[objects],
            # Only crowd regions are matched by the share of the detection inside.
            self._objects.is_crowd[objects].astype(np.uint8),
        )


def _rows_of_images(image_ids: np.ndarray) -> dict[int, slice]:
    """Return the slice of rows of each image id, for ids in ascending order."""
    ids, starts = np.unique(image_ids, return_index=True)
    ends = [*starts[1:].tolist(), len(image_ids)]
    return {id_: slice(*rows) for id_, *rows in zip(ids.tolist(), starts.tolist(), ends)}
