"""Random cases for COCO metrics, and pycocotools' numbers for them."""

import contextlib
import io

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from efficientdet_tf.boxes import areas, to_xywh
from efficientdet_tf.data.records import DetectionData, LabelMap, Record
from efficientdet_tf.evaluation.coco import CocoEvaluator
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays

# Boxes have corners on a grid, so that IoUs are equal or exactly at a threshold.
_GRID = 8
# Areas around the limits of COCO's sizes.
_LIMITS = tuple(
    value
    for limit in (np.float32(32**2), np.float32(96**2))
    for value in (np.nextafter(limit, np.float32(0)), limit, np.nextafter(limit, np.float32(1e9)))
)


class _WithIgnoredObjects(COCOeval):
    """pycocotools, except that ignored objects are matched by IoU.

    "iscrowd" of an annotation stands for being matched any number of times without being counted;
    "is_region" for COCO's crowd regions, which are matched by the share of a detection inside.
    """

    def computeIoU(self, imgId: int, catId: int):  # noqa: N802, N803
        annotations = self._gts[imgId, catId]
        excused = [annotation["iscrowd"] for annotation in annotations]
        for annotation in annotations:
            annotation["iscrowd"] = annotation["is_region"]
        ious = super().computeIoU(imgId, catId)
        for annotation, is_excused in zip(annotations, excused):
            annotation["iscrowd"] = is_excused
        return ious


def reference(data: DetectionData, detections: DetectionArrays) -> COCOeval:
    """Evaluate detections by pycocotools, from dicts.

    Returns:
      Its evaluation, with `stats`, and `eval` with categories by ascending id.
    """
    truth, found = COCO(), COCO()
    shared = {
        "images": [{"id": record.image_id} for record in data.records],
        "categories": [{"id": id_} for id_ in data.label_map.ids],
    }
    truth.dataset = {**shared, "annotations": _annotations(data)}
    results = detections.coco_results(data.label_map)
    for number, result in enumerate(results, 1):
        result |= {"id": number, "area": result["bbox"][2] * result["bbox"][3]}
    found.dataset = {**shared, "annotations": results}
    # pycocotools always prints its progress to stdout.
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found.createIndex()
        evaluation = _WithIgnoredObjects(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def _annotations(data: DetectionData) -> list[dict]:
    annotations: list[dict] = []
    for record in data.records:
        columns = to_xywh(record.boxes), record.classes, record.area, record.is_crowd
        for box, index, area, is_crowd, is_counted in zip(*columns, record.is_counted):
            # Detections of every class match an object of unknown category.
            for id_ in [data.label_map.ids[index]] if index >= 0 else data.label_map.ids:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": record.image_id,
                        "category_id": id_,
                        "bbox": box.tolist(),
                        "area": float(area),
                        "iscrowd": int(not is_counted),
                        "is_region": int(is_crowd),
                    }
                )
    return annotations


def random_case(random: np.random.Generator) -> tuple[DetectionData, DetectionArrays]:
    """Make a data set and detections.

    Numbers of images, classes, objects and detections are random and may be 0; there are crowd
    regions, ignored objects, equal scores and IoUs, areas at the limits of sizes, and sometimes
    more than a hundred detections of a class in an image.
    """
    num_classes = int(random.integers(1, 5))
    ids = random.choice(50, num_classes, replace=False).tolist()
    image_ids = random.choice(100, int(random.integers(0, 6)), replace=False).tolist()
    records = [_random_record(random, image_id, num_classes) for image_id in image_ids]
    label_map = LabelMap(tuple(ids), tuple(map(str, ids)))
    parts = [_random_detections(random, record, num_classes) for record in records]
    found = DetectionArrays.joined(parts)
    return DetectionData(records, label_map), found.taken(random.permutation(len(found)))


def _random_record(random: np.random.Generator, image_id: int, num_classes: int) -> Record:
    count = int(random.integers(0, 8)) * int(random.random() < 0.8)
    boxes = _random_boxes(random, count)
    is_crowd, is_ignored = random.random((2, count)) < [[0.15], [0.15]]
    is_unknown = ~is_crowd & is_ignored & (random.random(count) < 0.3)
    is_limit = random.random(count) < 0.2
    return Record(
        image_id=image_id,
        image="",
        height=200,
        width=200,
        boxes=boxes,
        classes=np.where(is_unknown, -1, random.integers(0, num_classes, count)).astype(np.int32),
        is_crowd=is_crowd,
        is_ignored=is_ignored,
        area=np.where(is_limit, random.choice(_LIMITS, count), areas(boxes)).astype(np.float32),
    )


def _random_boxes(random: np.random.Generator, count: int) -> np.ndarray:
    corners = random.integers(0, 10, (count, 2))
    sides = random.integers(1, 14, (count, 2))
    return (_GRID * np.concatenate([corners, corners + sides], axis=1)).astype(np.float32)


def _random_detections(
    random: np.random.Generator, record: Record, num_classes: int
) -> DetectionArrays:
    """Make detections: boxes of objects, some of them moved on the grid, and random ones."""
    count = int(random.integers(0, 25)) if random.random() < 0.95 else int(random.integers(90, 260))
    boxes = _random_boxes(random, count)
    if len(record.boxes):
        moved = _GRID * random.choice([-1, 0, 0, 0, 1], (count, 4))
        copies = record.boxes[random.integers(0, len(record.boxes), count)] + moved
        copies[:, 2:] = np.maximum(copies[:, 2:], copies[:, :2] + _GRID)
        boxes = np.where(random.random((count, 1)) < 0.7, copies, boxes)
    # Few different scores in some images.
    scores = random.integers(0, random.choice([3, 1000]), count) / 1000
    return DetectionArrays(
        np.full(count, record.image_id, np.int64),
        boxes.astype(np.float64),
        scores,
        random.integers(0, num_classes, count).astype(np.int64),
    )


def differences(data: DetectionData, detections: DetectionArrays) -> list[str]:
    """Name the metrics, and "precision", that differ from pycocotools' in any digit."""
    evaluator = CocoEvaluator(data)
    for image_id in np.unique(detections.image_ids):
        some = detections.taken(detections.image_ids == image_id)
        evaluator.add(image_id, some.boxes, some.scores, some.class_indices)
    result, expected = evaluator.result(), reference(data, detections)
    # pycocotools gives -1 for undefined metrics.
    names = [
        name
        for (name, value), number in zip(result.metrics.items(), expected.stats)
        if np.nan_to_num(value, nan=-1) != number
    ]
    by_id = np.argsort(data.label_map.ids)
    precision = np.nan_to_num(result.precision[:, :, by_id], nan=-1)
    same = np.array_equal(precision, expected.eval["precision"][..., 0, -1])
    return names if same else [*names, "precision"]
