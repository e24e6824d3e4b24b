"""Detection in exported files does not import TensorFlow."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from efficientdet_tf.detector import Detector

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# Fails where a detection imports TensorFlow, and prints the detections of the command line's image.
DETECT = """
import json, sys
import efficientdet_tf.cli.predict, efficientdet_tf.inference.prediction
from efficientdet_tf.detector import Detector
[found] = Detector.load(sys.argv[1]).augmented(sys.argv[3:]).detect(sys.argv[2])
assert not {"tensorflow", "tf_keras"} & set(sys.modules)
print(json.dumps([found.boxes.tolist(), found.scores.tolist(), found.class_indices.tolist()]))
"""


def detections(*arguments) -> list[np.ndarray]:
    done = subprocess.run(
        [sys.executable, "-c", DETECT, *map(str, arguments)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    return [np.array(values) for values in json.loads(done.stdout)]


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
