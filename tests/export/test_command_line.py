"""`python -m export`: output, files and errors."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from efficientdet_tf.cli import command_line
from efficientdet_tf.output_files import OutputError
from export import __main__ as command
from export import formats

REPOSITORY = Path(__file__).resolve().parents[2]


def export(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "export", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )


def test_prints_each_file_with_its_size(exported):
    assert (exported / "printed" / "stderr").read_text() == ""
    lines = (exported / "printed" / "stdout").read_text().splitlines()
    names = ["saved_model", "tflite", "tflite_float16", "tflite_int8", "tflite_raw"]
    names += ["onnx", "onnx_raw"]
    for line, name in zip(lines, names, strict=True):
        path = exported / formats.FORMATS[name].file
        assert line == f"{name}: {path} ({formats.size_of(path) / 1e6:.1f} MB)"


def test_the_help_names_every_format():
    named = re.findall(r"\w+", command.define_flags()["format"].help)
    assert [name for name in formats.FORMATS if name not in named] == []


def test_no_partial_files_remain(exported):
    suffixes = ("", "_float16", "_int8", "_raw")
    files = {f"model{suffix}.tflite" for suffix in suffixes}
    assert set(os.listdir(exported)) == files | {
        *("model.onnx", "model_raw.onnx", "saved_model", "printed"),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "export: --model_dir is missing: Run directory of the model, whose best weights are "
            "used; or name of a published model, as efficientdet-d0.",
        ),
        (
            ["--model_dir=nowhere"],
            "export: nowhere: no config.yaml; is this a run directory?",
        ),
        (
            ["--model_dir=nowhere", "--format=tflite,coreml"],
            "export: --format: 'coreml' is unknown; use saved_model, serving, tflite, "
            "tflite_float16, tflite_dynamic, tflite_int8, tflite_raw, tflite_raw_float16, "
            "tflite_raw_dynamic, tflite_raw_int8, onnx, onnx_raw, web",
        ),
        (
            ["--model_dir=nowhere", "--set=model.num_classes=4"],
            "export: --set model.num_classes: only the detection settings of a trained model can "
            "change",
        ),
        (
            ["--model_dir=nowhere", "--format=tflite_int8", "--data=val.json"],
            "export: --data: is for --verify and --compare only; add one of them, or use "
            "--calibration_data for the images of int8",
        ),
    ],
)
def test_errors_are_one_line(arguments, message, capsys):
    assert command_line.call(command.COMMAND, arguments) == 1
    assert capsys.readouterr() == ("", f"{message}\n")


def test_a_failed_export_keeps_the_previous_one(tmp_path, monkeypatch):
    def write(exporter, path):
        path.write_text("half")
        if exporter.model == "bad":
            raise OSError(28, "No space left on device")
        path.write_text(exporter.model)

    def export(model):
        return formats.Exporter(model, None, None, tmp_path / "new").write("test")

    monkeypatch.setitem(formats.FORMATS, "test", formats.Format("file", write, None))
    assert export("first") == tmp_path / "new/file"
    with pytest.raises(formats.ExportError, match="cannot be written: No space left on device$"):
        export("bad")
    assert (tmp_path / "new/file").read_text() == "first"
    export("second")
    assert (tmp_path / "new/file").read_text() == "second"
    assert os.listdir(tmp_path / "new") == ["file"]


def test_a_folder_is_replaced_as_a_whole(tmp_path, monkeypatch):
    def write(exporter, path):
        path.mkdir()
        (path / exporter.model).touch()

    monkeypatch.setitem(formats.FORMATS, "test", formats.Format("folder", write, None))
    for name in ("old", "new"):
        formats.Exporter(name, None, None, tmp_path).write("test")
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(tmp_path / "folder") == ["new"]


def test_a_folder_whose_replacement_fails_is_back_in_its_place(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "old").touch()
    with pytest.raises(FileNotFoundError):
        formats._replace(tmp_path / "missing", tmp_path / "folder", tmp_path / "earlier")
    assert os.listdir(tmp_path) == ["folder"]
    assert os.listdir(tmp_path / "folder") == ["old"]


def test_a_format_that_fails_leaves_the_others(tiny_run, tmp_path, monkeypatch, capsys):
    def full(exporter, path):
        raise OSError(28, "No space left on device")

    def broken(exporter, path):
        raise ValueError("no such operator\nmore")

    def good(exporter, path):
        path.write_text("whole")

    for write in (full, broken, good):
        file = formats.Format(write.__name__, write, Path.is_file)
        monkeypatch.setitem(formats.FORMATS, write.__name__, file)
    arguments = [f"--model_dir={tiny_run}", f"--output={tmp_path}"]
    assert command_line.call(command.COMMAND, [*arguments, "--format=full,good"]) == 1
    line = f"full: not written: {tmp_path}: cannot be written: No space left on device\n"
    written = f"good: {tmp_path}/good (0.0 MB)\n"
    failed = "export: 1 of 2 formats were not written\n"
    assert capsys.readouterr() == (written, line + failed)
    assert os.listdir(tmp_path) == ["good"]
    # A fault of a converter is raised at the end, for its traceback.
    with pytest.raises(ValueError, match="^no such operator"):
        command_line.call(command.COMMAND, [*arguments, "--format=full,broken,good"])
    reason = "broken: not written: ValueError: no such operator\n"
    assert capsys.readouterr() == (written, line + reason)


def test_an_earlier_export_is_replaced(exported):
    formats.check(list(formats.FORMATS), exported)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("tflite", "model.tflite"),
        ("tflite_float16", "model_float16.tflite"),
        ("saved_model", "saved_model/saved_model.pb"),
        ("saved_model", "saved_model"),
    ],
)
def test_a_model_of_the_user_is_not_replaced(tmp_path, name, file):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(b"1234TFL3 of somebody else")
    with pytest.raises(OutputError) as error:
        formats.check(["tflite", "saved_model", name], tmp_path)
    assert str(error.value) == (
        f"--output: {tmp_path / formats.FORMATS[name].file} exists and was not written by this "
        "command; choose another name or folder, or move it away"
    )


def test_a_file_of_the_user_beside_our_model_is_not_lost(exported, tmp_path):
    shutil.copytree(exported / "saved_model", tmp_path / "saved_model")
    formats.check(["saved_model"], tmp_path)
    (tmp_path / "saved_model" / "notes.txt").touch()
    with pytest.raises(OutputError, match="saved_model exists and was not written by this"):
        formats.check(["saved_model"], tmp_path)
