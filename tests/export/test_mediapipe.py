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
from efficientdet_tf.run_directory import RunDirectory
from export import formats

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


def run_mediapipe(image, paths, folder):
    """Detections by file: (score, name, ymin, xmin, ymax, xmax), pixels."""
    np.save(folder / "image.npy", image)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, folder / "image.npy", *paths],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("results"))
    return json.loads(line.removeprefix("results"))


@pytest.fixture(scope="module")
def in_mediapipe(exported, image, tmp_path_factory):
    paths = [exported / name for name in FILES]
    return dict(zip(FILES, run_mediapipe(image, paths, tmp_path_factory.mktemp("image"))))


@needs_mediapipe
@pytest.mark.parametrize("file", FILES)
def test_mediapipe_detects_what_the_detector_does(in_mediapipe, exported, image, file):
    expected, agree = agreement(exported / file, image, in_mediapipe[file], 1e-3)
    if file == "model_raw.tflite":
        # MediaPipe's own NMS has one class for each anchor, and another threshold.
        assert agree >= expected / 4
    else:
        assert len(in_mediapipe[file]) == expected
        # Its kernels of int8 round otherwise.
        assert agree >= (0.97 if file == "model_int8.tflite" else 1) * expected


def agreement(path, image, in_mediapipe, tolerance):
    """Count the Detector's detections, and those of MediaPipe that the Detector has as well."""
    detector = Detector.load(path)
    expected = detector.detect([image])[0].above(0.3)
    names = np.array([detector.label_map.names[i] for i in expected.class_indices])
    size, agree = np.tile(image.shape[:2], 2), 0
    for score, name, *box in in_mediapipe:
        # Theirs are of whole pixels, and may lie beyond the image: below and to the right, or
        # moved as a whole where they begin outside of it.
        inside = np.tile(np.greater(box[:2], 0), 2) | [True, True, False, False]
        difference = np.abs(expected.boxes - np.clip(box, 0, size))
        same = (difference < 2.1).all(axis=1, where=inside) & (names == name)
        agree += (np.abs(expected.scores[same] - score) < tolerance).any()
    return len(expected), agree


@needs_mediapipe
def test_a_model_of_stretched_images_agrees_on_images_of_any_shape(
    tiny_run, exported, photograph, tmp_path
):
    run = RunDirectory(tiny_run)
    config = run.config().override({"model.resize": "stretch"})
    exporter = formats.Exporter(run.load_model(), config, run.label_map(), tmp_path)
    paths = [exporter.write("tflite"), exported / "model.tflite"]
    # Smooth, as MediaPipe interpolates otherwise.
    image = PIL.Image.open(photograph).resize((80, 64)).resize((160, 256), PIL.Image.BICUBIC)
    image = np.asarray(image)
    found = run_mediapipe(image, paths, tmp_path)
    shares = [agreement(path, image, boxes, 0.1) for path, boxes in zip(paths, found)]
    stretched, padded = (agree / expected for expected, agree in shares)
    assert stretched > 0.5 and padded < 0.1
    assert b"160 pixels, RGB, stretched" in paths[0].read_bytes()


@pytest.mark.parametrize("file", FILES)
def test_class_names_are_in_a_zip_archive(exported, file):
    content = (exported / file).read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.namelist() == ["labels.txt"]
        assert archive.read("labels.txt").decode() == "ant\nbee\nKuh ä"
