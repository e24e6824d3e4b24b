"""Predictions in images and videos: their files, and what is in memory meanwhile."""

import csv
import json
import weakref
from fractions import Fraction

import numpy as np
import PIL.Image
import pytest

from brightness import LABELS, Brightness
from clips import grey, write_clip
from efficientdet_tf.detector import Detector
from efficientdet_tf.errors import UserError
from efficientdet_tf.inference import prediction, video
from efficientdet_tf.inference.prediction import Counts, PredictionFiles, plan, predict
from efficientdet_tf.inference.result_formats import FORMATS
from efficientdet_tf.inference.sources import Frame, Source, SourceError
from efficientdet_tf.output_files import OutputError


@pytest.fixture
def runtime():
    return Brightness()


@pytest.fixture
def detector(runtime):
    return Detector(runtime, LABELS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two images, and a video of ten frames in a folder of its own."""
    folder = tmp_path_factory.mktemp("input")
    for number in (1, 2):
        PIL.Image.fromarray(grey(number, (48, 80))).save(folder / f"{number}.png")
    (folder / "deep").mkdir()
    write_clip(folder / "deep" / "clip.mkv", [grey(number) for number in range(10)])
    return folder


def entries_in(output):
    return json.loads((output / "detections.json").read_text(encoding="utf-8"))


def test_images_and_frames_are_predicted_in_batches(folder, detector, runtime, tmp_path):
    counts = predict(detector, plan(str(folder), tmp_path / "out"), 0.3, batch_size=5)
    assert counts == Counts(images=2, frames=10, detections=12, unreadable=0)
    assert str(counts) == "12 detections in 2 images and 10 frames"
    assert runtime.batches == [5, 5, 2]
    entries = entries_in(tmp_path / "out")
    detection = {"bbox": [8, 4.12, 32, 19.88], "score": 0.9}
    assert entries[0] == {
        **{"file": "1.png", "width": 80, "height": 48},
        "detections": [{"category_id": 3, "category_name": "bee", **detection}],
    }
    assert entries[4] == {
        **{"file": "deep/clip.mkv", "width": 64, "height": 48, "frame": 2, "time": 0.08},
        "detections": [{"category_id": 7, "category_name": "Kuh ä", **detection}],
    }
    assert [entry["frame"] for entry in entries[2:]] == list(range(10))


def test_a_video_is_drawn_as_a_video(folder, detector, tmp_path):
    predict(detector, plan(str(folder), tmp_path), 0.3)
    drawn = list(video.read_frames(str(tmp_path / "deep" / "clip.mkv.mp4")))
    assert [frame.time for frame in drawn] == pytest.approx([i / 25 for i in range(10)])
    assert {(frame.pixels.shape, frame.rate) for frame in drawn} == {((48, 64, 3), 25)}
    for frame in drawn:
        # The lower right corner is as it was, and the box's left edge is in colour.
        np.testing.assert_allclose(frame.pixels[44:, 44:], 20 * frame.index, atol=4)
        edge = frame.pixels[16:22, 8].astype(int)
        assert (np.ptp(edge, axis=-1) > 60).all()


def test_a_stride_and_a_number_of_frames(folder, detector, tmp_path):
    clip = folder / "deep" / "clip.mkv"
    predict(detector, plan(str(clip), tmp_path), 0.3, stride=2, num_frames=3)
    assert [entry["frame"] for entry in entries_in(tmp_path)] == [0, 2, 4]
    drawn = list(video.read_frames(str(tmp_path / "clip.mkv.mp4")))
    assert [frame.time for frame in drawn] == pytest.approx([0, 0.08, 0.16])


def test_two_batches_are_in_memory_and_no_more(detector, monkeypatch, tmp_path):
    """Frames that are read, but not released, are counted."""
    alive, most = 0, 0

    def release():
        nonlocal alive
        alive -= 1

    def read_frames(source, stride):
        nonlocal alive, most
        for index in range(50):
            pixels = grey(1)
            weakref.finalize(pixels, release)
            alive += 1
            most = max(most, alive)
            yield Frame(source, pixels, None, index, index / 25, Fraction(25))

    monkeypatch.setattr(prediction, "read_frames", read_frames)
    source = Source("clip.mp4", "nowhere", "video")
    results = {name: tmp_path / name for name in FORMATS}
    files = PredictionFiles([source], {source.name: tmp_path / "clip.mp4"}, results)
    counts = predict(detector, files, 0.3, batch_size=4)
    assert counts.frames == 50
    # A batch, and the one before until the next is complete.
    assert 4 < most <= 2 * 4


def test_ctrl_c_ends_a_camera_and_keeps_what_was_detected(folder, runtime, detector, tmp_path):
    def detect(images):
        if len(runtime.batches) == 2:
            raise KeyboardInterrupt
        return Brightness.detect(runtime, images)

    files = plan(str(folder / "deep" / "clip.mkv"), tmp_path)
    runtime.detect = detect
    with pytest.raises(KeyboardInterrupt):
        predict(detector, files, 0.3, batch_size=2)
    assert list(tmp_path.iterdir()) == []
    runtime.batches.clear()
    camera = Source("camera0", files.sources[0].location, "camera")
    files = PredictionFiles([camera], {"camera0": tmp_path / "camera0.mp4"}, files.results)
    assert predict(detector, files, 0.3, batch_size=2).frames == 4
    assert [entry["frame"] for entry in entries_in(tmp_path)] == [0, 1, 2, 3]
    assert len(list(video.read_frames(str(tmp_path / "camera0.mp4")))) == 4


def test_lines_and_tables_have_the_same_entries(folder, detector, tmp_path):
    predict(detector, plan(str(folder), tmp_path, ["json", "jsonl", "csv"]), 0.3)
    entries = entries_in(tmp_path)
    lines = (tmp_path / "detections.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == entries
    with open(tmp_path / "detections.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows[0] == {
        **{"file": "1.png", "image_width": "80", "image_height": "48", "frame": "", "time": ""},
        **{"category_id": "3", "category_name": "bee", "score": "0.9"},
        **{"xmin": "8.0", "ymin": "4.12", "xmax": "40.0", "ymax": "24.0"},
    }
    assert [(row["frame"], row["time"]) for row in rows[2:4]] == [("0", "0.0"), ("1", "0.04")]
    assert len(rows) == len(entries) == 12


@pytest.mark.parametrize("name", ["json", "jsonl", "csv"])
def test_results_replace_those_of_an_earlier_call_only(folder, detector, tmp_path, name):
    path = tmp_path / f"detections.{name}"
    for given in (folder / "deep" / "clip.mkv", folder / "1.png"):
        predict(detector, plan(str(given), tmp_path, [name]), 0.3)
    ours = path.read_text(encoding="utf-8")
    assert "1.png" in ours and "clip" not in ours
    # No detections at all.
    predict(detector, plan(str(folder / "1.png"), tmp_path, [name]), 1.0)
    plan(str(folder), tmp_path, [name])
    for content in (b'{"file": "a.jpg"}', b"file,xmin\n", b"\xff\xfe", b'["a"]'):
        path.write_bytes(content)
        with pytest.raises(OutputError, match=f"^--output: {path} exists and was not written by"):
            plan(str(folder), tmp_path, [name])


def test_no_image_at_all_is_an_empty_list(detector, tmp_path, capsys):
    (tmp_path / "a.jpg").write_text("no image")
    for _ in range(2):
        counts = predict(detector, plan(str(tmp_path / "a.jpg"), tmp_path / "out"), 0.3)
        assert counts == Counts(unreadable=1)
        assert entries_in(tmp_path / "out") == []
    assert str(counts) == "0 detections in 0 images"
    assert capsys.readouterr().err.startswith(f"skipped {tmp_path}/a.jpg: not a readable")


def test_without_drawn_images(folder, detector, tmp_path):
    predict(detector, plan(str(folder), tmp_path, ["jsonl"], with_images=False), 0.3)
    assert [path.name for path in tmp_path.iterdir()] == ["detections.jsonl"]


def test_a_video_of_the_user_is_not_overwritten(folder, detector, tmp_path):
    path = tmp_path / "clip.mkv.mp4"
    files = plan(str(folder / "deep" / "clip.mkv"), tmp_path)
    predict(detector, files, 0.3)
    # Of an earlier call.
    predict(detector, plan(files.sources[0].location, tmp_path), 0.3)
    write_clip(path, [grey(1)])
    with pytest.raises(OutputError, match=f"^--output: {path} exists and was not written by this"):
        plan(files.sources[0].location, tmp_path)


def test_drawn_videos_inside_the_input_are_no_input(detector, tmp_path):
    write_clip(tmp_path / "clip.mp4", [grey(number) for number in range(3)])
    for _ in range(2):
        predict(detector, plan(str(tmp_path), tmp_path / "found"), 0.3)
        assert [entry["file"] for entry in entries_in(tmp_path / "found")] == ["clip.mp4"] * 3


def test_an_unknown_format_is_named(folder, tmp_path):
    with pytest.raises(UserError) as error:
        plan(str(folder), tmp_path, ["json", "xml"])
    assert str(error.value).startswith("--format: 'xml' is unknown; use json, jsonl, csv")


def test_images_are_not_drawn_into_a_data_set(tmp_path):
    (tmp_path / "in" / "coco").mkdir(parents=True)
    PIL.Image.fromarray(grey(1)).save(tmp_path / "in" / "coco" / "a.png")
    given, output = str(tmp_path / "in"), tmp_path / "out"
    with pytest.raises(SourceError) as error:
        plan(given, output, ["coco"])
    assert str(error.value) == (
        f"--input: coco/a.png would be drawn to {output}/coco/a.png, where results are: "
        f"{output}/coco; use --save_images=false"
    )
    plan(given, output, ["coco"], with_images=False)
    plan(given, output, ["yolo"])


def test_names_that_are_not_utf8(detector, tmp_path):
    (tmp_path / "in").mkdir()
    PIL.Image.fromarray(grey(1)).save(tmp_path / "in" / "\udcff.png")
    predict(detector, plan(str(tmp_path / "in"), tmp_path / "out", list(FORMATS)), 0.3)
    assert [entry["file"] for entry in entries_in(tmp_path / "out")] == ["\udcff.png"]
    assert (tmp_path / "out" / "\udcff.png").is_file()
    assert (tmp_path / "out" / "yolo" / "labels" / "\udcff.txt").is_file()
