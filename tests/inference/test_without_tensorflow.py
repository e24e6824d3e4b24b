"""Detection in exported files does not import TensorFlow."""

import numpy as np
import pytest
from without_tensorflow import detections

from efficientdet_tf.detector import Detector


@pytest.mark.parametrize("file", ["model.tflite", "model_raw.tflite", "model.onnx"])
def test_files_need_none(exported, photograph, file):
    boxes, scores, class_indices = detections(exported / file, photograph)
    [expected] = Detector.load(exported / file).detect(photograph)
    assert len(scores) == len(expected) > 20
    np.testing.assert_array_equal(boxes, expected.boxes)
    np.testing.assert_array_equal(scores, expected.scores)
    np.testing.assert_array_equal(class_indices, expected.class_indices)


def test_views_need_none(exported, photograph):
    path = exported / "model.tflite"
    boxes, _, _ = detections(path, photograph, "flip", "scale")
    [expected] = Detector.load(path).augmented(["flip", "scale"]).detect(photograph)
    np.testing.assert_array_equal(boxes, expected.boxes)
