"""`efficientdet-data stats`: table, JSON and histograms, compared with numbers counted by hand."""

import json

import numpy as np
import PIL.Image
import pytest

import commands as program
from efficientdet_tf.data import conversion


def stats(*arguments):
    return program.call("-m", "efficientdet_tf", "data", "stats", *arguments)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """COCO file of two images with objects of each size, and one of background."""
    folder = tmp_path_factory.mktemp("stats")
    sizes = [(400, 200), (100, 100), (100, 100)]
    for number, size in enumerate(sizes, 1):
        PIL.Image.new("RGB", size).save(folder / f"{number}.png")
    boxes = [
        # Image, category, box, area, flags.
        (1, 5, [0, 0, 20, 10], 200, {}),
        (1, 5, [0, 0, 64, 64], 4096, {}),
        (1, 2, [0, 0, 200, 150], 20000, {}),
        (1, 2, [0, 0, 50, 50], 2500, {"iscrowd": 1}),
        (2, 5, [0, 0, 10, 40], 400, {}),
        (2, 2, [0, 0, 10, 40], 400, {"ignore": 1}),
    ]
    content = {
        "images": [{"id": i, "file_name": f"{i}.png"} for i in (1, 2, 3)],
        "categories": [
            {"id": 2, "name": "cat"},
            {"id": 5, "name": "dog"},
            {"id": 9, "name": "$_$"},
        ],
        "annotations": [
            {"id": i, "image_id": image, "category_id": c, "bbox": box, "area": area, **flags}
            for i, (image, c, box, area, flags) in enumerate(boxes, 1)
        ],
    }
    (folder / "some.json").write_text(json.dumps(content))
    return folder / "some.json"


@pytest.fixture(scope="module")
def done(source):
    outputs = [f"--json={source.parent}/new/s.json", f"--plot={source.parent}/new/s.png"]
    for _ in range(2):
        # The second call replaces its own files.
        done = stats(f"--data={source}", "--set=model.image_size=100x200", *outputs)
        assert done.returncode == 0, done.stderr
    return done


def test_prints_a_table(done, source):
    lines = done.stdout.splitlines()
    assert lines[:5] == [
        f"{source}: format coco",
        "",
        "train: 3 images, 1 of them without objects",
        "4 objects, 1.333 an image on average; besides 1 crowd regions, 1 ignored objects; "
        "1 marked as difficult",
        "",
    ]
    rows = [line.split() for line in lines]
    assert ["min", "p5", "median", "p95", "max"] in rows
    assert ["image", "width", "100", "100", "100", "370", "400"] in rows
    assert ["original", "2", "(50%)", "1", "(25%)", "1", "(25%)"] in rows
    # Halves of the first image, the second as it is.
    assert ["at", "200", "x", "100", "2", "(50%)", "2", "(50%)", "0", "(0%)"] in rows
    assert rows[-6:-2] == [
        ["class", "id", "images", "objects", "share"],
        ["dog", "5", "2", "3", "75.0%"],
        ["cat", "2", "1", "1", "25.0%"],
        ["$_$", "9", "0", "0", "0.0%"],
    ]
    assert lines[-2:] == [f"Written to {source.parent}/new/s.{end}" for end in ("json", "png")]


def test_writes_the_numbers_as_json(done, source):
    content = json.loads((source.parent / "new" / "s.json").read_text())
    assert content["format"] == "coco"
    numbers = content["splits"]["train"]
    assert numbers["objects_per_image"] == {
        **{"min": 0, "p5": 0.1, "median": 1, "p95": 2.8, "max": 3, "mean": 1.3333}
    }
    assert numbers["object_size"]["median"] == pytest.approx((20 + 64) / 2)
    assert numbers["object_size_at_input"]["max"] == pytest.approx(20000**0.5 / 2, abs=1e-4)
    assert numbers["object_aspect"]["max"] == 2 and numbers["object_aspect"]["min"] == 0.25
    assert numbers["input_size"] == [100, 200]
    assert numbers["classes"][1] == {
        **{"id": 5, "name": "dog", "images": 2, "objects": 3, "share": 0.75}
    }


def test_draws_histograms(done, source):
    image = PIL.Image.open(source.parent / "new" / "s.png").convert("RGB")
    assert image.size == (1430, 880)
    assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 50


def test_both_splits_are_drawn_and_counted(source, tmp_path):
    for split in ("train", "val"):
        conversion.convert(str(source), "voc", tmp_path / "voc", [split])
    arguments = [f"--data={tmp_path}/voc", f"--plot={tmp_path}/d.png", "--model=efficientdet-lite0"]
    done = stats(*arguments)
    assert done.returncode == 0, done.stderr
    assert "train: 3 images" in done.stdout and "val: 3 images" in done.stdout
    assert "at 320 x 320" in done.stdout
    assert PIL.Image.open(tmp_path / "d.png").size == (1430, 880)


def test_a_set_without_objects_is_no_error(tmp_path):
    PIL.Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 4, "name": "cat"}],
        "annotations": [],
    }
    (tmp_path / "some.json").write_text(json.dumps(content))
    done = stats(f"--data={tmp_path / 'some.json'}", f"--plot={tmp_path}/d.png")
    assert done.returncode == 0 and "0 objects, 0 an image on average" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data is missing: Data set: a path, or 'digits' (built in)."),
        (["--data=digits", "--plot=x.jpg"], "--plot: x.jpg is not named as a PNG file; use e.g. "),
        (["--data=digits", "--json=mine.json"], "--json: mine.json exists and was not written by "),
        (["--data=digits", "--plot=mine.png"], "--plot: mine.png exists and was not written by "),
        (["--data=no"], "no: no such file or folder"),
    ],
)
def test_complains_in_one_line(arguments, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text("{}")
    (tmp_path / "mine.png").write_text("mine")
    done = stats(*arguments)
    [line] = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (1, "")
    assert line.startswith(f"data: {message}")
    assert (tmp_path / "mine.json").read_text() == "{}"
