"""`efficientdet-predict`: images, detections.json, and messages about bad input."""

import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import commands
from clips import grey, write_clip
from efficientdet_tf.boxes import from_xywh
from efficientdet_tf.cli import command_line
from efficientdet_tf.cli import predict as predict_command
from efficientdet_tf.detector import Detector
from efficientdet_tf.inference.prediction import plan, predict
from efficientdet_tf.inference.sources import SourceError
from efficientdet_tf.output_files import OutputError

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def image_folder(tmp_path_factory, photograph):
    """A folder with a JPEG, a GIF in a folder of its own, a damaged PNG, and a text file."""
    folder = tmp_path_factory.mktemp("input")
    shutil.copy(photograph, folder / "a.JPG")
    (folder / "deep").mkdir()
    PIL.Image.open(photograph).resize((64, 40)).save(folder / "deep" / "b.gif")
    (folder / "broken.png").write_text("no image")
    (folder / "notes.txt").write_text("no image either")
    return folder


@pytest.fixture(scope="module")
def detector(tiny_run):
    return Detector.load(tiny_run)


@pytest.fixture(scope="module")
def done(image_folder, tiny_run, tmp_path_factory):
    output = tmp_path_factory.mktemp("output") / "new"
    words = (f"--model_path={tiny_run}", f"--input={image_folder}", f"--output={output}")
    return output, commands.call("-m", "efficientdet_tf", "predict", *words)


def test_names_and_counts_what_cannot_be_read(done, image_folder):
    output, process = done
    entries = json.loads((output / "detections.json").read_text(encoding="utf-8"))
    found = sum(len(entry["detections"]) for entry in entries)
    assert process.returncode == 1
    assert process.stdout == f"{found} detections in 2 images, written to {output}\n"
    assert process.stderr.splitlines() == [
        f"skipped {image_folder}/broken.png: not a readable JPEG, PNG, GIF, BMP or WebP image",
        "predict: 1 of 3 images could not be read",
    ]


def test_writes_each_image_with_its_detections(done, image_folder):
    output, _ = done
    files = sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())
    assert files == ["a.JPG", "deep/b.gif.png", "detections.json"]
    before, after = (np.asarray(PIL.Image.open(p / "a.JPG"), int) for p in (image_folder, output))
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
        np.testing.assert_allclose(from_xywh(*item["bbox"]), box, atol=0.05)
        assert item["score"] == pytest.approx(score, abs=1e-3)
        assert item["category_id"] == (900, 3, 7)[index]
        assert item["category_name"] == names[item["category_id"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model_path=x", "--input=y"], "--output is missing: Folder to write images and "),
        (["--model_path=nowhere", f"--input={__file__}", "--output=z"], "nowhere: no such file or"),
        (["--score_threshold=2"], "flag --score_threshold=2: "),
        (
            [
                "--model_path=x",
                f"--input={REPOSITORY}/docs/detections.png",
                "--output=z",
                "--tta=up",
            ],
            "view 'up': unknown; use flip or scale, or both",
        ),
    ],
)
def test_complains_in_one_line(arguments, message, capsys):
    assert command_line.call(predict_command.COMMAND, arguments) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"predict: {message}")


def test_detects_in_views_of_each_image(tmp_path, tiny_run, photograph, detector):
    done = commands.call(
        *("-m", "efficientdet_tf", "predict", f"--model_path={tiny_run}", "--tta=flip,scale"),
        *(f"--input={photograph}", f"--output={tmp_path}/out", "--score_threshold=0.1"),
    )
    [entry] = entries_in(tmp_path / "out")
    count = len(entry["detections"])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{count} detections in 1 images, written to {tmp_path}/out\n"
    [found] = detector.augmented(["scale", "flip"]).detect(photograph)
    assert count == len(found.above(0.1)) > 0


def entries_in(output):
    return json.loads((output / "detections.json").read_text(encoding="utf-8"))


def test_webp_is_read_and_other_formats_are_named(tmp_path, photograph, detector, capsys):
    source, output = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    small = PIL.Image.open(photograph).resize((64, 40))
    small.save(source / "a.webp")
    small.save(source / "b.jfif", "JPEG")
    small.save(source / "c.tif")
    assert predict(detector, plan(str(source), output), 0.3).unreadable == 1
    assert [(entry["file"], entry["width"]) for entry in entries_in(output)] == [
        ("a.webp", 64),
        ("b.jfif", 64),
    ]
    reason = "not a readable JPEG, PNG, GIF, BMP or WebP image"
    assert capsys.readouterr().err == f"skipped {source}/c.tif: {reason}\n"
    assert sorted(path.name for path in output.iterdir()) == [
        *("a.webp.png", "b.jfif.png", "detections.json")
    ]


def test_bad_folders_are_named(tmp_path, photograph):
    folder = photograph.parent
    for source, output, message in (
        (tmp_path / "no", tmp_path / "out", f"--input: {tmp_path}/no: no such file or folder"),
        (tmp_path, tmp_path / "out", f"--input: {tmp_path}: no images (.jpg, .jpeg, .png, "),
        (photograph, folder, f"--output: {folder} is the folder of the input; choose another"),
        (folder, folder, f"--output: {folder} is the folder of the input; choose another folder"),
    ):
        with pytest.raises((SourceError, OutputError)) as error:
            plan(str(source), output)
        assert str(error.value).startswith(message)


def paths_in(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_what_predict_wrote_is_replaced_and_not_read_again(tmp_path, photograph, detector):
    output = tmp_path / "found" / "here"
    for name in ("a.jpg", "b.png", "c.bmp", "found/d.jpg", "found/here/e.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.open(photograph).resize((64, 40)).save(tmp_path / name)
    before = paths_in(tmp_path)
    # The user's image in the output folder is also read.
    for _ in range(2):
        assert predict(detector, plan(str(tmp_path), output), 0.3).unreadable == 0
        assert [entry["file"] for entry in entries_in(output)] == before
    written = ["a.jpg", "b.png", "c.bmp.png", "detections.json", "found/d.jpg"]
    written.append("found/here/e.jpg")
    assert paths_in(tmp_path) == sorted([*before, *(f"found/here/{name}" for name in written)])


@pytest.mark.parametrize(
    ("source", "output", "name", "content"),
    [
        # Above the input.
        ("deep/in", ".", "a.jpg", "image"),
        # Elsewhere.
        ("deep/in", "out", "out/a.jpg", "image"),
        ("deep/in", "out", "out/a.jpg", b"no image"),
        ("deep/in/a.jpg", "out", "out/a.jpg", "image"),
        ("deep/in", "out", "out/b.gif.png", "image"),
        # Detections of eval, which are in another format.
        ("deep/in", "out", "out/detections.json", b'[{"image_id": 1, "score": 0.5}]'),
        ("deep/in", "out", "out/detections.json", b"{}"),
    ],
)
def test_a_file_that_predict_did_not_write_is_not_overwritten(
    tmp_path, photograph, source, output, name, content
):
    (tmp_path / "deep" / "in").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    small = PIL.Image.open(photograph).resize((64, 40))
    for image in ("deep/in/a.jpg", "deep/in/b.gif"):
        small.save(tmp_path / image)
    if content == "image":
        small.save(tmp_path / name)
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(OutputError) as error:
        plan(str(tmp_path / source), tmp_path / output)
    assert str(error.value) == (
        f"--output: {tmp_path / name} exists and was not written by this command; "
        "choose another name or folder, or move it away"
    )


def test_an_image_in_a_folder_of_the_same_name_is_not_overwritten(tmp_path, photograph):
    """The output folder contains the input, and an output file would overwrite an input image."""
    for name in ("in/a.jpg", "in/in/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(photograph, tmp_path / name)
    with pytest.raises(OutputError, match=f"^--output: {tmp_path}/in/a.jpg exists and was not "):
        plan(str(tmp_path / "in"), tmp_path)


def test_two_images_that_would_be_one_file_are_named(tmp_path, photograph):
    for name in ("a.gif", "a.gif.png"):
        PIL.Image.open(photograph).resize((64, 40)).save(tmp_path / name)
    with pytest.raises(SourceError) as error:
        plan(str(tmp_path), tmp_path / "out")
    assert str(error.value) == (
        f"--input: a.gif and a.gif.png would both be written to {tmp_path}/out/a.gif.png; "
        "rename one"
    )


def test_nothing_is_loaded_or_written_before_a_refusal(tmp_path, photograph):
    shutil.copy(photograph, tmp_path / "china.jpg")
    words = ("--model_path=nowhere", f"--input={photograph}", f"--output={tmp_path}")
    process = commands.call("-m", "efficientdet_tf", "predict", *words)
    assert process.returncode == 1
    assert process.stderr == (
        f"predict: --output: {tmp_path}/china.jpg exists and was not written by this command; "
        "choose another name or folder, or move it away\n"
    )
    assert paths_in(tmp_path) == ["china.jpg"]


def test_a_video_and_its_flags(tmp_path, tiny_run):
    write_clip(tmp_path / "clip.mp4", [grey(number) for number in range(6)])
    done = commands.call(
        *("-m", "efficientdet_tf", "predict", f"--model_path={tiny_run}"),
        *(f"--input={tmp_path}/clip.mp4", f"--output={tmp_path}/out", "--format=jsonl,csv"),
        *("--save_images=false", "--stride=2", "--num_frames=2", "--batch_size=4"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f" detections in 2 frames, written to {tmp_path}/out\n")
    assert paths_in(tmp_path / "out") == ["detections.csv", "detections.jsonl"]


def test_a_damaged_video_is_counted(tmp_path, tiny_run, image_folder):
    shutil.copytree(image_folder, tmp_path / "in")
    (tmp_path / "in" / "broken.mp4").write_text("no video")
    done = commands.call(
        *("-m", "efficientdet_tf", "predict", f"--model_path={tiny_run}"),
        *(f"--input={tmp_path}/in/*", f"--output={tmp_path}/out"),
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"skipped {tmp_path}/in/broken.mp4: not a readable video: "
        "Invalid data found when processing input",
        f"skipped {tmp_path}/in/broken.png: not a readable JPEG, PNG, GIF, BMP or WebP image",
        "predict: 2 of 3 images and videos could not be read completely",
    ]


def test_heat_maps_are_drawn_beside_the_images(tmp_path, tiny_run, image_folder):
    given = tmp_path / "in"
    shutil.copytree(image_folder, given)
    (given / "broken.png").unlink()
    write_clip(given / "clip.mp4", [grey(number) for number in range(2)])
    arguments = [f"--model_path={tiny_run}", f"--input={given}", f"--output={tmp_path}/out"]
    done = commands.call("-m", "efficientdet_tf", "predict", *arguments, "--explain")
    assert (done.returncode, done.stderr) == (0, "")
    # A later call may replace them.
    plan(str(given), tmp_path / "out", with_heat_maps=True)
    assert done.stdout.splitlines()[1:] == [
        "--explain: heat maps are for images only; none for 1 of 3 inputs"
    ]
    assert paths_in(tmp_path / "out") == [
        *("a.JPG", "a.explained.JPG", "clip.mp4"),
        *("deep/b.gif.explained.png", "deep/b.gif.png", "detections.json"),
    ]
    for index, name, size in (
        (0, "a.explained.JPG", (480, 320)),
        (-1, "deep/b.gif.explained.png", (64, 40)),
    ):
        found = min(8, len(entries_in(tmp_path / "out")[index]["detections"]))
        columns = int(np.ceil(np.sqrt(found)))
        rows = -(-found // columns)
        with PIL.Image.open(tmp_path / "out" / name) as drawn:
            assert drawn.size == (columns * (size[0] + 4) - 4, rows * (size[1] + 4) - 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--server=localhost:1"],
            "--explain: heat maps need gradients, which no server has; use --model_path with the "
            "run directory",
        ),
        (
            ["--model_path={folder}/model.tflite"],
            "{folder}/model.tflite: heat maps need gradients, which only a run has; use the run "
            "directory (with config.yaml)",
        ),
        (
            ["--model_path={folder}/model.tflite", "--input={folder}/clip.mp4"],
            "--input: {folder}/clip.mp4: a video has no heat maps, only images have; leave "
            "--explain out",
        ),
        (
            ["--model_path={folder}/model.tflite", "--tta=flip"],
            "--explain: heat maps are of the detections of one network in the image as it is; use "
            "one run directory, without --tta",
        ),
        (
            ["--model_path={folder}/model.tflite,{folder}/clip.mp4"],
            "--explain: heat maps are of the detections of one network in the image as it is; use "
            "one run directory, without --tta",
        ),
    ],
)
def test_what_cannot_be_explained_is_refused(tmp_path, photograph, capsys, arguments, message):
    for name in ("model.tflite", "clip.mp4"):
        (tmp_path / name).write_bytes(b"")
    given = [argument.format(folder=tmp_path) for argument in arguments]
    given = ["--explain", f"--input={photograph}", f"--output={tmp_path}/out", *given]
    assert command_line.call(predict_command.COMMAND, given) == 1
    assert capsys.readouterr().err == f"predict: {message.format(folder=tmp_path)}\n"
    assert not (tmp_path / "out").exists()


def test_heat_maps_overwrite_neither_images_nor_results(tmp_path, photograph):
    small = PIL.Image.open(photograph).resize((64, 40))
    (tmp_path / "in" / "coco").mkdir(parents=True)
    for name in ("a.jpg", "a.explained.jpg"):
        small.save(tmp_path / "in" / name)
    with pytest.raises(SourceError) as error:
        plan(str(tmp_path / "in"), tmp_path / "out", with_heat_maps=True)
    assert str(error.value) == (
        f"--input: a.explained.jpg and a.jpg would both be written to "
        f"{tmp_path}/out/a.explained.jpg; rename one"
    )
    small.save(tmp_path / "in" / "coco" / "b.jpg")
    (tmp_path / "in" / "a.explained.jpg").unlink()
    with pytest.raises(SourceError) as error:
        plan(str(tmp_path / "in"), tmp_path / "out", ["coco"], False, with_heat_maps=True)
    assert str(error.value).endswith(f"where results are: {tmp_path}/out/coco; use --explain=false")
    (tmp_path / "out").mkdir()
    small.save(tmp_path / "out" / "a.explained.jpg")
    with pytest.raises(OutputError, match=f"^--output: {tmp_path}/out/a.explained.jpg exists and"):
        plan(str(tmp_path / "in"), tmp_path / "out", with_heat_maps=True)
