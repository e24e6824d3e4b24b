"""`efficientdet-predict`: pictures, detections.json, and what it says of bad input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from efficientdet_tf.detector import Detector
from efficientdet_tf.prediction import PredictionError, predict

REPOSITORY = Path(__file__).resolve().parents[1]


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "efficientdet_tf.predict", *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, photograph):
    """A folder with a JPEG, a GIF in a folder of its own, a broken PNG, and no picture."""
    folder = tmp_path_factory.mktemp("input")
    shutil.copy(photograph, folder / "a.JPG")
    (folder / "deep").mkdir()
    PIL.Image.open(photograph).resize((64, 40)).save(folder / "deep" / "b.gif")
    (folder / "broken.png").write_text("no picture")
    (folder / "notes.txt").write_text("no picture either")
    return folder


@pytest.fixture(scope="module")
def done(pictures, tiny_run, tmp_path_factory):
    output = tmp_path_factory.mktemp("output") / "new"
    return output, command(f"--model={tiny_run}", f"--input={pictures}", f"--output={output}")


def test_names_and_counts_what_cannot_be_read(done, pictures):
    output, process = done
    entries = json.loads((output / "detections.json").read_text(encoding="utf-8"))
    found = sum(len(entry["detections"]) for entry in entries)
    assert process.returncode == 1
    assert process.stdout == f"{found} detections in 2 pictures, written to {output}\n"
    assert process.stderr.splitlines() == [
        f"skipped {pictures}/broken.png: not a readable JPEG, PNG, GIF, BMP or WebP image",
        "predict: 1 of 3 pictures could not be read",
    ]


def test_writes_each_picture_with_its_detections(done, pictures):
    output, _ = done
    files = sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())
    assert files == ["a.JPG", "deep/b.gif.png", "detections.json"]
    before, after = (np.asarray(PIL.Image.open(p / "a.JPG"), int) for p in (pictures, output))
    assert before.shape == after.shape
    assert np.abs(before - after).max() > 100
    assert PIL.Image.open(output / "deep" / "b.gif.png").format == "PNG"


def test_json_has_what_the_detector_found(done, photograph, tiny_run):
    output, _ = done
    entry, other = json.loads((output / "detections.json").read_text(encoding="utf-8"))
    [found] = Detector.load(tiny_run).detect([photograph])
    found = found.above(0.3)
    assert (entry["file"], entry["width"], entry["height"]) == ("a.JPG", 640, 427)
    assert (other["file"], other["width"], other["height"]) == ("deep/b.gif", 64, 40)
    assert len(entry["detections"]) == len(found) > 0
    names = {900: "ant", 3: "bee", 7: "Kuh ä"}
    for item, box, score, index in zip(
        entry["detections"], found.boxes, found.scores, found.class_indices
    ):
        x, y, width, height = item["bbox"]
        np.testing.assert_allclose([y, x, y + height, x + width], box, atol=0.05)
        assert item["score"] == pytest.approx(score, abs=1e-3)
        assert item["category_id"] == (900, 3, 7)[index]
        assert item["category_name"] == names[item["category_id"]]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model=x", "--input=y"], "--output is missing: Folder to write pictures and "),
        (["--model=nowhere", "--input=y", "--output=z"], "nowhere: no such file or folder"),
        (["--score_threshold=2"], "flag --score_threshold=2: "),
    ],
)
def test_complains_in_one_line(arguments, message):
    process = command(*arguments)
    assert process.returncode == 1
    [line] = process.stderr.strip().splitlines()
    assert line.startswith(f"predict: {message}")


def test_webp_is_read_and_other_formats_are_named(tmp_path, photograph, tiny_run):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    small = PIL.Image.open(photograph).resize((64, 40))
    small.save(source / "a.webp")
    small.save(source / "b.jfif", "JPEG")
    small.save(source / "c.tif")
    entries, problems = predict(Detector.load(tiny_run), source, output, 0.3)
    assert [(entry["file"], entry["width"]) for entry in entries] == [
        ("a.webp", 64),
        ("b.jfif", 64),
    ]
    assert problems == [f"{source}/c.tif: not a readable JPEG, PNG, GIF, BMP or WebP image"]
    assert sorted(path.name for path in output.iterdir()) == [
        *("a.webp.png", "b.jfif.png", "detections.json")
    ]


def test_bad_folders_are_named(tmp_path, photograph):
    for source, output, message in (
        (tmp_path / "no", tmp_path / "out", f"--input: {tmp_path}/no: no such file or folder"),
        (tmp_path, tmp_path / "out", f"--input: {tmp_path}: no pictures (.jpg, .jpeg, .png, "),
        (photograph, photograph.parent, f"--output: {photograph.parent} holds the input, which "),
    ):
        with pytest.raises(PredictionError) as error:
            predict(None, source, output, 0.3)
        assert str(error.value).startswith(message)
