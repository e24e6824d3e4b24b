"""Queue, processes and table of `benchmarks.against`; no tool is installed or trained."""

import ast
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks import against, against_runs, against_tables, result_lines
from benchmarks.against_runs import Comparison, Ended, Run, Settings, ToolError
from benchmarks.competitors.tools import TOOLS, Tool
from efficientdet_tf.cli import command_line
from efficientdet_tf.data.records import DataError, LabelMap

COMMAND = command_line.Command("comparison", against.__doc__, against.define_flags, against.main)
LABEL_MAP = LabelMap(ids=(7, 3), names=("cat", "dog"))
MEASURED = {
    **{"version": "1.2", "parameters": 3_240_000, "input": "320 x 320", "epochs": 12},
    **{"seconds": 630.0, "AP": 0.25, "AP50": 0.5, "AP75": 0.125, "milliseconds": 41.6},
}
# A tool that finds each image's one object, or what its options say instead.
SCRIPT = """
import json, pathlib, sys
asked = json.loads(pathlib.Path(sys.argv[1]).read_text())
folder = pathlib.Path(asked["folder"])
if asked["action"] == "train":
    (folder / "epochs").write_text("x" * asked["epochs"])
    (folder / "data").write_text(asked["data"])
    answer = {"version": "1", "parameters": 10, "input": "8 x 8"}
else:
    assert (folder / "epochs").read_text() == "x" * asked["epochs"]
    found = {"class": asked.get("class", "cat"), "box": [10, 20, 30, 40], "score": 0.5}
    answer = {
        "detections": [{**found, "image": image["id"]} for image in asked["images"]],
        "seconds": [0.001, 0.002, 0.1][: len(asked["images"])],
    }
print(asked.get("complaint", ""))
if "complaint" in asked:
    sys.exit(3)
pathlib.Path(asked["answer"]).write_text(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory, photograph) -> dict[str, str]:
    """Paths of a training and a validation set, of an image each with one cat."""
    folder = tmp_path_factory.mktemp("data")
    paths = {}
    for number, split in enumerate(("train", "val"), 1):
        shutil.copy(photograph, folder / f"{split}.jpg")
        content = {
            "images": [{"id": 5, "file_name": f"{split}.jpg", "width": 640, "height": 427}],
            "annotations": [
                {
                    **{"id": number, "image_id": 5, "category_id": 7, "iscrowd": 0},
                    **{"bbox": [10, 20, 30, 40], "area": 1200},
                }
            ],
            "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
        }
        path = folder / f"{split}.json"
        path.write_text(json.dumps(content))
        paths[f"{split}_data"] = str(path)
    return paths


@pytest.fixture
def compare(tmp_path, data, monkeypatch):
    """Function that calls the benchmark with tools made of options; their trials are known."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    output = tmp_path / "output"
    output.mkdir()

    def call(tools: dict[str, dict], *arguments: str) -> int:
        for name, options in tools.items():
            tool = Tool(name, "MIT", str(script), data_format="yolo", options=options)
            monkeypatch.setitem(TOOLS, name, tool)
        # 2 s for the start and the end, 10 s for each epoch.
        trials = {name: {"seconds": 22.0, "marks": [11.0, 21.0]} for name in tools}
        (output / "trials.json").write_text(json.dumps(trials))
        paths = [f"--{key}={value}" for key, value in data.items()]
        flags = [f"--tools={','.join(tools)}", f"--output={output}", *arguments]
        return command_line.call(COMMAND, [*paths, *flags])

    return call


def test_a_tool_is_trained_for_the_budget_and_evaluated(compare, tmp_path, capsys):
    assert compare({"fake": {}}, "--processor_minutes=1") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == ["1/1 fake, seed 0", "  5 epochs"]
    cells = out[-1].strip("| ").split(" | ")
    assert cells[:7] == ["fake", "1", "MIT", "random", "8 x 8", "0.00 M", "5"]
    # The box of the only cat; dogs do not count.
    assert cells[8:] == ["1.000", "1.000", "1.000", "1", "1"]
    [entry] = result_lines.read(tmp_path / "output" / "results.jsonl")
    assert entry["AP"] == pytest.approx(1) and 0 < entry["seconds"] < 60
    results = json.loads((tmp_path / "output" / "detections" / "fake_0.json").read_text())
    expected = {"image_id": 5, "category_id": 7, "bbox": [10, 20, 30, 40], "score": 0.5}
    assert results == [expected]
    names = (tmp_path / "output" / "data" / "yolo" / "data.yaml").read_text()
    assert "0: dog" in names and "1: cat" in names
    assert not (tmp_path / "output" / "fake_0").exists()


def test_finished_trainings_are_not_repeated_and_failed_ones_are(compare, tmp_path, capsys):
    tools = {"fake": {}, "broken": {"complaint": "no such layer"}}
    assert compare(tools) == 0
    out = capsys.readouterr().out
    log = tmp_path / "output" / "broken_0" / "train.log"
    reason = f"failed: no such layer (exit code 3; {log})"
    assert f"2/2 broken, seed 0\n  119 epochs\n  {reason}\n" in out
    assert f"| broken | {reason} | MIT | random |" in out
    assert compare({"fake": {}, "broken": {}}) == 0
    again = capsys.readouterr().out
    assert again.startswith("1/1 broken, seed 0\n") and "failed" not in again
    runs = against.read(tmp_path / "output" / "results.jsonl")
    assert {run: entry["AP"] for run, entry in runs.items()} == {
        Run("fake", 0): pytest.approx(1),
        Run("broken", 0): pytest.approx(1),
    }
    assert compare(tools, "--image_size=256") == 1
    assert capsys.readouterr().err == (
        f"comparison: {tmp_path}/output/settings.json: has results of --image_size=320; "
        "use another --output\n"
    )


def test_an_answer_that_does_not_fit_is_a_row(compare, capsys):
    assert compare({"stranger": {"class": "cow"}}) == 0
    row = "| stranger | detection 0: class 'cow' is not in the data set | MIT | random |"
    assert row in capsys.readouterr().out


def test_a_budget_below_one_epoch_is_a_row(compare, capsys):
    assert compare({"slow": {}}, "--processor_minutes=0.15") == 0
    reason = "the budget is too short for one epoch; raise --processor_minutes"
    assert f"| slow | {reason} | MIT | random |" in capsys.readouterr().out


def test_epochs_follow_from_a_trial():
    # 30 s to start and 5 s to end; the first epoch also has the tracing, 20 s.
    trial = Ended(seconds=75.0, marks=[60.0, 70.0])
    assert against_runs.plan_epochs(trial, 155) == 10
    assert against_runs.plan_epochs(trial, 154) == 9
    assert against_runs.plan_epochs(trial, 64) == 0
    for marks in ([60.0], [60.0, 60.0]):
        with pytest.raises(ToolError, match="^the trial ended without two complete epochs$"):
            against_runs.plan_epochs(Ended(75.0, marks), 155)


def test_processor_time_is_measured_at_the_end_of_each_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(against_runs, "_POLL_SECONDS", 0.002)
    # It works for 0.1 s before each epoch's end and at its own end, and waits to be seen.
    code = (
        "import os, time\n"
        "def work():\n"
        "    began = time.process_time()\n"
        "    while time.process_time() - began < 0.1: pass\n"
        "for epoch in '12':\n"
        "    work()\n"
        "    open('done' + epoch, 'w').close()\n"
        "    while not os.path.exists('seen' + epoch): time.sleep(0.01)\n"
        "work()\n"
    )
    monkeypatch.chdir(tmp_path)
    polls = []

    def epochs_done():
        done = len(list(tmp_path.glob("done*")))
        # At the second poll the first one is complete.
        if done and done == (polls or [0])[-1]:
            (tmp_path / f"seen{done}").touch()
        polls.append(done)
        return done

    command = [sys.executable, "-S", "-c", code]
    ended = against_runs.run_process(command, dict(os.environ), tmp_path / "log", epochs_done)
    first, second = ended.marks
    assert first > 0.05 and second - first > 0.05 and ended.seconds - second > 0.05


def test_a_stopped_comparison_leaves_no_process_behind(tmp_path):
    tool = "import os, time; print(os.getpid(), flush=True); time.sleep(100)"
    comparison = (
        "import pathlib, sys\n"
        "from benchmarks import against_runs\n"
        f"command = [sys.executable, '-S', '-c', {tool!r}]\n"
        f"against_runs.run_process(command, {{}}, pathlib.Path({str(tmp_path / 'log')!r}))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", comparison], cwd=against_runs.REPOSITORY)
    while not (tmp_path / "log").exists() or not (tmp_path / "log").read_text().endswith("\n"):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 143
    stat, polls = pathlib.Path("/proc", (tmp_path / "log").read_text().strip(), "stat"), 0
    # Gone, or dead until the system has noticed.
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert (polls := polls + 1) < 1000
        time.sleep(0.01)


def test_detections_become_those_of_coco(tmp_path):
    found = [
        {"image": 5, "class": "dog", "box": [10, 20, 30, 40], "score": 0.5},
        {"image": 6, "class": "cat", "box": [1.5, 2, 3, 4], "score": 0.25},
    ]
    arrays = against_runs.to_arrays(found, LABEL_MAP)
    np.testing.assert_array_equal(arrays.boxes, [[20, 10, 60, 40], [2, 1.5, 6, 4.5]])
    np.testing.assert_array_equal(arrays.class_indices, [1, 0])
    assert arrays.coco_results(LABEL_MAP) == [
        {"image_id": 5, "category_id": 3, "bbox": [10, 20, 30, 40], "score": 0.5},
        {"image_id": 6, "category_id": 7, "bbox": [1.5, 2, 3, 4], "score": 0.25},
    ]
    assert len(against_runs.to_arrays([], LABEL_MAP)) == 0


def test_an_environment_is_made_once(tmp_path):
    def make(*requirements):
        tool = Tool("it", "MIT", environment="it", requirements=requirements)
        return against_runs.environment(tool, tmp_path)

    python = tmp_path / "it" / "bin" / "python"
    reason = "^not installed: ERROR: .*no-such-wheel-1.0-py3-none-any.whl"
    with pytest.raises(ToolError, match=reason):
        make(str(tmp_path / "no-such-wheel-1.0-py3-none-any.whl"))
    # What was not finished is made again.
    assert not (tmp_path / "it" / "requirements.txt").exists()
    (tmp_path / "it" / "requirements.txt").write_text("a==1\nb==2\n")
    assert make("a==1", "b==2") == str(python)
    assert against_runs.environment(TOOLS["efficientdet"], tmp_path) == sys.executable
    assert os.listdir(tmp_path) == ["it"]


def test_the_table():
    entries = [
        (Run("retinanet", 0), {**MEASURED, "AP": 0.2}),
        (Run("efficientdet_imagenet", 0), {**MEASURED, "AP": 0.4}),
        (Run("efficientdet_imagenet", 1), {**MEASURED, "AP": 0.5, "seconds": 690.0}),
        (Run("automl", 0), {"error": "not installed: no | package"}),
    ]
    lines = against_tables.report(entries).splitlines()
    assert {line.count(" | ") for line in lines[:-1]} == {12}
    assert lines[2:] == [
        "| EfficientDet-Lite0, here | 1.2 | Apache-2.0 | **ImageNet backbone**, as no other row "
        "has | 320 x 320 | 3.24 M | 12 | 11.0 | 0.450 | 0.500 | 0.125 | 42 | 2 |",
        "| tf-models-official RetinaNet, SpineNet-49 mobile | 1.2 | Apache-2.0 | random | "
        "320 x 320 | 3.24 M | 12 | 10.5 | 0.200 | 0.500 | 0.125 | 42 | 1 |",
        "| google/automl EfficientDet | not installed: no \\| package | Apache-2.0 | random |"
        + "  |" * 9,
    ]


@pytest.mark.parametrize("name", [name for name, tool in TOOLS.items() if tool.environment])
def test_scripts_of_other_environments_import_nothing_of_this_project(name):
    tool = TOOLS[name]
    tree = ast.parse(tool.script_path.read_text(encoding="utf-8"))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
        )
    }
    assert imported - set(sys.stdlib_module_names) == {"ultralytics"}
    assert all("==" in requirement for requirement in tool.requirements)


def test_images_within_other_files_are_refused(data, tmp_path):
    found = Comparison(Settings(**data, processor_minutes=1, image_size=320), tmp_path).val
    against_runs.check_image_files(found)
    within = [dataclasses.replace(record, image=b"JPEG") for record in found.records]
    with pytest.raises(DataError) as caught:
        against_runs.check_image_files(dataclasses.replace(found, records=within))
    assert str(caught.value) == (
        "--val_data: has images that are no files of their own; convert it by "
        "python -m efficientdet_tf data convert --to=coco"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tools=yolo12"], "--tools: unknown 'yolo12'; "),
        (["--tools=yolo11"], "--train_data is missing: Training data: a path."),
        (["--report"], "OUTPUT/results.jsonl: no results yet; run the same command without "),
        (["--processor_minutes=0"], "flag --processor_minutes=0: 0.0 is not number >= 0.1; see "),
        (["--train_data=/no.json", "--val_data=/no.json"], "/no.json: "),
    ],
)
def test_complains_in_one_line(arguments, message, tmp_path, capsys):
    assert command_line.call(COMMAND, [*arguments, f"--output={tmp_path}"]) == 1
    out, err = capsys.readouterr()
    [line] = err.splitlines()
    assert line.startswith(f"comparison: {message}".replace("OUTPUT", str(tmp_path))) and out == ""
    assert not list(tmp_path.iterdir())


def test_scripts_are_there():
    folder = pathlib.Path(against.__file__).parent / "competitors"
    scripts = {path.name for path in folder.glob("*_script.py")}
    assert {tool.script for tool in TOOLS.values() if not tool.lacks} == scripts
