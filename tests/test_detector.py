"""Detector: the same detections from a run, a SavedModel, and TFLite and ONNX files."""

import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest

from efficientdet_tf.data.image_files import ImageError, read_image
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.detector import (
    Detector,
    DetectorError,
    ModelError,
)
from efficientdet_tf.errors import UserError
from efficientdet_tf.inference.detections import Detections
from efficientdet_tf.inference.runtimes import ArtifactError

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]

ARTEFACTS = (
    *("saved_model", "model.tflite", "model_float16.tflite", "model_raw.tflite"),
    *("model.onnx", "model_raw.onnx"),
)


@pytest.fixture(scope="module")
def from_run(tiny_run):
    return Detector.load(tiny_run)


@pytest.fixture(scope="module", params=ARTEFACTS)
def from_artifact(request, exported):
    return Detector.load(exported / request.param)


def test_all_artifacts_agree(from_run, from_artifact, photograph):
    [ours], [theirs] = from_run.detect([photograph]), from_artifact.detect([photograph])
    ours, theirs = ours.above(0.3), theirs.above(0.3)
    assert len(ours) >= 5
    assert len(set(ours.class_indices)) > 1
    assert len(theirs) == len(ours)
    for box, score, index in zip(ours.boxes, ours.scores, ours.class_indices):
        same = (
            (np.abs(theirs.boxes - box).max(axis=1) < 1)
            & (np.abs(theirs.scores - score) < 0.01)
            & (theirs.class_indices == index)
        )
        assert same.any(), f"{box} {score} {index}"


def test_all_artifacts_know_the_classes(from_artifact):
    assert from_artifact.label_map == LabelMap((900, 3, 7), ("ant", "bee", "Kuh ä"))


def test_types_and_ranges(from_artifact, photograph):
    [found] = from_artifact.detect([photograph])
    assert found.boxes.dtype == found.scores.dtype == np.float32
    assert found.class_indices.dtype == np.int32
    assert found.boxes.shape == (len(found), 4)
    assert (found.boxes >= 0).all() and (found.boxes <= [427, 640, 427, 640]).all()
    assert (np.diff(found.scores) <= 0).all()


def test_takes_paths_bytes_and_arrays_in_batches(from_run, photograph):
    pixels = read_image(photograph)
    images = [str(photograph), photograph, photograph.read_bytes(), pixels, pixels[:50, :80]]
    found = from_run.detect(images, batch_size=2)
    for other in found[1:4]:
        np.testing.assert_allclose(other.boxes, found[0].boxes, atol=1e-3)
        np.testing.assert_allclose(other.scores, found[0].scores, atol=1e-5)
    assert found[4].boxes.max() <= 80
    assert from_run.detect([]) == []


def test_a_single_image_stands_for_a_list_of_one(from_run, photograph):
    [expected] = from_run.detect([photograph])
    pixels = read_image(photograph)
    for image in (photograph, str(photograph), photograph.read_bytes(), pixels):
        [found] = from_run.detect(image)
        np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
    # Arrays of four dimensions are batches of images.
    assert len(from_run.detect(pixels[None])) == 1


@pytest.mark.parametrize(
    "images", [None, 3, bytearray(b"x"), [None], [PIL.Image.new("RGB", (9, 9))]]
)
def test_invalid_images_are_one_line(from_run, images):
    with pytest.raises(UserError) as error:
        from_run.detect(images)
    [image] = images if isinstance(images, list) else [images]
    assert str(error.value).removeprefix("images: ") == (
        f"{type(image).__name__} is no image; use paths, bytes, or uint8 arrays [height, width, 3]"
    )


def test_a_grey_image_is_refused_by_its_shape(from_run):
    with pytest.raises(UserError) as error:
        from_run.detect(np.zeros((4, 9), np.uint8))
    assert str(error.value) == "image array: uint8 [4, 9] is not uint8 [height, width, 3]"


THREADS = """
import concurrent.futures, sys
import numpy as np
from efficientdet_tf.data.image_files import read_image
from efficientdet_tf.detector import Detector

photograph, *paths, run = sys.argv[1:]
pixels = read_image(photograph)
images = [pixels[40 * i : 40 * i + 100 + 10 * i, 60 * i :] for i in range(8)]
for path in [*paths, run]:
    if path == run:
        # Exported models need neither the network's layers nor training.
        needless = ("efficientdet_tf.backbones.", "efficientdet_tf.training")
        assert not [name for name in sys.modules if name.startswith(needless)]
    expected = Detector.load(path).detect(images, batch_size=1)
    # A second detector, whose first calls are concurrent, too.
    detector = Detector.load(path)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: detector.detect(images[i % 8])[0], range(80)))
    assert len({float(one.scores[0]) for one in expected}) == 8
    for i, one in enumerate(found):
        np.testing.assert_allclose(one.boxes, expected[i % 8].boxes, atol=1e-2)
        np.testing.assert_allclose(one.scores, expected[i % 8].scores, atol=1e-5)
        np.testing.assert_array_equal(one.class_indices, expected[i % 8].class_indices)
    print("same")
"""


@pytest.mark.thorough
def test_eight_threads_get_the_same_as_one(tiny_run, exported, photograph):
    """In a separate process, because code that is not thread-safe may crash it."""
    names = ("saved_model", "model.tflite", "model_raw.onnx")
    artifacts = [photograph, *(exported / name for name in names), tiny_run]
    done = subprocess.run(
        [sys.executable, "-c", THREADS, *map(str, artifacts)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "same\n" * 4), done.stderr[-2000:]
    # TensorFlow warns of retracing at concurrent first calls of a function.
    assert "retracing" not in done.stderr


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_without_images_is_refused(from_run, photograph, batch_size):
    with pytest.raises(DetectorError) as error:
        from_run.detect([photograph], batch_size=batch_size)
    assert str(error.value) == (
        f"batch_size: {batch_size} is below 1; use a whole number from 1 on"
    )


def test_an_upright_image_and_its_turned_file_give_the_same(from_run, photograph, tmp_path):
    pixels = read_image(photograph)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    lying = PIL.Image.fromarray(np.rot90(pixels))
    lying.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert read_image(tmp_path / "turned.jpg").shape == pixels.shape
    with PIL.Image.open(tmp_path / "turned.jpg") as image:
        upright = np.asarray(PIL.ImageOps.exif_transpose(image))
    # Pixels as stored in the file would give other boxes.
    [turned, expected] = from_run.detect([tmp_path / "turned.jpg", upright])
    assert len(expected) > 10
    np.testing.assert_allclose(turned.boxes, expected.boxes, atol=1e-3)
    np.testing.assert_allclose(turned.scores, expected.scores, atol=1e-5)
    np.testing.assert_array_equal(turned.class_indices, expected.class_indices)


def test_webp_files_are_read(photograph, tmp_path):
    pixels = read_image(photograph)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.webp", lossless=True)
    np.testing.assert_array_equal(read_image(tmp_path / "a.webp"), pixels)
    np.testing.assert_array_equal(read_image((tmp_path / "a.webp").read_bytes()), pixels)


def test_above_keeps_high_scores():
    found = Detections(np.eye(3, 4), np.array([0.9, 0.5, 0.1]), np.array([2, 1, 0]))
    kept = found.above(0.5)
    assert len(kept) == 2
    assert kept.class_indices.tolist() == [2, 1]
    np.testing.assert_array_equal(kept.boxes, np.eye(2, 4))


def test_unreadable_images_are_named(tmp_path):
    missing, text, empty = (tmp_path / name for name in ("a.jpg", "b.png", "c.gif"))
    text.write_text("no image")
    empty.touch()
    for image, message in (
        (missing, f"{missing}: No such file or directory"),
        (text, f"{text}: not a readable JPEG, PNG, GIF, BMP or WebP image"),
        (empty, f"{empty}: empty"),
        ("a\0.jpg", "'a\\x00.jpg': not a file name: embedded null byte"),
        (b"\xff\xd8\xff damaged", "image bytes: not a readable JPEG, PNG, GIF, BMP or WebP image"),
        (np.zeros((4, 4)), "image array: float64 [4, 4] is not uint8 [height, width, 3]"),
    ):
        with pytest.raises(ImageError) as error:
            read_image(image)
        assert str(error.value) == message


def test_a_path_without_a_model_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"nothing: no such file or folder$"):
        Detector.load(tmp_path / "nothing")
    with pytest.raises(ModelError, match=r": no model; use a run directory \(with config.yaml\), "):
        Detector.load(tmp_path)
    for content in (b"something else", b"1234TFL3", b"\x00\xff\xff\x7fTFL3 damaged"):
        (tmp_path / "other.tflite").write_bytes(content)
        with pytest.raises(ArtifactError, match=r"other.tflite: not a model of `python -m export "):
            Detector.load(tmp_path / "other.tflite")
    (tmp_path / "saved_model.pb").write_bytes(b"something else")
    with pytest.raises(ArtifactError, match=r": not a SavedModel of `python -m export`$"):
        Detector.load(tmp_path)
