"""Heat maps of false positives: which are explained, and that the report shows them."""

import dataclasses
import io

import numpy as np
import PIL.Image
import pytest
import tf_keras as keras

import tiny
from efficientdet_tf import model as model_lib
from efficientdet_tf.data.records import DetectionData, LabelMap, Record
from efficientdet_tf.evaluation.cached_evaluation import Measured
from efficientdet_tf.evaluation.confusion import confusion
from efficientdet_tf.evaluation.runner import Evaluation
from efficientdet_tf.evaluation.side_by_side import WRONG
from efficientdet_tf.report.false_positive_maps import (
    LEAST_SCORE,
    draw_false_positive,
    explain_false_positives,
)
from efficientdet_tf.report.page import write_report
from efficientdet_tf.run_directory import RunDirectory

LABELS = LabelMap((5, 6), ("cat", "dog"))
NOTE = "Third: where the network looked for the false positive with the highest score."


def record(number):
    png = io.BytesIO()
    random = np.random.default_rng(number)
    PIL.Image.fromarray(random.integers(0, 255, (60, 80, 3), np.uint8)).save(png, "PNG")
    return Record(
        image_id=number,
        image=png.getvalue(),
        height=60,
        width=80,
        boxes=np.array([[5, 5, 25, 35]], np.float32),
        classes=np.array([number % 2], np.int32),
        is_crowd=np.zeros(1, bool),
        area=np.array([600], np.float32),
        name=f"{number}.png",
    )


@pytest.fixture(scope="module")
def evaluated():
    """Config, untrained network, data, and detections of the network in two images."""
    config = tiny.config(**{"model.num_classes": 2, "data.train": "digits", "data.val": "digits"})
    keras.utils.set_random_seed(0)
    model = model_lib.build(config)
    [bias] = [x for x in model.weights if x.name == "class_head/predict/bias:0"]
    # From scores of about 0.01 to some above 0.05.
    bias.assign(bias + 3.0)
    data = DetectionData([record(0), record(1)], LABELS, source="made")
    return config, model, data, Evaluation(model, data, config).detect()


def test_the_false_positive_with_the_highest_score_is_explained(evaluated):
    config, model, data, evaluator = evaluated
    outcomes = list(confusion(data, evaluator.arrays(), score_threshold=0.0).outcomes)
    # The first image as it is; the second without false positives, and unreadable.
    none = {name: getattr(outcomes[1], name)[:0] for name in ("boxes", "scores", "classes")}
    none |= {name: getattr(outcomes[1], name)[:0] for name in ("matched_object", "is_ignored")}
    gone = dataclasses.replace(outcomes[1].record, image="gone.png")
    outcomes[1] = dataclasses.replace(outcomes[1], **none)
    outcomes.append(dataclasses.replace(outcomes[0], record=gone))
    found = explain_false_positives(model, config, LABELS, outcomes)
    assert list(found) == [0]
    best = np.flatnonzero(~outcomes[0].is_true_positive)[0]
    np.testing.assert_allclose(found[0].box, outcomes[0].boxes[best], atol=1e-2)
    assert found[0].class_index == outcomes[0].classes[best]
    assert found[0].score == pytest.approx(outcomes[0].scores[best], abs=1e-5)
    # Too unlikely to be explained.
    low = dataclasses.replace(outcomes[0], scores=outcomes[0].scores * 0 + LEAST_SCORE - 1e-4)
    assert explain_false_positives(model, config, LABELS, [low]) == {}
    # Detections of another network are not found again.
    elsewhere = dataclasses.replace(outcomes[0], boxes=outcomes[0].boxes + 40)
    assert explain_false_positives(model, config, LABELS, [elsewhere]) == {}


def test_its_box_is_drawn_as_an_error(evaluated):
    config, model, data, evaluator = evaluated
    outcomes = confusion(data, evaluator.arrays(), score_threshold=0.0).outcomes
    explanation = explain_false_positives(model, config, LABELS, outcomes[:1])[0]
    explanation = dataclasses.replace(explanation, box=np.array([30, 10, 50, 70], np.float32))
    for longest_side, scale in ((100, 1), (40, 2)):
        drawn = draw_false_positive(data.records[0], explanation, LABELS, longest_side)
        assert drawn.size == (80 // scale, 60 // scale)
        assert drawn.getpixel((40 // scale, 50 // scale)) == WRONG


def test_the_report_shows_heat_maps_if_there_is_a_network(evaluated, tmp_path):
    config, model, data, evaluator = evaluated
    directory = RunDirectory(tmp_path)
    directory.create(config, LABELS)
    measured = Measured.from_evaluator(evaluator)
    for network, maps in ((model, 2), (None, 0)):
        text = write_report(directory, None, data, measured, network).read_text()
        assert text.count(", heat map") == maps
        assert text.count("pair three") == maps
        assert (NOTE in text) == (maps > 0)
