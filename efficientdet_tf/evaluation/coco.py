"""COCO metrics by pycocotools, on records in memory."""

import json
import os

import numpy as np
from pycocotools.cocoeval import COCOeval

from efficientdet_tf.data.records import DataError, DetectionData
from efficientdet_tf.evaluation import category_evaluation
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays
from efficientdet_tf.evaluation.result import METRICS, ClassResult, EvaluationResult

# Indices in COCOeval's precision array: all object sizes, 100 detections per image.
_ALL_SIZES, _MOST_DETECTIONS = 0, -1


class CocoEvaluator:
    """Collects the detections of a data set, then computes their metrics.

    Examples:
      evaluator = CocoEvaluator(data)
      evaluator.add(17, boxes, scores, class_indices)
      print(evaluator.result().table())

    Args:
      data: images and ground truth. Crowd regions and ignored objects do not count
        as objects, nor their detections as false positives: see
        `category_evaluation`. `area` determines the object size.

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

    def add_results(self, path: str | os.PathLike) -> None:
        """Add all detections of a file in COCO's results format.

        Args:
          path: JSON file with a list of `image_id`, `category_id`, `bbox` (x, y,
            width, height in pixels) and `score`.

        Raises:
          DataError: for an invalid file; the message names the entry.
        """
        image_ids, boxes, scores, class_indices = [], [], [], []
        for number, item in enumerate(_read_list(path)):
            where = f"{path}: entry {number}"
            try:
                x, y, width, height = (float(value) for value in item["bbox"])
                category_id, image_id = int(item["category_id"]), int(item["image_id"])
                scores.append(float(item["score"]))
            except KeyError as error:
                raise DataError(f"{where}: has no {error.args[0]!r}") from error
            except (TypeError, ValueError, OverflowError) as error:
                raise DataError(
                    f"{where}: needs image_id, category_id, bbox [x, y, width, height] and score"
                ) from error
            if category_id not in self._index_of_id:
                raise DataError(f"{where}: category_id {category_id} is not in {self._source}")
            if image_id not in self._records:
                raise DataError(f"{where}: image_id {image_id} is not in {self._source}")
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
        evaluation = self._run_pycocotools()
        undefined_as_nan = np.where(evaluation.stats < 0, np.nan, evaluation.stats)
        precision = evaluation.eval["precision"][:, :, :, _ALL_SIZES, _MOST_DETECTIONS]
        # Reorder from ascending category id, as in pycocotools, to class indices.
        order = [evaluation.params.catIds.index(id_) for id_ in self._label_map.ids]
        precision = np.where(precision < 0, np.nan, precision)[:, :, order]
        return EvaluationResult(
            metrics=dict(zip(METRICS, undefined_as_nan.tolist())),
            per_class=self._per_class(precision),
            num_images=len(self._records),
            precision=precision,
            recalls=np.asarray(evaluation.params.recThrs),
            iou_thresholds=np.asarray(evaluation.params.iouThrs),
        )

    def _run_pycocotools(self) -> COCOeval:
        records = list(self._records.values())
        return category_evaluation.evaluate(records, self.arrays(), self._label_map)

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
