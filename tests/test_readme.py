"""README.md is correct: its commands run, its tables and links are right."""

import contextlib
import json
import os
import pathlib
import re
import shlex

import numpy as np
import PIL.Image
import pytest
import yaml

import commands as program
import tiny
from efficientdet_tf import data as data_lib
from efficientdet_tf.config import Config
from efficientdet_tf.data import conversion
from efficientdet_tf.data.tfrecord import write_tfrecord

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
NOT_RUN = "not run by the tests"

# Training as in the README, but of a small network for one step.
SMALL = [
    *("--epochs=1", "--batch_size=2", "--set=training.steps_per_epoch=1"),
    *(f"--set={key}={value}" for key, value in tiny.NETWORK.items()),
]
# They fit the whole backbone only, see `checkpoints/test_pretrained.py`.
IMAGENET = "--pretrained=imagenet"


def blocks(language: str) -> list[str]:
    """Return the code blocks of a language that are meant to run."""
    pattern = rf"(<!--[^>]*-->\n)?```{language}\n(.*?)```"
    return [code for comment, code in re.findall(pattern, README, re.DOTALL) if not comment]


def commands() -> list[list[str]]:
    """Return the commands of the blocks in order, split into words."""
    joined = "\n".join(blocks("bash")).replace("\\\n", " ")
    return [shlex.split(line) for line in joined.splitlines() if line.strip()]


def table(heading: str) -> list[list[str]]:
    """Return the cells of the rows of the table whose heading starts with `heading`."""
    lines = README.partition(f"| {heading} |")[2].splitlines()[2:]
    rows = lines[: next(i for i, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Checkout with data as in the README, in each format."""
    place = tmp_path_factory.mktemp("readme")
    for name in ("train.py", "eval.py", "efficientdet_tf", "keras_layers", "export"):
        (place / name).symlink_to(REPOSITORY / name)
    write_images(place / "data")
    write_coco(place / "data")
    write_voc(place / "data" / "voc")
    write_yolo(place / "data" / "yolo")
    for split in ("train", "val"):
        data = data_lib.load(str(place / "data" / f"{split}.json"))
        (place / "data" / "records").mkdir(exist_ok=True)
        write_tfrecord(data, str(place / "data" / "records" / f"{split}.tfrecord"))
    write_cvat(place / "data" / "cvat")
    write_labelme(place / "data" / "labelme")
    write_tf_csv(place / "data" / "csv")
    for split in SPLITS:
        source = str(place / "data" / f"{split}.json")
        conversion.convert(source, "csv", place / "data" / "open_images", [split])
    return place


SPLITS = {"train": (1, 2, 3), "val": (4, 5)}
SIZE = 96, 64
BOX = 10, 20, 40, 30  # x, y, width, height


def write_images(folder):
    (folder / "images").mkdir(parents=True)
    for number in (*SPLITS["train"], *SPLITS["val"]):
        pixels = np.random.default_rng(number).integers(0, 255, (SIZE[1], SIZE[0], 3), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / "images" / f"{number}.jpg")


def write_coco(folder):
    for split, numbers in SPLITS.items():
        content = {
            "categories": [{"id": 7, "name": "cat"}],
            "images": [
                {"id": n, "file_name": f"{n}.jpg", "width": SIZE[0], "height": SIZE[1]}
                for n in numbers
            ],
            "annotations": [
                {"id": n, "image_id": n, "category_id": 7, "bbox": BOX, "area": 1200, "iscrowd": 0}
                for n in numbers
            ],
        }
        (folder / f"{split}.json").write_text(json.dumps(content))


def write_voc(folder):
    (folder / "Annotations").mkdir(parents=True)
    (folder / "JPEGImages").symlink_to("../images")
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    x, y, width, height = BOX
    for split, numbers in SPLITS.items():
        names = "\n".join(map(str, numbers))
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text(names)
        for n in numbers:
            (folder / "Annotations" / f"{n}.xml").write_text(
                f"<annotation><filename>{n}.jpg</filename><size><width>{SIZE[0]}</width>"
                f"<height>{SIZE[1]}</height><depth>3</depth></size><object><name>cat</name>"
                f"<bndbox><xmin>{x}</xmin><ymin>{y}</ymin><xmax>{x + width}</xmax>"
                f"<ymax>{y + height}</ymax></bndbox></object></annotation>"
            )


def write_yolo(folder):
    folder.mkdir()
    content = {"path": str(folder), "names": {0: "cat"}}
    x, y, width, height = BOX
    center = (x + width / 2) / SIZE[0], (y + height / 2) / SIZE[1]
    for split, numbers in SPLITS.items():
        content[split] = f"{split}/images"
        (folder / split / "images").mkdir(parents=True)
        (folder / split / "labels").mkdir()
        for n in numbers:
            (folder / split / "images" / f"{n}.jpg").symlink_to(folder.parent / f"images/{n}.jpg")
            (folder / split / "labels" / f"{n}.txt").write_text(
                f"0 {center[0]} {center[1]} {width / SIZE[0]} {height / SIZE[1]}"
            )
    (folder / "data.yaml").write_text(yaml.safe_dump(content))


def write_cvat(folder):
    folder.mkdir()
    (folder / "images").symlink_to("../images")
    x, y, width, height = BOX
    box = f'<box label="cat" xtl="{x}" ytl="{y}" xbr="{x + width}" ybr="{y + height}"></box>'
    images = [
        f'<image id="{n}" name="{n}.jpg" subset="{subset}" width="{SIZE[0]}" height="{SIZE[1]}">'
        f"{box}</image>"
        for subset, split in (("Train", "train"), ("Validation", "val"))
        for n in SPLITS[split]
    ]
    labels = "<meta><task><labels><label><name>cat</name></label></labels></task></meta>"
    content = f"<annotations>{labels}{''.join(images)}</annotations>"
    (folder / "annotations.xml").write_text(content)


def write_labelme(folder):
    x, y, width, height = BOX
    points = [[x, y], [x + width, y + height]]
    for split, numbers in SPLITS.items():
        (folder / split).mkdir(parents=True)
        for n in numbers:
            content = {
                "shapes": [{"label": "cat", "shape_type": "rectangle", "points": points}],
                "imagePath": f"../../images/{n}.jpg",
                "imageWidth": SIZE[0],
                "imageHeight": SIZE[1],
            }
            (folder / split / f"{n}.json").write_text(json.dumps(content))


def write_tf_csv(folder):
    x, y, width, height = BOX
    folder.mkdir()
    for split, numbers in SPLITS.items():
        rows = [
            f"{n}.jpg,{SIZE[0]},{SIZE[1]},cat,{x},{y},{x + width},{y + height}" for n in numbers
        ]
        lines = ["filename,width,height,class,xmin,ymin,xmax,ymax", *rows]
        (folder / f"{split}_labels.csv").write_text("\n".join(lines))


def run(place, words, alone):
    """Run the arguments of "python" in `place`; `alone`: in a separate process."""
    if alone:
        # The second has the small backbone.
        folders = os.pathsep.join((str(place), str(REPOSITORY / "tests")))
        done = program.start(*words, cwd=place, env={**os.environ, "PYTHONPATH": folders})
        # What TensorFlow tells of itself is not for the user.
        assert unknown_lines(done.stderr) == [], shlex.join(words)
    else:
        with contextlib.chdir(place):
            done = program.call(*words)
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"


def unknown_lines(err: str) -> list[str]:
    """Return a command's output without progress bars and the lines of epochs."""
    bar = r"[\w/:. ]*\d+%\|[^|]*\| \d+/\d+ \[[^]]*\]"
    ours = rf"(?:{bar})* *(?:epoch \d+: loss [\w. ]*)?"
    return [line for line in re.split(r"[\r\n]+", err) if not re.fullmatch(ours, line)]


@pytest.fixture(scope="module")
def place_after_commands(place):
    """`place`, in which all commands of the README have been run."""
    seen = set()
    for python, *words in commands():
        assert python == "python", python
        name = tuple(word for word in words if not word.startswith("-") or word == "-m")[:3]
        if words[0] == "train.py":
            words = [word for word in words if word != IMAGENET] + SMALL
        # The first of each, to see that it starts.
        run(place, words, alone=name not in seen)
        seen.add(name)
    return place


@pytest.mark.readme
def test_the_commands_run(place_after_commands):
    words = {word for command in commands() for word in command}
    assert words >= {"train.py", "eval.py", "export"}
    assert words >= {"efficientdet_tf", "predict", "report", "data"}
    for path in (
        "runs/mine/best.weights.h5",
        "runs/mine/last.weights.h5",
        "runs/mine/metrics.csv",
        "runs/mine/evaluation/evaluation.json",
        "runs/mine/hard/pr_curves.png",
        "runs/mine/report.html",
        "runs/mine/export/saved_model/saved_model.pb",
        "runs/mine/export/model_int8.tflite",
        "nasfpn.svg",
        "grid.png",
        "stats.png",
        "data/converted/data.yaml",
        "data/parts/val.json",
        "data-check/check.html",
        "anchors.png",
        "found/1.jpg",
        "found/detections.json",
        "labels/coco/annotations.json",
        "labels/detections.csv",
    ):
        assert (place_after_commands / path).is_file(), path


@pytest.mark.readme
def test_the_python_runs(place_after_commands):
    code = blocks("python")
    assert len(code) == 3
    program = "\n".join(code)
    classes = '"model.num_classes": len(data.label_map)'
    assert program.count(classes) == 1
    small = ", ".join(f'"{key}": {value!r}' for key, value in tiny.NETWORK.items())
    with contextlib.chdir(place_after_commands):
        exec(program.replace(classes, f"{classes}, {small}"), {})


def test_what_is_not_run_says_so():
    comments = re.findall(r"(<!--[^>]*-->)\n```(?:bash|python)", README)
    assert comments and all(NOT_RUN in comment for comment in comments)


@pytest.mark.parametrize(("name", "path", "_"), table("Format"), ids=lambda cell: cell.split()[0])
def test_each_format_is_told_by_its_path(place, monkeypatch, name, path, _):
    monkeypatch.chdir(place)
    data = data_lib.load(path.strip("`"), split="train")
    if name == "built in":
        assert data.label_map.names == tuple("0123456789")
        return
    assert len(data) == len(SPLITS["train"])
    assert data.label_map.names == ("cat",)
    x, y, width, height = BOX
    expected = [y, x, y + height, x + width]
    np.testing.assert_allclose(data.records[0].boxes, [expected], atol=1e-3)


@pytest.mark.parametrize(("key", "default", "_"), table("Setting"), ids=lambda cell: cell[:40])
def test_each_setting_exists_with_its_default(key, default, _):
    section, field = key.strip("`").split(".")
    value = Config().to_dict()[section][field]
    if default != "of the model":
        assert yaml.safe_load(default.strip("`")) == value


@pytest.mark.parametrize("path", re.findall(r"\]\((?!https?:)([^)]+)\)", README))
def test_each_link_leads_somewhere(path):
    assert (REPOSITORY / path).is_file()
