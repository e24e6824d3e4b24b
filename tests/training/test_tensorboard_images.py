"""Images of validation predictions in TensorBoard."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.util import event_pb2

from efficientdet_tf.data import digits
from efficientdet_tf.evaluation.cached_evaluation import CachedEvaluation
from efficientdet_tf.evaluation.coco import CocoEvaluator
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays
from efficientdet_tf.evaluation.side_by_side import CORRECT, WRONG
from efficientdet_tf.training.tensorboard_images import TensorBoardImages, draw


@pytest.fixture(scope="module")
def data():
    return digits.load("val", num_images=20)


def found(data, score=0.9):
    """Return all objects as detections."""
    evaluator = CocoEvaluator(data)
    for record in data.records:
        scores = np.full(len(record.boxes), score)
        evaluator.add(record.image_id, record.boxes, scores, record.classes)
    return evaluator


def written_images(folder):
    """Return (step, tag, image) of each written image."""
    shown = []
    for path in sorted(folder.glob("events*")):
        for raw in tf.data.TFRecordDataset(str(path)):
            event = event_pb2.Event.FromString(raw.numpy())
            for value in event.summary.value:
                # Width, height, and the image.
                png = value.tensor.string_val[2]
                shown.append((event.step, value.tag, tf.io.decode_png(png).numpy()))
    return shown


def share_of(image, color):
    return np.all(np.asarray(image) == color, axis=-1).mean()


def test_an_image_for_each_evaluation_at_keras_step(data, tmp_path):
    evaluation = CachedEvaluation(lambda: found(data))
    callback = TensorBoardImages(evaluation, data, tmp_path)
    callback.on_epoch_end(0, {})
    evaluation.run()
    callback.on_epoch_end(1, {})
    # Not evaluated again, as with `training.eval_interval_epochs`.
    callback.on_epoch_end(2, {})
    callback.on_train_end()
    evaluation.run()
    callback.on_epoch_end(3, {})
    callback.on_train_end()
    shown = written_images(tmp_path / "validation")
    assert [(step, tag) for step, tag, _ in shown] == [(1, "detections"), (3, "detections")]
    first, second = (image for _, _, image in shown)
    assert np.array_equal(first, second) and share_of(first, CORRECT) > 0.01


def test_images_are_spread_over_the_data_set_and_have_objects(data, tmp_path):
    record = data.records[0]
    none = dict(boxes=record.boxes[:0], classes=record.classes[:0], area=record.area[:0])
    none |= dict.fromkeys(("is_crowd", "is_ignored", "is_difficult"), record.is_crowd[:0])
    empty = dataclasses.replace(record, image_id=10**6, **none)
    data = dataclasses.replace(data, records=[empty, *data.records])
    callback = TensorBoardImages(CachedEvaluation(lambda: found(data)), data, tmp_path)
    ids = [record.image_id for record in callback._data.records]
    expected = [data.records[1 + i].image_id for i in (0, 2, 5, 7, 10, 12, 15, 17)]
    assert ids == expected


def test_low_scores_are_not_drawn(data):
    sure, unsure = (draw(data, found(data, score).arrays()) for score in (0.31, 0.29))
    assert share_of(sure, CORRECT) > 0.01 and share_of(sure, WRONG) == 0
    assert share_of(unsure, CORRECT) == 0 and share_of(unsure, WRONG) > 0.005


def test_two_pairs_per_row_and_images_of_any_size_fit(data):
    three = dataclasses.replace(data, records=data.records[:3])
    sizes = [(record.width, record.height) for record in three.records]
    cell = 2 * max(width for width, _ in sizes) + 4, max(height for _, height in sizes)
    assert draw(three, DetectionArrays.joined([])).size == (2 * cell[0] + 12, 2 * cell[1] + 4)


def test_unreadable_images_are_skipped(data, tmp_path):
    broken = [dataclasses.replace(record, image=b"") for record in data.records]
    broken = dataclasses.replace(data, records=broken)
    assert draw(broken, DetectionArrays.joined([])) is None
    evaluation = CachedEvaluation(lambda: found(broken))
    evaluation.run()
    TensorBoardImages(evaluation, broken, tmp_path).on_epoch_end(0, {})
    assert not list(tmp_path.iterdir())
