"""COCO metrics of records in memory."""

import json
import math
import os
from collections.abc import Collection

import numpy as np

from efficientdet_tf.data.records import DataError, DetectionData
from efficientdet_tf.evaluation import precision_recall
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays
from efficientdet_tf.evaluation.matching import Matcher
from efficientdet_tf.evaluation.precision_recall import IOU_THRESHOLDS, RECALLS
from efficientdet_tf.evaluation.result import METRICS, ClassResult, EvaluationResult

# Ranges of object areas in square pixels, both ends included.
_AREAS = {"s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e5**2)}


class CocoEvaluator:
    """Collects the detections of a data set, then computes their metrics.

    Examples:
      evaluator = CocoEvaluator(data)
      evaluator.add(17, boxes, scores, class_indices)
      print(evaluator.result().table())

    Args:
      data: images and ground truth. Crowd regions and ignored objects do not count
        as objects, nor their detections as false positives: see
        `matching`. `area` determines the object size.

    Raises:
      DataError: when two records have the same image id.
    """

    def __init__(self, data: DetectionData) -> None:
        self._label_map = data.label_map
        self._source = data.source or "the data set"
        self._records = {record.image_id: record for record in data.records}
        if len(self._records) != len(data.records):
            raise DataError(f"{self._source}: two images have the same id")
        self._index_of_id = {id_: index for index, id_ in enumerate(data.label_map.ids)}
        # One entry per image, joined on demand.
        self._detections: list[DetectionArrays] = []

    def add(
        self, image_id: int, boxes: np.ndarray, scores: np.ndarray, class_indices: np.ndarray
    ) -> None:
        """Add the detections of one image.

        Args:
          image_id: image id of a record.
          boxes: float [n, 4], ymin, xmin, ymax, xmax in pixels of the original image.
          scores: float [n], higher is more confident.
          class_indices: int [n], class indices in the label map.

        Raises:
          DataError: for an unknown image id, a class index out of range, or
            arrays of different lengths.
        """
        # Copies: the caller may reuse its arrays.
        boxes = np.array(boxes, np.float64).reshape(-1, 4)
        scores = np.array(scores, np.float64).ravel()
        class_indices = np.array(class_indices).astype(np.int64).ravel()
        if int(image_id) not in self._records:
            raise DataError(f"detections: image_id {image_id} is not in {self._source}")
        if not len(boxes) == len(scores) == len(class_indices):
            raise DataError(
                f"detections of image {image_id}: {len(boxes)} boxes, {len(scores)} scores and "
                f"{len(class_indices)} classes"
            )
        if len(boxes) and not 0 <= class_indices.min() <= class_indices.max() < len(
            self._label_map
        ):
            raise DataError(
                f"detections of image {image_id}: a class index is not in "
                f"0..{len(self._label_map) - 1}"
            )
        image_ids = np.full(len(boxes), int(image_id), np.int64)
        self._detections.append(DetectionArrays(image_ids, boxes, scores, class_indices))

    def add_results(self, path: str | os.PathLike, left_out: Collection[int] = frozenset()) -> None:
        """Add all detections of a file in COCO's results format.

        Args:
          path: JSON file with a list of `image_id`, `category_id`, `bbox` (x, y,
            width, height in pixels) and `score`.
          left_out: ids of images whose detections are passed over. Default none.

        Raises:
          DataError: for an invalid file; the message names the entry.
        """
        image_ids, boxes, scores, class_indices = [], [], [], []
        for number, item in enumerate(_read_list(path)):
            where = f"{path}: entry {number}"
            try:
                x, y, width, height = (float(value) for value in item["bbox"])
                category_id, image_id = int(item["category_id"]), int(item["image_id"])
                score = float(item["score"])
                if not all(map(math.isfinite, (x, y, width, height, score))):
                    raise ValueError("not finite")
            except KeyError as error:
                raise DataError(f"{where}: has no {error.args[0]!r}") from error
            except (TypeError, ValueError, OverflowError) as error:
                raise DataError(
                    f"{where}: needs image_id, category_id, bbox [x, y, width, height] and score"
                ) from error
            if category_id not in self._index_of_id:
                raise DataError(f"{where}: category_id {category_id} is not in {self._source}")
            if image_id in left_out:
                continue
            if image_id not in self._records:
                raise DataError(f"{where}: image_id {image_id} is not in {self._source}")
            scores.append(score)
            image_ids.append(image_id)
            boxes.append((y, x, y + height, x + width))
            class_indices.append(self._index_of_id[category_id])
        self._detections.append(
            DetectionArrays(
                np.array(image_ids, np.int64),
                np.array(boxes, np.float64).reshape(-1, 4),
                np.array(scores, np.float64),
                np.array(class_indices, np.int64),
            )
        )

    def arrays(self) -> DetectionArrays:
        """Return all detections so far, in the order they were added."""
        self._detections = [DetectionArrays.joined(self._detections)]
        return self._detections[0]

    def detections(self) -> list[dict]:
        """Return all detections so far in COCO's results format."""
        return self.arrays().coco_results(self._label_map)

    def write_results(self, path: str | os.PathLike) -> None:
        """Write all detections so far to a JSON file in COCO's results format.

        Raises:
          WriteError: when the file cannot be written.
        """
        self.arrays().write_coco_results(path, self._label_map)

    def result(self) -> EvaluationResult:
        """Compute the metrics of the detections so far; images without any count, too."""
        matcher = Matcher(list(self._records.values()), self.arrays())
        # The order in which pycocotools sums: equal to the last digit.
        by_id = np.argsort(self._label_map.ids)
        metrics, precision = _metrics(matcher, by_id)
        precision = precision[:, :, np.argsort(by_id)]
        return EvaluationResult(
            metrics=metrics,
            per_class=self._per_class(precision),
            num_images=len(self._records),
            precision=precision,
            recalls=RECALLS.copy(),
            iou_thresholds=IOU_THRESHOLDS.copy(),
        )

    def _per_class(self, precision: np.ndarray) -> tuple[ClassResult, ...]:
        objects = np.zeros(len(self._label_map), int)
        for record in self._records.values():
            np.add.at(objects, record.classes[record.is_counted], 1)
        return tuple(
            ClassResult(
                id=self._label_map.ids[index],
                name=self._label_map.names[index],
                objects=int(objects[index]),
                # NaN in all entries or in none.
                ap=float(precision[:, :, index].mean()),
                ap50=float(precision[0, :, index].mean()),
            )
            for index in range(len(self._label_map))
        )


def _metrics(matcher: Matcher, classes: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
    """Compute the twelve metrics, and precision: float64 [thresholds, recalls, classes]."""
    matches = matcher.match(IOU_THRESHOLDS)
    precision = precision_recall.precision_curves(matcher, matches, classes)
    recall = {
        f"AR{count}": precision_recall.recalls(matcher, matches, classes, count)
        for count in (1, 10, 100)
    }
    by_size = {}
    for size, area_range in _AREAS.items():
        matches = matcher.match(IOU_THRESHOLDS, area_range)
        by_size[f"AP{size}"] = precision_recall.precision_curves(matcher, matches, classes)
        recall[f"AR{size}"] = precision_recall.recalls(matcher, matches, classes, 100)
    by_threshold = {"AP50": precision[0], "AP75": precision[5]}
    values = {"AP": precision, **by_threshold, **by_size, **recall}
    return {name: _mean(values[name]) for name in METRICS}, precision


def _mean(values: np.ndarray) -> float:
    """Return the mean of the defined values, NaN without any."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan


def _read_list(path: str | os.PathLike) -> list:
    try:
        with open(path, encoding="utf-8-sig") as file:
            items = json.load(file)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(items, list):
        raise DataError(f"{path}: must hold a list of detections")
    return items
