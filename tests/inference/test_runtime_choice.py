"""Choice of the runtime of a run: the fastest exact one of the measurements, while they hold."""

import dataclasses
import shutil

import numpy as np
import pytest
from without_tensorflow import detections

import commands
from efficientdet_tf.detector import Detector, ModelError
from efficientdet_tf.inference.compared_runtimes import ComparedRuntime, RuntimeComparison
from efficientdet_tf.inference.runtime_choice import (
    Choice,
    describe_machine,
    fastest_exact,
    file_digest,
    run_digest,
)
from efficientdet_tf.run_directory import RunDirectory


def row(path, runtime, is_exact, latency):
    """Measurements of a file; more threads are faster."""
    return ComparedRuntime(
        *("run" if path is None else path.stem, runtime, 1_000_000, 0.5, is_exact, 1_000_000),
        *(("", "") if path is None else (path.name, file_digest(path))),
        latency_ms={1: (1.0 if path is None else 50.0, 60.0), 2: (latency, 2 * latency)},
        throughput={1: {1: 10.0}, 2: {1: 20.0}},
    )


@pytest.fixture
def run(tiny_run, exported, tmp_path):
    """Run whose ONNX file was measured to be the fastest exact one in OpenVINO."""
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    (folder / "export").mkdir()
    for name in ("model.tflite", "model_raw.onnx"):
        shutil.copy(exported / name, folder / "export" / name)
    return RunDirectory(folder)


def compared(run, *more, **changes):
    """Write the measurements of a run."""
    onnx, tflite = (run.path / "export" / name for name in ("model_raw.onnx", "model.tflite"))
    rows = [
        *(row(None, "keras", True, 20.0), row(tflite, "litert", False, 5.0)),
        *(row(onnx, "onnxruntime", True, 12.0), row(onnx, "openvino", True, 10.0)),
    ]
    comparison = RuntimeComparison(
        describe_machine(), run_digest(run), "data/val.json", 0.01, (*rows, *more)
    )
    comparison = dataclasses.replace(comparison, **changes)
    (run.path / "export" / "runtimes.json").write_text(comparison.to_json())


def test_a_run_needs_no_tensorflow_where_a_file_was_chosen(run, photograph):
    compared(run)
    boxes, _, _ = detections(run.path, photograph)
    [expected] = Detector.load(run.path / "export" / "model_raw.onnx", "openvino").detect(
        photograph
    )
    np.testing.assert_array_equal(boxes, expected.boxes)


def test_a_faster_folder_is_passed_over(run):
    path = run.path / "export" / "model_raw.onnx"
    saved_model = dataclasses.replace(
        row(path, "tensorflow", True, 1.0), format="saved_model", file="saved_model", file_digest=""
    )
    compared(run, saved_model)
    assert fastest_exact(run) == Choice(path, "openvino")


def test_the_fastest_file_with_the_detections_of_the_run_is_chosen(run, photograph):
    assert fastest_exact(run) is None
    compared(run)
    path = run.path / "export" / "model_raw.onnx"
    assert fastest_exact(run) == Choice(path, "openvino")
    detector = Detector.load(run.path)
    assert detector.description == f"{path} in openvino"
    keras = Detector.load(run.path, "keras")
    assert keras.description == ""
    [found], [expected] = detector.detect(photograph), keras.detect(photograph)
    assert len(found) == len(expected) > 20
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-2)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    # They are of different runtimes.
    assert not np.array_equal(found.scores, expected.scores)


def test_predict_says_which_it_takes(run, photograph, tmp_path):
    compared(run)
    predict = ("-m", "efficientdet_tf", "predict", f"--model_path={run.path}")
    arguments = (f"--input={photograph}", f"--output={tmp_path / 'found'}")
    done = commands.call(*predict, *arguments)
    first, _ = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert first == (
        f"{run.path}/export/model_raw.onnx in openvino: the fastest here with the detections of "
        "the run"
    )
    # Heat maps are of the network itself, and so are the detections beside them.
    for flag in ("--runtime=keras", "--explain"):
        done = commands.call(*predict, *arguments, flag)
        assert done.returncode == 0 and len(done.stdout.splitlines()) == 1
    with pytest.raises(ModelError) as error:
        Detector.load(run.path, "openvino")
    assert str(error.value) == (
        f"{run.path}: runtime 'openvino' is for .onnx files only; use auto or keras"
    )


def test_a_tflite_file_may_be_the_fastest(run):
    compared(run, row(run.path / "export" / "model.tflite", "litert", True, 3.0))
    assert fastest_exact(run) == Choice(run.path / "export" / "model.tflite", "litert")
    assert Detector.load(run.path).description.endswith("model.tflite in litert")


@pytest.mark.parametrize("name", ["best.weights.h5", "config.yaml", "label_map.json"])
def test_measurements_of_an_earlier_state_of_the_run_are_not_used(run, name):
    compared(run)
    assert fastest_exact(run) is not None
    (run.path / name).write_bytes((run.path / name).read_bytes() + b" ")
    assert fastest_exact(run) is None


def test_measurements_of_other_settings_or_machines_are_not_used(run):
    compared(run, run_digest=run_digest(run, {"detection.score_threshold": "0.3"}))
    assert fastest_exact(run) is None
    compared(run, machine="A processor, 2 cores, 0 GPUs; tensorflow 2.20.0")
    assert fastest_exact(run) is None


def test_a_file_that_is_missing_or_another_is_not_used(run):
    compared(run)
    path = run.path / "export" / "model_raw.onnx"
    path.write_bytes(path.read_bytes() + b" ")
    assert fastest_exact(run) is None
    path.unlink()
    assert fastest_exact(run) is None


def test_the_run_itself_may_be_the_fastest(run):
    compared(run, row(None, "keras", True, 1.0))
    assert fastest_exact(run) is None


@pytest.mark.parametrize("content", ["[", "{}"])
def test_other_files_in_its_place_are_ignored(run, content):
    (run.path / "export" / "runtimes.json").write_text(content)
    assert fastest_exact(run) is None
