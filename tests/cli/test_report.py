"""`efficientdet-report`: output and refusals."""

import re
from pathlib import Path

import numpy as np
import pytest
import tf_keras as keras

import tiny
from efficientdet_tf import data as data_lib
from efficientdet_tf import model as model_lib
from efficientdet_tf.cli import command_line, report
from efficientdet_tf.data import digits
from efficientdet_tf.data.coco_writer import write_coco
from efficientdet_tf.data.records import DataError, LabelMap
from efficientdet_tf.run_directory import RunDirectory, RunDirectoryError

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`run` with weights, and its validation data; the training set is missing."""
    folder = tmp_path_factory.mktemp("report")
    write_coco(digits.load("val", num_images=3), folder)
    config = tiny.config(
        **{
            "model.num_classes": 10,
            "data.val": str(folder / "annotations.json"),
            "data.train": str(folder / "gone.json"),
        }
    )
    directory = RunDirectory(folder / "run")
    directory.create(config, digits.LABEL_MAP)
    keras.utils.set_random_seed(0)
    model = model_lib.build(config)
    directory.save_weights(model, "best")
    for weight in model.get_layer("class_head").weights:
        # Every score is that of the last layer's bias, almost zero.
        weight.assign(np.full(weight.shape, -20.0 if weight.shape == (90,) else 0.0))
    directory.save_weights(model, "last")
    return folder


def test_the_report_of_a_run(folder, caplog):
    path = report.report(str(folder / "run"), "best")
    assert path == folder / "run" / "report.html"
    text = path.read_text()
    assert "efficientdet-lite0" in text and "measured on 3 images" in text
    # The other part is still there.
    assert "The training set cannot be read any more." in text
    assert f"report without the training set: {folder / 'gone.json'}: " in caplog.text


def test_it_is_of_the_weights_that_are_asked_for(folder):
    sure, unsure = (
        report.report(str(folder / "run"), name).read_text() for name in ("best", "last")
    )
    objects = sum(len(r.boxes) for r in data_lib.load(str(folder / "annotations.json")).records)
    # Weights without detections: all objects are false negatives, no false positives.
    assert "background \u2192" not in unsure and unsure != sure
    missed = [int(part.split(" of ")[0]) for part in unsure.split("\u2192 background: ")[1:]]
    assert sum(missed) == objects


def test_other_classes_than_those_of_the_run_are_refused(folder, tmp_path):
    directory = RunDirectory(tmp_path)
    directory.create(
        RunDirectory(folder / "run").config(), LabelMap(tuple(range(10)), tuple("abcdefghij"))
    )
    with pytest.raises(DataError) as error:
        report.report(str(tmp_path), "best")
    assert str(error.value) == (
        f"{folder / 'annotations.json'}: class '0' (id 0) is not a class of the run; its classes: "
        "'a' (id 0), 'b' (id 1), 'c' (id 2), 'd' (id 3), 'e' (id 4) and 5 more"
    )


def test_a_run_is_compared_with_another(folder, tmp_path, capsys):
    other = tmp_path / "other"
    directory = RunDirectory(other)
    # With classes in another order: only their names matter.
    label_map = LabelMap(digits.LABEL_MAP.ids[::-1], digits.LABEL_MAP.names[::-1])
    directory.create(RunDirectory(folder / "run").config(), label_map)
    keras.utils.set_random_seed(1)
    directory.save_weights(model_lib.build(directory.config()), "best")
    arguments = [f"--model_dir={folder / 'run'}", f"--against={other}"]
    assert command_line.call(report.COMMAND, arguments) == 0
    summary, written = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        rf"AP \d\.\d{{3}} against \d\.\d{{3}} of {other}: difference [+-]\d\.\d{{3}}, "
        "no interval from fewer than 10 images with objects",
        summary,
    )
    assert written == f"Written to {folder / 'run' / 'report.html'}"
    text = (folder / "run" / "report.html").read_text()
    assert f"<h2>Compared with {other}</h2>" in text


def test_another_run_that_cannot_be_compared_is_refused(folder, tmp_path):
    with pytest.raises(RunDirectoryError) as error:
        report.report(str(folder / "run"), "best", str(tmp_path))
    assert str(error.value) == f"{tmp_path}: no config.yaml; is this a run directory?"


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(RunDirectoryError) as error:
        report.report(str(tmp_path), "best")
    assert str(error.value) == f"{tmp_path}: no config.yaml; is this a run directory?"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "report: --model_dir is missing: Run directory, which report.html is written to."),
        (["--model_dir=nowhere"], "report: nowhere: no config.yaml; is this a run directory?"),
        (["more"], "report: unexpected argument 'more'; see --help"),
    ],
)
def test_complains_in_one_line(arguments, message, capsys):
    assert command_line.call(report.COMMAND, arguments) == 1
    assert capsys.readouterr() == ("", f"{message}\n")
