"""Detections of a process in which TensorFlow must not be imported."""

import json
import pathlib
import subprocess
import sys

import numpy as np

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
# Fails where a detection imports TensorFlow, and prints the detections of the command line's image.
DETECT = """
import json, sys
import efficientdet_tf.cli.predict, efficientdet_tf.inference.prediction
from efficientdet_tf.detector import Detector
load = Detector.from_server if sys.argv[1].startswith("http") else Detector.load
[found] = load(sys.argv[1]).augmented(sys.argv[3:]).detect(sys.argv[2])
assert not {"tensorflow", "tf_keras"} & set(sys.modules)
print(json.dumps([found.boxes.tolist(), found.scores.tolist(), found.class_indices.tolist()]))
"""


def detections(*arguments: object) -> list[np.ndarray]:
    """Detect in a process: path or address of the model, path of the image, names of views."""
    done = subprocess.run(
        [sys.executable, "-c", DETECT, *map(str, arguments)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    )
    return [np.array(values) for values in json.loads(done.stdout)]
