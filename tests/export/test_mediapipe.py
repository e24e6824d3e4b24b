"""Exported files in MediaPipe's ObjectDetector, which reads TFLITE_METADATA."""

import importlib.util
import io
import json
import subprocess
import sys
import zipfile

import numpy as np
import PIL.Image
import pytest

from efficientdet_tf.detector import Detector

needs_mediapipe = pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None, reason="mediapipe is not installed"
)

# In a process of its own: it is another TFLite runtime than ours.
PROGRAM = """
import json, sys
import mediapipe
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision

pixels, results = np.load(sys.argv[1]), []
for path in sys.argv[2:]:
    options = vision.ObjectDetectorOptions(
        base_options=BaseOptions(model_asset_path=path), score_threshold=0.3, max_results=100)
    with vision.ObjectDetector.create_from_options(options) as detector:
        image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
        results.append([
            [category.score, category.category_name, found.bounding_box.origin_y,
             found.bounding_box.origin_x,
             found.bounding_box.origin_y + found.bounding_box.height,
             found.bounding_box.origin_x + found.bounding_box.width]
            for found in detector.detect(image).detections for category in found.categories])
print("results" + json.dumps(results))
"""
FILES = ["model.tflite", "model_float16.tflite", "model_int8.tflite", "model_raw.tflite"]


@pytest.fixture(scope="module")
def image(photograph) -> np.ndarray:
    """Photograph of the network's size: MediaPipe stretches what ours pads."""
    return np.asarray(PIL.Image.open(photograph).resize((160, 128)))


@pytest.fixture(scope="module")
def in_mediapipe(exported, image, tmp_path_factory):
    """Detections by file: (score, name, ymin, xmin, ymax, xmax), pixels."""
    path = tmp_path_factory.mktemp("image") / "image.npy"
    np.save(path, image)
    arguments = [str(exported / name) for name in FILES]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, path, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("results"))
    return dict(zip(FILES, json.loads(line.removeprefix("results"))))


@needs_mediapipe
@pytest.mark.parametrize("file", FILES)
def test_mediapipe_detects_what_the_detector_does(in_mediapipe, exported, image, file):
    detector = Detector.load(exported / file)
    expected = detector.detect([image])[0].above(0.3)
    names = np.array([detector.label_map.names[i] for i in expected.class_indices])
    agree = 0
    for score, name, *box in in_mediapipe[file]:
        # Theirs are of whole pixels, and may lie beyond the image: below and to the right, or
        # moved as a whole where they begin outside of it.
        inside = np.tile(np.greater(box[:2], 0), 2) | [True, True, False, False]
        difference = np.abs(expected.boxes - np.clip(box, 0, [128, 160, 128, 160]))
        same = (difference < 2.1).all(axis=1, where=inside) & (names == name)
        agree += (np.abs(expected.scores[same] - score) < 1e-3).any()
    if file == "model_raw.tflite":
        # MediaPipe's own NMS has one class for each anchor, and another threshold.
        assert agree >= len(expected) / 4
    else:
        assert len(in_mediapipe[file]) == len(expected)
        # Its kernels of int8 round otherwise.
        assert agree >= (0.97 if file == "model_int8.tflite" else 1) * len(expected)


@pytest.mark.parametrize("file", FILES)
def test_class_names_are_in_a_zip_archive(exported, file):
    content = (exported / file).read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.read("labels.txt").decode() == "ant\nbee\nKuh ä"
