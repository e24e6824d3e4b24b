"""COCO metrics on cases small enough to work out by hand."""

import contextlib
import io
import json
import math

import numpy as np
import pytest

from benchmarks.coco_reference import differences, random_case
from efficientdet_tf.boxes import areas, to_xywh
from efficientdet_tf.data.records import DataError, DetectionData, LabelMap, Record
from efficientdet_tf.evaluation.coco import CocoEvaluator
from efficientdet_tf.evaluation.result import METRICS

# Ids with gaps, and not in order.
LABELS = LabelMap((90, 3, 7), ("toothbrush", "car", "ghost"))


def record(image_id, boxes, classes, crowd=None, area=None, ignored=None):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Record(
        image_id=image_id,
        image="unread.jpg",
        height=200,
        width=300,
        boxes=boxes,
        classes=np.array(classes, np.int32),
        is_crowd=np.array(crowd if crowd else [False] * len(boxes), bool),
        area=np.array(area if area else areas(boxes), np.float32),
        is_ignored=np.array(ignored if ignored else [False] * len(boxes), bool),
    )


def evaluator(*records):
    return CocoEvaluator(DetectionData(records, LABELS, source="toy.json"))


def test_perfect_detections_are_perfect():
    boxes = [[0, 0, 20, 20], [50, 50, 110, 110], [0, 100, 150, 290]]
    judge = evaluator(record(5, boxes, [0, 1, 1]), record(9, [], []))
    judge.add(5, np.array(boxes), np.array([0.9, 0.8, 0.7]), np.array([0, 1, 1]))
    result = judge.result()
    assert tuple(result.metrics) == METRICS
    # AR1: of the two cars one may be reported, of the toothbrush all.
    expected = dict.fromkeys(METRICS, 1.0) | {"AR1": 0.75}
    assert result.metrics == pytest.approx(expected)
    assert result.num_images == 2


def test_a_shifted_box_counts_at_the_thresholds_it_reaches():
    judge = evaluator(record(1, [[0, 0, 40, 40]], [1]))
    # Shifted by 9 of 40 rows: IoU 31 / 49 = 0.63, above 0.50, 0.55 and 0.60.
    judge.add(1, [[9, 0, 49, 40]], [0.5], [1])
    metrics = judge.result().metrics
    assert metrics["AP"] == pytest.approx(0.3)
    assert metrics["AP50"] == pytest.approx(1.0)
    assert metrics["AP75"] == 0.0
    assert metrics["AR100"] == pytest.approx(0.3)


def test_recall_of_one_half_is_half_the_curve():
    judge = evaluator(record(1, [[0, 0, 40, 40], [100, 100, 140, 140]], [1, 1]))
    judge.add(1, [[0, 0, 40, 40]], [0.5], [1])
    metrics = judge.result().metrics
    # Precision is 1 at the recalls 0.00 to 0.50 and 0 at the other fifty.
    assert metrics["AP"] == pytest.approx(51 / 101)
    assert metrics["AR100"] == pytest.approx(0.5)


def test_a_false_positive_of_higher_score_halves_precision():
    judge = evaluator(record(1, [[0, 0, 40, 40]], [1]))
    judge.add(1, [[100, 100, 140, 140], [0, 0, 40, 40]], [0.9, 0.5], [1, 1])
    assert judge.result().metrics["AP50"] == pytest.approx(0.5)


def test_a_box_of_another_class_does_not_match():
    judge = evaluator(record(1, [[0, 0, 40, 40]], [1]))
    judge.add(1, [[0, 0, 40, 40]], [0.9], [0])
    assert judge.result().metrics["AP50"] == 0.0


# Counted as false positives, they leave a precision of 1/3 up to a recall of one half.
@pytest.mark.parametrize(("crowd", "ap50"), [(True, 1.0), (False, 51 / 101 / 3)])
def test_detections_inside_a_crowd_are_no_false_positives(crowd, ap50):
    boxes = [[0, 0, 40, 40], [100, 100, 180, 280]]
    judge = evaluator(record(1, boxes, [1, 1], crowd=[False, crowd]))
    inside = [[110, 110, 140, 140], [120, 200, 150, 230]]
    # The first object is detected below two boxes inside the second.
    judge.add(1, [*inside, boxes[0]], [0.9, 0.8, 0.7], [1, 1, 1])
    result = judge.result()
    assert result.metrics["AP50"] == pytest.approx(ap50)
    assert result.per_class[1].objects == (1 if crowd else 2)


HERE, THERE = [0, 0, 40, 40], [100, 100, 140, 140]


def ap50_beside(class_index, *boxes, objects=(HERE, THERE), classes=(1, 1), **fields):
    """Return AP50 of cars, the first detected below higher-scoring detections of a class."""
    judge = evaluator(record(1, list(objects), list(classes), **fields))
    judge.add(
        1,
        [*boxes, HERE],
        [*(0.9 - 0.01 * np.arange(len(boxes))), 0.5],
        [class_index] * len(boxes) + [1],
    )
    result = judge.result()
    return result.per_class[1].ap50, result.per_class[1].objects


def test_detections_of_an_ignored_object_are_no_false_positives():
    """Any number of them, as in Pascal VOC's benchmark."""
    ignored = [False, True]
    assert ap50_beside(1, THERE, ignored=ignored) == pytest.approx((1.0, 1))
    assert ap50_beside(1, THERE, THERE, THERE, ignored=ignored) == pytest.approx((1.0, 1))
    # Counted, two of three are false positives, below one true positive of two objects.
    ap50, objects = ap50_beside(1, THERE, THERE, THERE)
    # Precision 1 at the recalls up to 0.5, then 2 of 4.
    assert (ap50, objects) == pytest.approx(((51 + 50 / 2) / 101, 2))


def test_a_small_detection_inside_an_ignored_object_is_a_false_positive():
    """Only crowd regions are matched by the share of the detection inside."""
    inside = [110, 110, 120, 120]
    assert ap50_beside(1, inside, ignored=[False, True])[0] == pytest.approx(0.5)
    assert ap50_beside(1, inside, crowd=[False, True])[0] == pytest.approx(1.0)


def test_an_ignored_object_is_matched_at_each_iou_threshold():
    judge = evaluator(record(1, [HERE, THERE], [1, 1], ignored=[False, True]))
    # Shifted by 9 of 40 rows: IoU 31 / 49 = 0.63, above 0.50, 0.55 and 0.60.
    judge.add(1, [[109, 100, 149, 140], HERE], [0.9, 0.5], [1, 1])
    assert judge.result().metrics["AP"] == pytest.approx((3 * 1 + 7 * 0.5) / 10)


def test_an_ignored_object_of_a_class_matches_that_class_only():
    toothbrush = dict(classes=(1, 0), ignored=[False, True])
    assert ap50_beside(1, THERE, **toothbrush)[0] == pytest.approx(0.5)


@pytest.mark.parametrize("crowd", [False, True])
def test_an_ignored_object_of_no_class_matches_all_classes(crowd):
    judge = evaluator(
        record(1, [HERE, THERE], [1, -1], crowd=[False, crowd], ignored=[False, True]),
        record(2, [HERE], [0]),
    )
    for class_index in range(3):
        judge.add(1, [THERE, THERE], [0.9, 0.8], [class_index] * 2)
    judge.add(1, [HERE], [0.5], [1])
    judge.add(2, [HERE], [0.5], [0])
    toothbrush, car, ghost = judge.result().per_class
    assert (toothbrush.ap50, car.ap50) == pytest.approx((1.0, 1.0))
    # It makes no objects of a class that has none.
    assert [item.objects for item in (toothbrush, car, ghost)] == [1, 1, 0]
    assert math.isnan(ghost.ap50)


def test_a_counted_object_is_matched_before_an_ignored_one():
    # IoU 0.5 with the object, 1 with the ignored one.
    judge = evaluator(record(1, [HERE, [0, 0, 40, 80]], [1, 1], ignored=[False, True]))
    judge.add(1, [[0, 0, 40, 80]], [0.9], [1])
    assert judge.result().metrics["AP50"] == pytest.approx(1.0)


def test_only_ignored_objects_are_no_objects():
    judge = evaluator(record(1, [HERE], [1], ignored=[True]))
    judge.add(1, [HERE], [0.9], [1])
    assert all(math.isnan(value) for value in judge.result().metrics.values())


def test_size_follows_the_area_of_the_record():
    # A thin object whose mask is small although its box is not.
    judge = evaluator(record(1, [[0, 0, 100, 100]], [1], area=[500.0]))
    judge.add(1, [[0, 0, 100, 100]], [0.5], [1])
    metrics = judge.result().metrics
    assert metrics["APs"] == pytest.approx(1.0)
    assert math.isnan(metrics["APm"]) and math.isnan(metrics["APl"])


def test_classes_come_by_index_with_their_own_ids():
    judge = evaluator(record(1, [[0, 0, 40, 40], [50, 50, 90, 90]], [0, 1]))
    judge.add(1, [[0, 0, 40, 40], [59, 50, 99, 90]], [0.9, 0.8], [0, 1])
    toothbrush, car, ghost = judge.result().per_class
    assert (toothbrush.id, toothbrush.name, toothbrush.objects) == (90, "toothbrush", 1)
    assert (toothbrush.ap, toothbrush.ap50) == pytest.approx((1.0, 1.0))
    assert (car.id, car.ap, car.ap50) == pytest.approx((3, 0.3, 1.0))
    assert ghost.objects == 0 and math.isnan(ghost.ap) and math.isnan(ghost.ap50)


def test_no_detections_are_zero_and_classes_without_objects_a_dash(capsys):
    judge = evaluator(record(1, [[0, 0, 40, 40]], [1]))
    result = judge.result()
    assert result.metrics["AP"] == 0.0 and result.metrics["AR100"] == 0.0
    rows = result.table().splitlines()
    assert rows[0] == "1 images"
    assert rows[1].split()[:2] == ["AP", "0.000"]
    assert rows[4].split()[:2] == ["APs", "-"]
    assert [row.split() for row in rows[-3:]] == [
        ["90", "toothbrush", "0", "-", "-"],
        ["3", "car", "1", "0.000", "0.000"],
        ["7", "ghost", "0", "-", "-"],
    ]
    assert capsys.readouterr().out == ""


def test_a_data_set_without_objects_has_no_metrics():
    judge = evaluator(record(1, [], []))
    judge.add(1, [[0, 0, 40, 40]], [0.5], [1])
    result = judge.result()
    assert all(math.isnan(value) for value in result.metrics.values())
    assert np.isnan(result.precision).all()


def test_json_has_null_for_what_is_undefined():
    judge = evaluator(record(1, [[0, 0, 40, 40]], [1]))
    judge.add(1, [[0, 0, 40, 40]], [0.5], [1])
    values = json.loads(judge.result().to_json())
    assert list(values["metrics"]) == list(METRICS)
    assert values["metrics"]["AP50"] == pytest.approx(1.0)
    assert values["metrics"]["APs"] is None
    assert values["images"] == 1
    assert values["per_class"][2] == {
        "id": 7,
        "name": "ghost",
        "objects": 0,
        "ap": None,
        "ap50": None,
    }


def test_the_precision_curve_agrees_with_ap():
    judge = evaluator(record(1, [[0, 0, 40, 40], [100, 100, 140, 140]], [1, 1]))
    judge.add(1, [[0, 0, 40, 40]], [0.5], [1])
    result = judge.result()
    assert result.precision.shape == (10, 101, 3)
    np.testing.assert_allclose(result.iou_thresholds, np.arange(0.5, 1.0, 0.05))
    np.testing.assert_allclose(result.precision[0, :, 1], result.recalls <= 0.5)


def random_scene(seed):
    """Make a COCO annotation dict, its records, and noisy detections of them."""
    random = np.random.default_rng(seed)
    records, results = [], []
    for image_id in (3, 14, 15, 92):
        corners = random.uniform(0, 150, (6, 2))
        boxes = np.concatenate([corners, corners + random.uniform(5, 110, (6, 2))], axis=1)
        crowd = [False] * 5 + [True]
        records.append(record(image_id, boxes, random.integers(0, 2, 6), crowd))
        for box in records[-1].boxes.repeat(4, axis=0):
            ymin, xmin, ymax, xmax = (box + random.normal(0, 6, 4)).tolist()
            results.append(
                {
                    "image_id": image_id,
                    "category_id": LABELS.ids[random.integers(0, 3)],
                    "bbox": [xmin, ymin, max(xmax - xmin, 1), max(ymax - ymin, 1)],
                    "score": random.uniform(),
                }
            )
    annotations = []
    for item in records:
        for box, index, crowd, area in zip(item.boxes, item.classes, item.is_crowd, item.area):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": item.image_id,
                    "category_id": LABELS.ids[index],
                    "bbox": to_xywh(box).tolist(),
                    "area": float(area),
                    "iscrowd": int(crowd),
                }
            )
    truth = {
        "images": [{"id": item.image_id} for item in records],
        "categories": [{"id": i, "name": n} for i, n in zip(LABELS.ids, LABELS.names)],
        "annotations": annotations,
    }
    return truth, records, results


@pytest.mark.parametrize("seed", [0, 1])
def test_files_give_the_numbers_pycocotools_gives_by_itself(tmp_path, seed):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, records, results = random_scene(seed)
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "truth.json"))
        reference = COCOeval(coco, coco.loadRes(str(tmp_path / "results.json")), "bbox")
        reference.evaluate()
        reference.accumulate()
        reference.summarize()
    judge = evaluator(*records)
    judge.add_results(tmp_path / "results.json")
    found = np.array(list(judge.result().metrics.values()))
    assert 0.01 < found[0] < 0.99
    # pycocotools gives -1 for undefined metrics.
    np.testing.assert_allclose(np.nan_to_num(found, nan=-1), reference.stats, atol=1e-12)


def test_random_cases_give_the_numbers_of_pycocotools_to_the_last_digit():
    """`benchmarks.coco_metrics --random_cases` has 10,000 of them."""
    random = np.random.default_rng(1)
    cases = [random_case(random) for _ in range(200)]
    assert [differences(*case) for case in cases] == [[]] * len(cases)
    # They have everything that makes a difference.
    records = [record for data, _ in cases for record in data.records]
    assert any(item.is_crowd.any() for item in records)
    assert any((item.is_ignored & (item.classes < 0)).any() for item in records)
    assert any(len(item.boxes) == 0 for item in records)
    assert any(len(found) == 0 for _, found in cases)
    assert any(
        np.unique(found.class_indices[found.image_ids == item.image_id], return_counts=True)[1].max(
            initial=0
        )
        > 100
        for data, found in cases
        for item in data.records
    )


def test_detections_round_trip_through_the_results_format(tmp_path):
    _, records, results = random_scene(2)
    (tmp_path / "results.json").write_text(json.dumps(results))
    judge = evaluator(*records)
    judge.add_results(tmp_path / "results.json")
    for found, given in zip(judge.detections(), results, strict=True):
        assert found["bbox"] == pytest.approx(given["bbox"])
        assert {**found, "bbox": None} == {**given, "bbox": None}


def test_the_results_file_holds_the_detections(tmp_path, monkeypatch):
    monkeypatch.setattr("efficientdet_tf.evaluation.detection_arrays._WRITTEN_AT_ONCE", 7)
    _, records, results = random_scene(3)
    (tmp_path / "results.json").write_text(json.dumps(results))
    judge = evaluator(*records)
    judge.write_results(tmp_path / "none.json")
    assert (tmp_path / "none.json").read_text() == "[]"
    judge.add_results(tmp_path / "results.json")
    judge.write_results(tmp_path / "written.json")
    assert (tmp_path / "written.json").read_text() == json.dumps(judge.detections())


def test_added_arrays_may_be_reused():
    judge = evaluator(record(1, [[0, 0, 40, 40]], [1]))
    boxes, scores, classes = np.array([[0, 0, 40.0, 40]]), np.array([0.5]), np.array([1])
    judge.add(1, boxes, scores, classes)
    for array in (boxes, scores, classes):
        array[:] = 0
    assert judge.result().metrics["AP50"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8, [[0, 0, 1, 1]], [0.5], [0]), "detections: image_id 8 is not in toy.json"),
        (
            (1, [[0, 0, 1, 1]], [0.5, 0.4], [0]),
            "detections of image 1: 1 boxes, 2 scores and 1 classes",
        ),
        (
            (1, [[0, 0, 1, 1]], [0.5], [3]),
            "detections of image 1: a class index is not in 0..2",
        ),
        (
            (1, [[0, 0, 1, 1]], [0.5], [-1]),
            "detections of image 1: a class index is not in 0..2",
        ),
    ],
)
def test_detections_that_do_not_fit_are_refused(arguments, message):
    judge = evaluator(record(1, [[0, 0, 40, 40]], [1]))
    with pytest.raises(DataError) as error:
        judge.add(*arguments)
    assert str(error.value) == message


GOOD = {"image_id": 1, "category_id": 3, "bbox": [0, 0, 40, 40], "score": 0.5}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps({"a": 1}), "must hold a list of detections"),
        (json.dumps([GOOD, {**GOOD, "image_id": 4}]), "entry 1: image_id 4 is not in toy.json"),
        (json.dumps([{**GOOD, "category_id": 1}]), "entry 0: category_id 1 is not in toy.json"),
        (
            json.dumps([{**GOOD, "score": float("nan")}]),
            "entry 0: needs image_id, category_id, bbox [x, y, width, height] and score",
        ),
        (json.dumps([{"image_id": 1}]), "entry 0: has no 'bbox'"),
        (
            json.dumps([{**GOOD, "bbox": [0, 0, 40]}]),
            "entry 0: needs image_id, category_id, bbox [x, y, width, height] and score",
        ),
        (
            json.dumps([7]),
            "entry 0: needs image_id, category_id, bbox [x, y, width, height] and score",
        ),
        (
            json.dumps([{**GOOD, "image_id": [1]}]),
            "entry 0: needs image_id, category_id, bbox [x, y, width, height] and score",
        ),
        (
            json.dumps([{**GOOD, "image_id": 1e400}]),
            "entry 0: needs image_id, category_id, bbox [x, y, width, height] and score",
        ),
        (
            json.dumps([{**GOOD, "score": 10**400}]),
            "entry 0: needs image_id, category_id, bbox [x, y, width, height] and score",
        ),
        ("[" * 100_000, "not valid JSON: maximum recursion depth exceeded"),
        ("[{", "not valid JSON: Expecting property name enclosed in double quotes"),
    ],
)
def test_a_bad_results_file_is_named(tmp_path, content, message):
    path = tmp_path / "results.json"
    path.write_text(content)
    with pytest.raises(DataError) as error:
        evaluator(record(1, [[0, 0, 40, 40]], [1])).add_results(path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_a_missing_results_file_is_named(tmp_path):
    with pytest.raises(DataError) as error:
        evaluator().add_results(tmp_path / "none.json")
    assert str(error.value) == f"{tmp_path / 'none.json'}: No such file or directory"


def test_two_images_of_one_id_are_refused():
    with pytest.raises(DataError) as error:
        evaluator(record(1, [], []), record(1, [], []))
    assert str(error.value) == "toy.json: two images have the same id"
