"""ONNX files: inputs, outputs, operators, metadata, and the detections of Keras."""

import json
import os
import pathlib
import re
import sys

import numpy as np
import onnx
import onnxruntime
import pytest

import commands
from efficientdet_tf import anchors
from efficientdet_tf.data.image_files import read_image
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.detector import Detector, ModelError
from efficientdet_tf.inference.detections import Detections
from efficientdet_tf.inference.metadata import ENTRY, Metadata
from efficientdet_tf.inference.runtimes import ArtifactError
from efficientdet_tf.run_directory import RunDirectory
from export import onnx_model
from export.verification import compare

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
RUNTIMES = ("onnxruntime", "openvino")
FILES = ("model.onnx", "model_raw.onnx")


@pytest.fixture(scope="module", params=FILES)
def path(request, exported):
    return exported / request.param


@pytest.fixture(scope="module")
def images(photograph):
    """Images of different sizes and shapes."""
    pixels = read_image(photograph)
    return [pixels, pixels[:200, 100:500], pixels[150:, :200]]


def tensors(values):
    """Shapes and types by name; a free size is a word."""
    return {value.name: (value.shape, value.type) for value in values}


def test_inputs_and_outputs_without_nms(exported, tiny_run):
    session = onnxruntime.InferenceSession(exported / "model_raw.onnx")
    expected = anchors.from_config(RunDirectory(tiny_run).config())
    number = len(expected)
    assert tensors(session.get_inputs()) == {"images": (["batch", 128, 160, 3], "tensor(float)")}
    assert tensors(session.get_outputs()) == {
        "box_deltas": (["batch", number, 4], "tensor(float)"),
        "class_logits": (["batch", number, 3], "tensor(float)"),
        "anchors": ([number, 4], "tensor(float)"),
    }
    [found] = session.run(["anchors"], {"images": np.zeros((1, 128, 160, 3), np.float32)})
    np.testing.assert_array_equal(found, expected)


def test_inputs_and_outputs_with_nms(exported):
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    assert tensors(session.get_inputs()) == {"images": (["batch", 128, 160, 3], "tensor(float)")}
    assert tensors(session.get_outputs()) == {
        "boxes": (["batch", 100, 4], "tensor(float)"),
        "class_indices": (["batch", 100], "tensor(int32)"),
        "scores": (["batch", 100], "tensor(float)"),
        "num_detections": (["batch"], "tensor(int32)"),
    }


def test_files_are_valid_and_have_standard_operators_only(path):
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert {node.domain for node in proto.graph.node} == {""}
    assert {entry.version for entry in proto.opset_import if not entry.domain} == {18}
    # By its scale, ONNX Runtime would resize 3 columns to 4 instead of 5.
    resizes = [node for node in proto.graph.node if node.op_type == "Resize"]
    assert len(resizes) == 4
    for node in resizes:
        [_, _, scales, sizes] = node.input
        assert not scales and sizes


def test_metadata_are_in_the_file(path, tiny_run):
    [entry] = onnx.load(path).metadata_props
    metadata = Metadata.from_json(entry.value)
    assert entry.key == ENTRY
    assert metadata.label_map == LabelMap((900, 3, 7), ("ant", "bee", "Kuh ä"))
    config = RunDirectory(tiny_run).config()
    for section in ("model", "anchors", "detection"):
        assert getattr(metadata.config, section) == getattr(config, section)


def assert_same(found, expected):
    """All detections are equal within 0.01 pixels and a score of 0.0001."""
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected):
        assert len(ours) == len(theirs) > 20
        np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-2)
        np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)
        np.testing.assert_array_equal(ours.class_indices, theirs.class_indices)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_detections_are_those_of_keras(path, tiny_run, images, runtime):
    expected = Detector.load(tiny_run).detect(images)
    detector = Detector.load(path, runtime)
    assert_same(detector.detect(images), expected)
    assert_same(detector.detect(images, batch_size=1), expected)
    assert detector.detect([]) == []


def test_soft_nms_of_the_settings_is_applied_to_a_file_without_nms(
    exported, tiny_run, images, tmp_path
):
    proto, run = onnx.load(exported / "model_raw.onnx"), RunDirectory(tiny_run)
    config, labels = run.config().override({"detection.nms": "gaussian"}), run.label_map()
    onnx.helper.set_model_props(proto, {ENTRY: Metadata(config, labels).to_json()})
    onnx.save(proto, tmp_path / "model.onnx")
    expected = Detector.from_model(run.load_model(), config, labels).detect(images)
    assert_same(Detector.load(tmp_path / "model.onnx").detect(images), expected)
    hard = Detector.load(tiny_run).detect(images)
    assert not np.array_equal(hard[0].scores, expected[0].scores)


def test_bfloat16_is_a_runtime_where_the_processor_has_it(exported, images):
    import openvino

    path = exported / "model_raw.onnx"
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(ArtifactError) as error:
            Detector.load(path, "openvino_bf16")
        assert str(error.value) == (
            f"{path}: this processor has no bfloat16; use the runtime openvino"
        )
        return
    [found] = Detector.load(path, "openvino_bf16").detect(images[:1])
    [exact] = Detector.load(path, "openvino").detect(images[:1])
    assert abs(found.scores[0] - exact.scores[0]) < 0.05
    assert not np.array_equal(found.scores, exact.scores)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_files_of_other_programs_are_refused(exported, tmp_path, runtime):
    other = tmp_path / "other.onnx"
    without = onnx.load(exported / "model_raw.onnx")
    del without.metadata_props[:]
    damaged = onnx.load(exported / "model_raw.onnx")
    damaged.metadata_props[0].value = "{}"
    contents = [proto.SerializeToString() for proto in (without, damaged)]
    for content in (b"", b"something else", *contents):
        other.write_bytes(content)
        with pytest.raises(ArtifactError) as error:
            Detector.load(other, runtime)
        assert str(error.value) == f"{other}: not a model of `python -m export --format=onnx`"


def test_own_files_are_recognised(path, tmp_path):
    assert onnx_model.is_own(path)
    (tmp_path / "text.onnx").write_text("something else")
    assert not onnx_model.is_own(tmp_path / "text.onnx")
    assert not onnx_model.is_own(tmp_path / "missing.onnx")


def test_runtimes_that_are_unknown_or_not_for_the_model_are_one_line(exported):
    path = exported / "model_raw.onnx"
    with pytest.raises(ArtifactError) as error:
        Detector.load(path, "tensorrt")
    assert str(error.value) == (
        f"{path}: runtime 'tensorrt' is unknown; use auto, onnxruntime, openvino, openvino_bf16"
    )
    path = exported / "model.tflite"
    with pytest.raises(ModelError) as error:
        Detector.load(path, "openvino")
    assert str(error.value) == f"{path}: runtime 'openvino' is for .onnx files only; use auto"


@pytest.mark.parametrize("value", [None, "1"])
def test_the_converter_leaves_the_environment_as_it_was(monkeypatch, value):
    name = "TF_CPP_MIN_LOG_LEVEL"
    if value is None:
        monkeypatch.delenv(name, raising=False)
    else:
        monkeypatch.setenv(name, value)
    with onnx_model._quiet():
        # As tf2onnx does.
        os.environ[name] = "3"
    assert os.environ.get(name) == value


def test_missing_packages_are_one_line(exported, tiny_run, tmp_path, monkeypatch):
    path = exported / "model_raw.onnx"
    install = "pip install '.[onnx]' or '.[openvino]'"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ArtifactError) as error:
        Detector.load(path, "onnxruntime")
    assert str(error.value) == f"{path}: onnxruntime is not installed; {install}"
    # The other one is there.
    Detector.load(path)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ArtifactError) as error:
        Detector.load(path)
    assert str(error.value) == (
        f"{path}: needs onnxruntime or openvino, and neither is installed; {install}"
    )
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    run = RunDirectory(tiny_run)
    with pytest.raises(onnx_model.OnnxError) as error:
        onnx_model.export(None, run.config(), run.label_map(), tmp_path / "model.onnx")
    assert str(error.value) == ("--format=onnx: tf2onnx is not installed; pip install '.[onnx]'")


def test_the_documented_snippet_needs_onnxruntime_alone(exported, photograph, tmp_path):
    text = (REPOSITORY / "docs" / "onnx.md").read_text()
    [code] = re.findall(r"## With ONNX Runtime alone\n\n```python\n(.*?)```", text, re.DOTALL)
    code = code.replace("runs/mine/export/model.onnx", str(exported / "model.onnx"))
    code = code.replace("data/images/1.jpg", str(photograph))
    code += 'import sys\nassert not {"efficientdet_tf", "tensorflow"} & set(sys.modules)\n'
    done = commands.start("-I", "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [expected] = Detector.load(exported / "model.onnx").detect(photograph)
    rows = [re.fullmatch(r"(.+) (\S+) \[(.+)\]", line) for line in done.stdout.splitlines()]
    assert len(rows) == len(expected) == 100
    found = Detections(
        # Clipped to the image, as the detector does.
        np.clip([list(map(float, row[3].split())) for row in rows], 0, [427, 640] * 2),
        np.array([row[2] for row in rows], np.float32),
        np.array([("ant", "bee", "Kuh ä").index(row[1]) for row in rows]),
    )
    box, score, lost = compare([expected], [found])
    assert (box < 0.1, score < 1e-3, lost) == (True, True, 0), (box, score)


def test_commands_take_the_file_and_a_runtime(exported, data_path, photograph, tmp_path):
    path, output = exported / "model_raw.onnx", tmp_path / "evaluation"
    arguments = ("eval.py", f"--data={data_path}", f"--output={output}")
    done = commands.call(*arguments, f"--model_path={path}", "--runtime=openvino")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((output / "evaluation.json").read_text())["metrics"]["AR100"] == 1
    arguments = (f"--input={photograph}", f"--output={tmp_path / 'found'}")
    predict = ("-m", "efficientdet_tf", "predict", *arguments)
    done = commands.call(*predict, f"--model_path={path}", "--runtime=onnxruntime")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(f"detections in 1 images, written to {tmp_path / 'found'}\n")
    done = commands.call(*predict, f"--model_path={path}", "--runtime=tensorrt")
    assert done.returncode == 1 and done.stderr.startswith(
        f"predict: {path}: runtime 'tensorrt' is unknown; use auto, "
    )


def test_a_runtime_is_not_ignored_for_a_run(tiny_run, tmp_path):
    done = commands.call(
        "eval.py", f"--model_path={tiny_run}", "--data=digits", "--runtime=openvino"
    )
    assert (done.returncode, done.stderr) == (
        1,
        f"eval: --runtime=openvino: {tiny_run} is no .onnx file; leave it out\n",
    )
