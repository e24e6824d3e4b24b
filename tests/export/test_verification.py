"""Verification of exported files beside the Keras model."""

import dataclasses
import re

import numpy as np
import pytest

from efficientdet_tf import model as model_lib
from efficientdet_tf.cli import command_line
from efficientdet_tf.data import digits, load
from efficientdet_tf.data.records import DataError
from efficientdet_tf.detector import Detector
from efficientdet_tf.errors import UserError
from efficientdet_tf.evaluation import verified_files
from efficientdet_tf.inference.detections import Detections
from efficientdet_tf.run_directory import RunDirectory
from export import __main__ as command
from export import formats
from export.calibration import representative_images
from export.operators import operators
from export.peak_memory import peak_memory
from export.verification import Verification, VerificationError, compare


def detections(*rows):
    """Detections of rows (ymin, xmin, ymax, xmax, score, class index)."""
    values = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(values[:, :4], values[:, 4], values[:, 5].astype(np.int32))


def test_differences_are_those_of_the_nearest_detections_of_a_class():
    expected = detections((0, 0, 10, 10, 0.9, 0), (50, 50, 70, 70, 0.5, 1), (0, 0, 9, 9, 0.2, 0))
    found = detections((0, 1, 10, 12, 0.8, 0), (50, 50, 70, 70, 0.9, 0), (51, 50, 71, 70, 0.45, 1))
    box, score, lost = compare([expected], [found])
    assert (box, lost) == (2, 0)
    assert score == pytest.approx(0.1, abs=1e-6)


def test_what_has_no_counterpart_is_lost():
    expected = detections((0, 0, 10, 10, 0.9, 0), (50, 50, 70, 70, 0.5, 1))
    # Another class, and another place.
    found = detections((0, 0, 10, 10, 0.9, 1), (60, 60, 80, 80, 0.5, 1))
    assert compare([expected], [found]) == (0, 0, 1)
    assert compare([expected], [detections()]) == (0, 0, 1)
    assert compare([detections()], [found]) == (0, 0, 0)


def test_a_file_is_measured_beside_the_model(tiny_run, data_path, tmp_path, capsys):
    arguments = [f"--model_dir={tiny_run}", f"--output={tmp_path}", "--format=tflite_raw"]
    arguments += ["--verify", f"--data={data_path}"]
    assert command_line.call(command.COMMAND, arguments) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"tflite_raw: {tmp_path}/model_raw.tflite (")
    assert out[-1] == f"Written to {tmp_path}/verification.json"
    assert verified_files.is_own(tmp_path / "verification.json")
    [result] = verified_files.read(tmp_path / "verification.json")
    assert (result.format, result.is_kept) == ("tflite_raw", True)
    assert result.size == (tmp_path / "model_raw.tflite").stat().st_size
    assert result.ap > 0.3 and abs(result.ap_drop) < 0.01 and result.lost == 0
    assert result.box_difference < 0.5 and result.score_difference < 1e-3
    assert set(result.latency_ms) == {1, 2, 4}
    # Activations of the first level alone: 64 x 80 x 8 of four bytes.
    assert result.peak_memory > 64 * 80 * 8 * 4
    assert out[-3] == verified_files.table([result]).splitlines()[1]


def test_a_file_that_loses_too_much_does_not_replace_another(tiny_run, data_path, tmp_path):
    run = RunDirectory(tiny_run)
    model, config, labels = run.load_model(), run.config(), run.label_map()
    verification = Verification(model, config, labels, load(data_path), 0.01)
    formats.Exporter(model, config, labels, tmp_path).write("tflite_raw")
    before = (tmp_path / "model_raw.tflite").read_bytes()
    untrained = formats.Exporter(model_lib.build(config), config, labels, tmp_path)
    with pytest.raises(VerificationError) as error:
        untrained.write("tflite_raw", verification.check)
    assert re.fullmatch(
        rf"tflite_raw: AP 0\.\d+ on {data_path}, [01]\.\d+ below the model's; not kept, as "
        r"--max_ap_drop=0\.01 is allowed",
        str(error.value),
    )
    assert (tmp_path / "model_raw.tflite").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model_raw.tflite"]


def test_images_that_cannot_be_read_are_passed_over(tiny_run, data_path, exported):
    run = RunDirectory(tiny_run)
    data = load(data_path)
    damaged = dataclasses.replace(data.records[0], image_id=2, image=b"damaged", name="2.jpg")
    some = dataclasses.replace(data, records=[damaged, *data.records])
    verification = Verification(run.load_model(), run.config(), run.label_map(), some, 1.0)
    verification.check("tflite_raw", exported / "model_raw.tflite", 1)
    assert verification.results[0].box_difference < 0.5
    none = dataclasses.replace(data, records=[damaged])
    with pytest.raises(DataError) as error:
        Verification(run.load_model(), run.config(), run.label_map(), none, 1.0)
    assert str(error.value) == f"{data_path}: no image can be read; choose another --data"


@pytest.mark.parametrize("content", ['{"mine": 1}', '[{"format": "tflite"}]', "[1]", "[", "7"])
def test_a_report_of_the_user_is_not_overwritten(tiny_run, tmp_path, capsys, content):
    (tmp_path / "verification.json").write_text(content)
    arguments = [f"--model_dir={tiny_run}", f"--output={tmp_path}", "--format=tflite", "--verify"]
    assert command_line.call(command.COMMAND, arguments) == 1
    assert capsys.readouterr().err == (
        f"export: --output: {tmp_path}/verification.json exists and was not written by this "
        "command; choose another name or folder, or move it away\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["verification.json"]


class Refusal:
    """Verification that accepts int8 only with enough layers in float32."""

    def __init__(self, least):
        self.least, self.seen = least, []

    def check(self, name, path, size, float_layers=()):
        self.seen.append(len(float_layers))
        if len(float_layers) < self.least:
            raise VerificationError(f"{name}: {len(float_layers)} layers")


@pytest.fixture(scope="module")
def int8_exporter(tiny_run, tmp_path_factory):
    """Function that makes an exporter with representative images to a folder."""
    run, data = RunDirectory(tiny_run), digits.load("val", num_images=8)
    images = representative_images(data, run.config(), 8)
    model = run.load_model()
    return lambda folder: formats.Exporter(model, run.config(), run.label_map(), folder, images)


def test_layers_are_kept_in_float_until_int8_loses_little_enough(
    int8_exporter, tmp_path, photograph, capsys
):
    exporter, refusal = int8_exporter(tmp_path), Refusal(least=3)
    path = command._write_verified("tflite_int8", exporter, refusal)
    assert refusal.seen == [0, 2, 4]
    layers = exporter.tflite.float_layers
    assert len(set(layers)) == 4
    assert capsys.readouterr().out == (
        f"tflite_int8: in float32, as int8 loses too much: {', '.join(layers)}\n"
    )
    # It still takes bytes, and most of it is int8.
    kinds = {(row.name, row.numbers) for row in operators(path.read_bytes())}
    assert {("DEQUANTIZE", "UINT8"), ("CONV_2D", "FLOAT32"), ("CONV_2D", "INT8")} <= kinds
    [found] = Detector.load(path).detect([photograph])
    [expected] = Detector.load(exporter.write("tflite")).detect([photograph])
    _, _, lost = compare([expected], [found])
    assert len(expected.above(0.3)) > 5 and lost < 0.2
    # The next format has the same network.
    command._write_verified("tflite_raw_int8", exporter, refusal)
    assert refusal.seen[3:] == [4]


@pytest.mark.thorough
def test_int8_that_never_holds_is_refused(int8_exporter, tmp_path):
    exporter, refusal = int8_exporter(tmp_path), Refusal(least=10_000)
    with pytest.raises(VerificationError) as error:
        command._write_verified("tflite_int8", exporter, refusal)
    number = len(exporter.tflite.float_layers)
    assert str(error.value) == f"tflite_int8: {number} layers"
    assert refusal.seen[:5] == [0, 2, 4, 8, 16] and refusal.seen[-1] == number
    assert list(tmp_path.iterdir()) == []


@pytest.mark.thorough
def test_every_format_holds(int8_exporter, exported, data_path, tmp_path):
    exporter = int8_exporter(tmp_path)
    verification = Verification(
        exporter.model, exporter.config, exporter.label_map, load(data_path), max_ap_drop=1.0
    )
    for name, format in formats.FORMATS.items():
        # Of the same run, where it is written already.
        path = exported / format.file
        if path.exists():
            verification.check(name, path, formats.size_of(path))
            continue
        exporter.write(name, verification.check)
        if not format.has_versions:
            assert verification.results[-1].size == formats.size_of(tmp_path / format.file)
    found = {result.format: result for result in verification.results}
    assert list(found) == list(formats.FORMATS)
    for name, result in found.items():
        # The network is untrained: rounding changes much more than in a trained one.
        is_rounded = name.endswith(("_dynamic", "_int8"))
        assert result.lost <= (0.4 if is_rounded else 0.0), name
        assert is_rounded or result.ap_drop < 0.01, name
    assert found["web"].size > 18e6
    assert found["tflite_int8"].size < 0.6 * found["tflite"].size


def test_a_file_that_no_process_can_run_is_one_line(tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"damaged")
    with pytest.raises(UserError) as error:
        peak_memory(tmp_path / "model.tflite")
    text = str(error.value)
    assert text.startswith(f"{tmp_path}/model.tflite: cannot be run by itself: ")
    assert "\n" not in text


def test_a_report_that_cannot_be_written_is_said(tmp_path, capsys):
    command._update_report(str(tmp_path))
    assert capsys.readouterr().out == (
        f"Not listed in the report: {tmp_path}: no config.yaml; is this a run directory?\n"
    )
