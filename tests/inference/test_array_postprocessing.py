"""Postprocessing without TensorFlow gives the detections of the graphs."""

import numpy as np
import pytest
from raw_outputs import CONFIG, detections, random_outputs

from efficientdet_tf.config.sections import DetectionConfig
from efficientdet_tf.inference import array_postprocessing
from efficientdet_tf.inference.array_postprocessing import ArrayPostprocessing, suppress
from keras_layers.box_coder import LARGEST_SIZE_DELTA


def assert_those_of_the_graph(config, deltas, logits):
    found = ArrayPostprocessing(config)({"class_logits": logits, "box_deltas": deltas})
    expected = detections(config, deltas, logits)
    [count] = found["num_detections"]
    assert {name: (value.shape, value.dtype) for name, value in found.items()} == {
        "boxes": ((1, count, 4), np.float32),
        "scores": ((1, count), np.float32),
        "classes": ((1, count), np.int32),
        "num_detections": ((1,), np.int32),
    }
    assert count == expected["num_detections"][0]
    np.testing.assert_array_equal(found["classes"], expected["classes"][:, :count])
    np.testing.assert_allclose(found["scores"], expected["scores"][:, :count], atol=1e-6)
    boxes = expected["boxes"][:, :count]
    np.testing.assert_allclose(found["boxes"], boxes, rtol=1e-5, atol=1e-3)
    return count


@pytest.mark.parametrize("method", ["hard", "gaussian"])
@pytest.mark.parametrize("scope", ["per_class", "global"])
@pytest.mark.parametrize("top_k", [5000, 300, 0])
@pytest.mark.parametrize("mean", [-4, -1])
def test_detections_are_those_of_the_graph(method, scope, top_k, mean):
    config = CONFIG.override(
        {
            "detection.nms": method,
            "detection.nms_scope": scope,
            "detection.pre_nms_top_k": top_k,
        }
    )
    assert assert_those_of_the_graph(config, *random_outputs(1, mean)) == 30


@pytest.mark.parametrize(
    "settings",
    [
        {"detection.iou_threshold": 0.2, "detection.score_threshold": 0.5},
        {"detection.max_detections": 2000, "detection.score_threshold": 0.5},
        {"detection.max_detections": 2},
        {"detection.nms": "gaussian", "detection.sigma": 0.0},
        # It is unused, although many boxes overlap by more.
        {"detection.nms": "gaussian", "detection.iou_threshold": 0.1},
        {"detection.nms": "gaussian", "detection.sigma": 0.1, "detection.score_threshold": 0.1},
        {"detection.score_threshold": 0.0},
        {"detection.pre_nms_top_k": 2, "detection.iou_threshold": 1.0},
    ],
)
def test_all_settings_have_their_effect(settings):
    config = CONFIG.override(settings)
    count = assert_those_of_the_graph(config, *random_outputs(1, -1))
    assert 0 < count <= config.detection.max_detections


@pytest.mark.parametrize("top_k", [5000, 0])
@pytest.mark.parametrize("threshold", [0.9999, 1.0])
def test_nothing_above_the_threshold_gives_nothing(top_k, threshold):
    settings = {"detection.score_threshold": threshold, "detection.pre_nms_top_k": top_k}
    deltas, logits = random_outputs(1, -4)
    assert assert_those_of_the_graph(CONFIG.override(settings), deltas, logits) == 0


@pytest.mark.filterwarnings("error")
def test_extreme_logits_are_no_warning():
    deltas, logits = random_outputs(1, -4)
    logits[0, :2] = [[200, -200, 0], [-200, 200, -200]]
    config = CONFIG.override({"detection.score_threshold": 0.0})
    assert_those_of_the_graph(config, deltas, logits)


def test_boxes_that_all_overlap_leave_no_best_ones_out():
    """Of the best candidates only one is kept, so that more are looked at."""
    settings = DetectionConfig(nms="hard", max_detections=2)
    boxes = np.tile(np.float32([0, 0, 10, 10]), (500, 1))
    boxes[[317, 499]] += 100
    scores = np.linspace(0.9, 0.1, 500, dtype=np.float32)
    kept, kept_scores = suppress(boxes, scores, np.zeros(500, np.int32), settings)
    assert kept.tolist() == [0, 317]
    np.testing.assert_array_equal(kept_scores, scores[kept])


def test_empty_boxes_and_no_boxes():
    settings = DetectionConfig(nms="hard")
    boxes, scores = np.zeros((3, 4), np.float32), np.float32([0.5, 0.9, 0.7])
    kept, _ = suppress(boxes, scores, np.zeros(3, np.int32), settings)
    assert kept.tolist() == [1, 2, 0]
    kept, scores = suppress(boxes[:0], scores[:0], np.zeros(0, np.int32), settings)
    assert kept.shape == scores.shape == (0,)


def test_sizes_have_the_limit_of_the_graph():
    assert np.float32(LARGEST_SIZE_DELTA) == array_postprocessing._LARGEST_SIZE_DELTA
