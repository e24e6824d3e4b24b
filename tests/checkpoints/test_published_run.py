"""Published models by name: detecting, evaluating and exporting without a training."""

import json

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from efficientdet_tf import model as model_lib
from efficientdet_tf.checkpoints.download import DownloadError
from efficientdet_tf.checkpoints.published_run import local_model
from efficientdet_tf.checkpoints.reference import reference_name
from efficientdet_tf.cli import command_line
from efficientdet_tf.cli import eval as eval_command
from efficientdet_tf.config import Config
from efficientdet_tf.data.coco_classes import COCO_LABELS
from efficientdet_tf.detector import Detector
from efficientdet_tf.files import WriteError
from efficientdet_tf.run_directory import RunDirectory
from export import __main__ as export_command

NAME = "efficientdet-lite0"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Cache folder with the unpacked archive of a model, and its network."""
    monkeypatch.setenv("EFFICIENTDET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EFFICIENTDET_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    config = Config.for_model(NAME)
    network = model_lib.build(config)
    values = {reference_name(v.name, config): v.numpy() for v in network.weights}
    folder = tmp_path / "cache" / NAME / NAME
    folder.mkdir(parents=True)
    tf.raw_ops.SaveV2(
        prefix=str(folder / "model"),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )
    return tmp_path / "cache", network


def test_a_name_stands_for_a_run_of_the_published_model(cache, tmp_path, photograph, capsys):
    folder, network = cache
    run = RunDirectory(local_model(NAME))
    assert run.path == folder / "runs" / NAME
    assert run.config() == Config.for_model(NAME) and run.label_map() == COCO_LABELS
    for ours, theirs in zip(run.load_model().get_weights(), network.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # Made once, and nothing else is left.
    capsys.readouterr()
    assert local_model(NAME) == run.path and capsys.readouterr().out == ""
    assert [path.name for path in run.path.parent.iterdir()] == [NAME]
    detector = Detector.load(NAME)
    assert detector.label_map.names[17] == "dog"
    assert len(detector.detect(photograph)) == 1
    # A path of that name goes first.
    (tmp_path / NAME).mkdir()
    assert str(local_model(NAME)) == NAME


@pytest.mark.thorough
def test_it_is_evaluated_and_exported(cache, tmp_path, capsys):
    PIL.Image.new("RGB", (64, 48)).save(tmp_path / "1.png")
    image = {"id": 1, "file_name": "1.png", "width": 64, "height": 48}
    box = {
        "id": 1,
        "image_id": 1,
        "category_id": 18,
        "bbox": [3, 3, 9, 9],
        "area": 81,
        "iscrowd": 0,
    }
    classes = [{"id": 18, "name": "dog"}]
    content = {"images": [image], "annotations": [box], "categories": classes}
    (tmp_path / "val.json").write_text(json.dumps(content))
    call = [f"--model_path={NAME}", "--data=val.json"]
    assert command_line.call(eval_command.COMMAND, call) == 0
    assert "1 images\n" in capsys.readouterr().out
    assert (tmp_path / f"{NAME}-evaluation" / "evaluation.json").is_file()
    call = [f"--model_dir={NAME}", "--format=tflite_int8"]
    assert command_line.call(export_command.COMMAND, call) == 1
    assert capsys.readouterr().err == (
        "export: --calibration_data is missing: images that int8 is calibrated with; the run names "
        "no training data\n"
    )
    call = [f"--model_dir={NAME}", "--format=tflite_raw"]
    assert command_line.call(export_command.COMMAND, call) == 0
    assert (tmp_path / f"{NAME}-export" / "model_raw.tflite").is_file()


def test_a_cache_that_cannot_be_written_is_one_line(cache):
    folder, _ = cache
    (folder / "runs").write_text("no folder")
    with pytest.raises(WriteError) as error:
        local_model(NAME)
    assert str(error.value) == f"{folder}/runs/{NAME}: cannot be written: File exists"


def test_weights_that_are_not_there_leave_no_run(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFICIENTDET_CACHE", str(tmp_path))
    monkeypatch.setenv("EFFICIENTDET_OFFLINE", "1")
    with pytest.raises(DownloadError, match="offline by EFFICIENTDET_OFFLINE; put the file at "):
        Detector.load("efficientdet-lite0")
    assert not (tmp_path / "runs").exists()


def test_the_classes_are_those_of_coco(shared_data):
    """Ninety outputs, of which ten are in no annotation."""
    [file] = (shared_data / "coco128" / "annotations").glob("*.json")
    listed = {item["id"]: item["name"] for item in json.loads(file.read_text())["categories"]}
    ours = dict(zip(COCO_LABELS.ids, COCO_LABELS.names, strict=True))
    assert {number: ours[number] for number in listed} == listed
    unused = sorted(ours.keys() - listed.keys())
    assert unused == [12, 26, 29, 30, 45, 66, 68, 69, 71, 83]
    assert all(ours[number] == f"unused {number}" for number in unused)
