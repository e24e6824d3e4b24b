"""Comparison of two detectors, and AP of resampled images."""

import dataclasses

import numpy as np
import pytest

from benchmarks.coco_reference import random_case
from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.evaluation import resampling
from efficientdet_tf.evaluation.coco import CocoEvaluator
from efficientdet_tf.evaluation.comparison import compare
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays
from efficientdet_tf.evaluation.matching import Matcher
from efficientdet_tf.evaluation.resampling import ResampledPrecision


def cases(count):
    """Random cases with images, of distinct scores."""
    random = np.random.default_rng(5)
    made = []
    while len(made) < count:
        data, found = random_case(random)
        scores = random.permutation(len(found)) / max(1, len(found))
        if data.records:
            made.append((data, dataclasses.replace(found, scores=scores)))
    return made


def ap_by_class(data, found):
    evaluator = CocoEvaluator(data)
    for image_id in np.unique(found.image_ids):
        some = found.taken(found.image_ids == image_id)
        evaluator.add(image_id, some.boxes, some.scores, some.class_indices)
    return [item.ap for item in evaluator.result().per_class]


def repeated(data, found, times):
    """Repeat images, with ids of their own."""
    records, parts = [], [found.taken(np.arange(0))]
    for record, count in zip(data.records, times):
        for copy in range(count):
            image_id = 100 * record.image_id + copy
            records.append(dataclasses.replace(record, image_id=image_id))
            some = found.taken(found.image_ids == record.image_id)
            parts.append(dataclasses.replace(some, image_ids=np.full(len(some), image_id)))
    return DetectionData(records, data.label_map), DetectionArrays.joined(parts)


def test_weights_of_images_are_the_same_as_copies_of_them(monkeypatch):
    # Some classes have more detections than this, and are computed row by row.
    monkeypatch.setattr(resampling, "_AT_ONCE", 10)
    random = np.random.default_rng(0)
    defined = 0
    for data, found in cases(60):
        times = random.integers(0, 4, (2, len(data.records)))
        ids = np.array([record.image_id for record in data.records])
        precision = ResampledPrecision(
            Matcher(data.records, found), np.sort(ids), len(data.label_map)
        )
        values = precision.average_precision(times[:, np.argsort(ids)]).mean(axis=1)
        expected = [ap_by_class(*repeated(data, found, row)) for row in times]
        np.testing.assert_allclose(values, expected, atol=1e-12)
        defined += (np.array(expected) > 0).sum()
    assert defined > 50


def case_of_many_images():
    """Thirty-odd images and two sets of detections, the second without every third."""
    random = np.random.default_rng(3)
    records, parts = [], []
    while len(records) < 30:
        data, found = random_case(random)
        for record in data.records:
            some = found.taken(found.image_ids == record.image_id)
            number = len(records) + 1
            records.append(dataclasses.replace(record, image_id=number, classes=record.classes * 0))
            parts.append(
                DetectionArrays(
                    np.full(len(some), number), some.boxes, some.scores, some.class_indices * 0
                )
            )
    label_map = dataclasses.replace(data.label_map, ids=(1,), names=("thing",))
    joined = DetectionArrays.joined(parts)
    joined = dataclasses.replace(joined, scores=random.permutation(len(joined)) / len(joined))
    return DetectionData(records, label_map), joined, joined.taken(np.arange(len(joined)) % 3 > 0)


def test_the_interval_is_that_of_resampled_images():
    data, first, second = case_of_many_images()
    result = compare(data, first, second, "b", resamples=40, seed=7)
    assert (result.against, result.resamples, result.seed) == ("b", 40, 7)
    assert result.num_images == len(data.records)
    values = [ap_by_class(data, found)[0] for found in (first, second)]
    ap = result.metrics["AP"]
    assert [ap.first, ap.second] == pytest.approx(values)
    assert result.classes["thing"] == ap
    count = len(data.records)
    drawn = [
        np.bincount(row, minlength=count)
        for row in np.random.default_rng(7).integers(0, count, (40, count))
    ]
    differences = [
        ap_by_class(*repeated(data, first, row))[0] - ap_by_class(*repeated(data, second, row))[0]
        for row in drawn
    ]
    assert [ap.low, ap.high] == pytest.approx(np.percentile(differences, [2.5, 97.5]))
    assert ap.low < ap.difference < ap.high


def test_equal_detections_do_not_differ():
    data, found, _ = case_of_many_images()
    result = compare(data, found, found, "itself", resamples=20)
    ap = result.metrics["AP"]
    assert (ap.difference, ap.low, ap.high, ap.is_clear) == (0, 0, 0, False)
    assert result.summary() == (
        f"AP {ap.first:.3f} against {ap.first:.3f} of itself: difference +0.000, 95 % interval "
        f"+0.000 to +0.000 (20 resamples of {len(data.records)} images, seed 0)"
    )


def test_fewer_than_ten_images_have_no_interval():
    """Resamples of a few images, or of the few with a class, differ too little."""
    data, first, second = case_of_many_images()
    is_rare = np.isin([record.image_id for record in data.records], [1, 2, 3])
    records = [
        dataclasses.replace(record, classes=record.classes + 1) if rare else record
        for record, rare in zip(data.records, is_rare)
    ]
    label_map = dataclasses.replace(data.label_map, ids=(1, 2), names=("thing", "rare"))
    result = compare(DetectionData(records, label_map), first, second, "b", resamples=20)
    assert result.metrics["AP"].has_interval and result.classes["thing"].has_interval
    rare = result.classes["rare"]
    assert not rare.has_interval and not rare.is_clear and rare.first == 0
    few = DetectionData(data.records[:9], data.label_map)
    some = [found.taken(found.image_ids <= 9) for found in (first, second)]
    result = compare(few, *some, "b", resamples=20)
    ap = result.metrics["AP"]
    assert ap.first > ap.second and not ap.is_clear
    assert result.summary() == (
        f"AP {ap.first:.3f} against {ap.second:.3f} of b: difference {ap.difference:+.3f}, no "
        "interval from fewer than 10 images with objects"
    )


@pytest.mark.parametrize("with_images", [False, True])
def test_without_objects_nothing_is_compared(with_images):
    data, found, _ = case_of_many_images()
    records = [
        dataclasses.replace(record, is_ignored=np.ones(len(record.boxes), bool))
        for record in data.records[: len(data.records) * with_images]
    ]
    some = found.taken(np.arange(len(found) * with_images))
    result = compare(DetectionData(records, data.label_map), some, some, "b", resamples=5)
    assert np.isnan([result.metrics["AP"].first, result.metrics["AP50"].low]).all()
    assert result.classes == {}
