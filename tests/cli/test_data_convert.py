"""`efficientdet-data convert`: what it prints, and its errors."""

import json

import PIL.Image
import pytest

import commands as program
from efficientdet_tf.cli import data_convert
from efficientdet_tf.data.layouts import LAYOUTS


def convert(*arguments):
    return program.call("-m", "efficientdet_tf", "data", "convert", *arguments)


@pytest.fixture
def source(tmp_path):
    """COCO file of one image with a crowd region."""
    PIL.Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    box = {"id": 1, "image_id": 1, "category_id": 4, "bbox": [4, 40, 20, 20], "iscrowd": 1}
    content = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 4, "name": "cat"}],
        "annotations": [box],
    }
    (tmp_path / "some.json").write_text(json.dumps(content))
    return tmp_path / "some.json"


def test_prints_the_format_what_is_lost_and_what_is_written(source, tmp_path):
    output = tmp_path / "out"
    done = convert(f"--data={source}", "--to=yolo", f"--output={output}")
    assert done.returncode == 0
    assert done.stdout == (
        f"{source}: format coco\n"
        "train: not kept: category ids: 1, e.g. 4 becomes 0; yolo numbers by position\n"
        "train: not kept: crowd regions: 1; left out\n"
        f"train: 1 images with 1 objects, 1 problems\nWritten to {output} as yolo\n"
    )
    assert (output / "labels" / "train" / "a.txt").read_text() == ""


def test_format_images_and_split_can_be_named(source, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "elsewhere" / "a.png")
    source = source.rename(tmp_path / "some.txt")
    named = ["--format=coco", f"--images={tmp_path}/elsewhere"]
    done = convert(
        f"--data={source}", "--to=voc", f"--output={tmp_path}/out", "--split=test", *named
    )
    assert done.returncode == 0 and done.stdout.startswith(f"{source}: format coco\n")
    assert (tmp_path / "out" / "ImageSets" / "Main" / "test.txt").read_text() == "a\n"
    done = convert(f"--data={source}", "--to=voc", f"--output={tmp_path}/out", "--format=coc")
    assert done.stderr == (
        "data: data.format: 'coc' is unknown; use one of auto, digits, tfds, voc, yolo, "
        "tfrecord, tf_csv, csv, cvat, coco, labelme\n"
    )


def test_built_in_digits_are_written_as_files(tmp_path):
    done = convert("--data=digits", "--to=tfrecord", f"--output={tmp_path}/o", "--split=val")
    assert done.stdout == (
        f"digits: format digits\nval: 160 images with 594 objects\nWritten to {tmp_path}/o as "
        "tfrecord\n"
    )
    done = convert(f"--data={tmp_path}/o", "--to=voc", f"--output={tmp_path}/v", "--split=val")
    assert done.returncode == 0
    assert (tmp_path / "v" / "ImageSets" / "Main" / "val.txt").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to=voc", "--output=x"], "--data is missing: Data set: a path, or 'digits' (built in)"),
        (
            ["--data=digits", "--output=x"],
            "--to is missing: <coco|voc|yolo|tfrecord|csv>: Format to write; csv is",
        ),
        (["--data=digits", "--to=coco"], "--output is missing: Folder to write to."),
        (["--data=digits", "--to=pascal"], "flag --to=pascal: value should be one of <coco|voc|"),
        (
            ["--data=digits", "--to=coco", "--output=x", "--num_shards=2"],
            "--num_shards: only TFRecord is written in shards; use --to=tfrecord",
        ),
        (["--data=no", "--to=coco", "--output=x"], "no: no such file or folder"),
    ],
)
def test_complains_in_one_line(arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = convert(*arguments)
    [line] = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert line.startswith(f"data: {message}")
    assert not list(tmp_path.iterdir())


def test_all_layouts_can_be_named():
    assert tuple(LAYOUTS) == data_convert.FORMATS


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    done = convert("--data=digits", "--to=voc", f"--output={tmp_path}/file/out", "--split=val")
    assert done.returncode == 1
    assert done.stderr == f"data: --output: {tmp_path}/file/out: Not a directory\n"
