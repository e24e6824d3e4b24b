"""`python -m export --compare`: a run and its files in every runtime."""

import os
import sys

import pytest

import commands
from efficientdet_tf.errors import UserError
from efficientdet_tf.inference import compared_runtimes
from efficientdet_tf.inference.onnx_runtimes import available_runtimes
from efficientdet_tf.inference.runtime_choice import describe_machine, file_digest, run_digest
from efficientdet_tf.run_directory import RunDirectory
from export import __main__ as command
from export import formats, web
from export.comparison import _candidates
from export.runtime_timing import Candidate, measure_in_own_process


@pytest.mark.thorough
def test_a_run_and_its_file_are_measured_in_each_runtime(
    tiny_run, data_path, tmp_path, monkeypatch
):
    # One process of timing is enough.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    done = commands.call(
        *("-m", "export", f"--model_dir={tiny_run}", f"--output={tmp_path}", "--compare"),
        *("--format=onnx_raw", f"--data={data_path}", "--set=detection.score_threshold=0.1"),
    )
    assert (done.returncode, done.stderr) == (0, "")
    path = tmp_path / "runtimes.json"
    comparison = compared_runtimes.read(path)
    assert (comparison.source, comparison.max_ap_drop) == (data_path, 0.01)
    run, *rows = comparison.runtimes
    assert (run.format, run.runtime, run.is_exact) == ("run", "keras", True)
    assert run.size == (tiny_run / "best.weights.h5").stat().st_size
    assert [row.runtime for row in rows] == available_runtimes()
    # Of these settings, which are not the run's own.
    directory, settings = RunDirectory(tiny_run), {"detection.score_threshold": "0.1"}
    assert comparison.run_digest == run_digest(directory, settings) != run_digest(directory)
    assert comparison.machine == describe_machine()
    for row in rows:
        assert (row.format, row.file) == ("onnx_raw", "model_raw.onnx")
        assert row.file_digest == file_digest(tmp_path / row.file)
        assert row.size == (tmp_path / "model_raw.onnx").stat().st_size
        assert row.is_exact == (row.runtime != "openvino_bf16")
        assert abs(row.ap - run.ap) < (1e-6 if row.is_exact else 0.5) and run.ap > 0.3
    for row in comparison.runtimes:
        [(median, p95)], [rates] = row.latency_ms.values(), row.throughput.values()
        assert 0 < median <= p95 and set(rates) == {1, 8}
        # Activations of the first level alone: 64 x 80 x 8 of four bytes.
        assert row.peak_memory > 64 * 80 * 8 * 4
    lines = done.stdout.splitlines()
    assert f"run in keras: AP {run.ap:.3f}" in lines
    assert lines[-len(comparison.advice()) - 1 :] == [
        *comparison.advice(),
        f"Written to {path}",
    ]
    assert comparison.table() in done.stdout and comparison.machine in lines


def test_a_file_of_the_user_is_not_overwritten(tiny_run, tmp_path):
    (tmp_path / "runtimes.json").write_text("{}")
    done = commands.call(
        *("-m", "export", f"--model_dir={tiny_run}", f"--output={tmp_path}", "--compare"),
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"export: --output: {tmp_path}/runtimes.json exists and was not written by this "
        "command; choose another name or folder, or move it away\n"
    )
    assert os.listdir(tmp_path) == ["runtimes.json"]


def test_every_kind_of_file_is_compared(monkeypatch, capsys):
    names = command._compared_formats()
    assert names == [name for name in formats.FORMATS if name not in ("serving", "web")]
    assert capsys.readouterr().out == ""
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    assert command._compared_formats() == [name for name in names if "onnx" not in name]
    assert capsys.readouterr().out == (
        "onnx, onnx_raw: left out; they need pip install '.[onnx]'\n"
    )


@pytest.mark.parametrize(
    ("missing", "left"),
    [("openvino", ["onnxruntime"]), ("onnxruntime", ["openvino", "openvino_bf16"])],
)
def test_runtimes_that_are_not_installed_are_left_out(monkeypatch, missing, left):
    monkeypatch.setitem(sys.modules, missing, None)
    assert available_runtimes() in (left, [name for name in left if "bf16" not in name])


def test_a_page_is_compared_by_its_model(tmp_path):
    files = {"web": tmp_path / "web", "serving": tmp_path / "serving" / "1"}
    assert _candidates(files) == [
        ("web", "litert", tmp_path / "web" / web.MODEL),
        ("serving", "tensorflow", tmp_path / "serving" / "1"),
    ]


def test_a_process_that_is_killed_is_one_line():
    kill = Candidate("run", "keras", Fatal())
    with pytest.raises(UserError) as error:
        measure_in_own_process([kill], {}, [], 1)
    assert str(error.value) == (
        "the process that times 1 runtimes was killed, perhaps for lack of memory; compare fewer "
        "with --format"
    )


class Fatal:
    """Path whose use ends the process."""

    def __reduce__(self):
        return os._exit, (1,)
