"""The notebook: it is stored without outputs, and runs from data to phone."""

import contextlib
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import commands
import tiny
from efficientdet_tf.data.image_files import read_image
from efficientdet_tf.inference.detection_function import InputResize
from efficientdet_tf.run_directory import RunDirectory

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOK = json.loads(
    (REPOSITORY / "examples" / "train_to_phone.ipynb").read_text(encoding="utf-8")
)
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]

# Instead of a dozen minutes: a small network of the same kind for two steps on few images.
NUM_IMAGES = re.compile(r"--num_images=\d{2,}")
TRAINING = [
    *("--epochs=1", "--batch_size=2", "--set=training.steps_per_epoch=2"),
    *(f"--set={key}={value}" for key, value in tiny.EFFICIENTNET.items()),
]


def test_it_is_stored_without_outputs():
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert [cell["outputs"] for cell in CODE] == [[]] * len(CODE)
    assert [cell["execution_count"] for cell in CODE] == [None] * len(CODE)
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(ids)) == len(ids)


def test_its_links_lead_somewhere():
    texts = ["".join(cell["source"]) for cell in NOTEBOOK["cells"]]
    links = re.findall(r"\]\(([^)#]+)", "\n".join(texts))
    assert links
    assert not [link for link in links if not (REPOSITORY / "examples" / link).is_file()]


def run_command(line):
    """Run a line that starts with "!python", as a notebook does, in this process."""
    python, *words = shlex.split(NUM_IMAGES.sub("--num_images=6", line.removeprefix("!")))
    assert python == "python", line
    words += TRAINING if "train" in words else []
    done = commands.call(*words)
    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def run_cell(source, namespace):
    lines = source.replace("\\\n", "").splitlines()
    if lines[0].startswith("!"):
        for line in lines:
            run_command(line)
        return
    exec(compile(source, "<cell>", "exec"), namespace)


def test_it_runs_from_data_to_phone(tmp_path):
    namespace = {}
    with contextlib.chdir(tmp_path):
        for cell in CODE:
            run_cell("".join(cell["source"]), namespace)
    assert [row["epoch"] for row in namespace["epochs"]] == ["1"]
    folder = tmp_path / "digits"
    for path in ("run/report.html", "run/export/model.tflite", "grid.png", "train/00006.jpg"):
        assert (folder / path).is_file(), path
    # What the last cell does by hand is what the detector does.
    resize = InputResize.from_config(RunDirectory(folder / "run").config())
    expected, scale, _ = resize(tf.constant(read_image(folder / "val" / "00001.jpg")))
    # Of 255; Pillow rounds.
    difference = np.abs(namespace["pixels"][0] - expected.numpy())
    assert difference.mean() < 0.5
    assert 1 / namespace["scale"] == pytest.approx(float(scale[0]), rel=0.02)
    assert namespace["outputs"]["boxes"].shape == (1, 100, 4)
