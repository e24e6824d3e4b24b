"""Environments, processes and measurements of `benchmarks.against`."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks import coco_reference
from benchmarks.competitors.tools import LOG, TOOLS, Tool
from efficientdet_tf import files
from efficientdet_tf.boxes import from_xywh
from efficientdet_tf.data import conversion
from efficientdet_tf.data.records import DataError, DetectionData, LabelMap
from efficientdet_tf.errors import UserError
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
# The second one has no start of the program and no tracing in it.
_TRIAL_EPOCHS = 2
_POLL_SECONDS = 0.5
# So that a tool has no other settings than those of its package, asks nobody, and its idle
# threads take no processor time.
_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONUNBUFFERED": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "YOLO_OFFLINE": "true",
}


class ToolError(UserError):
    """A tool that could not be installed, or failed."""


class Run(NamedTuple):
    """A training.

    Attributes:
      tool: key of `TOOLS`.
      seed: seed of the training.
    """

    tool: str
    seed: int


class Settings(NamedTuple):
    """What is the same for all tools.

    Attributes:
      train_data, val_data: data sets, as train.py takes them.
      processor_minutes: budget of each training.
      image_size: height and width of the input in pixels.
    """

    train_data: str
    val_data: str
    processor_minutes: float
    image_size: int


class Ended(NamedTuple):
    """A process that has ended.

    Attributes:
      seconds: processor seconds of it and of the processes that it waited for.
      marks: processor seconds at the end of each epoch.
    """

    seconds: float
    marks: list[float]


class Comparison:
    """The data set, and the folder of the comparison.

    Raises:
      DataError: if the data set cannot be used.
    """

    def __init__(self, settings: Settings, folder: pathlib.Path) -> None:
        self.settings, self.folder = settings, folder
        self.train = conversion.load(settings.train_data, "train")
        self.val = conversion.load(settings.val_data, "val")
        check_image_files(self.val)

    def measure(self, run: Run) -> dict[str, Any]:
        """Train and evaluate.

        Returns:
          What the table shows, or "error" with the reason why there is none.
        """
        tool = TOOLS[run.tool]
        folder = self.folder / f"{run.tool}_{run.seed}"
        try:
            python = environment(tool, self.folder / "venvs")
            data = self._converted(tool.data_format)
            epochs = self._epochs(run.tool, python, data)
            trained, ended = self._train(run, python, data, epochs, folder)
            answer = self._call(tool, python, self._request(run, data, epochs, folder), "predict")[
                0
            ]
            arrays = to_arrays(answer["detections"], self.val.label_map)
            results = self.folder / "detections" / f"{run.tool}_{run.seed}.json"
            results.parent.mkdir(exist_ok=True)
            arrays.write_coco_results(results, self.val.label_map)
        except ToolError as error:
            return {"error": str(error)}
        shutil.rmtree(folder)
        ap, ap50, ap75 = coco_reference.reference(self.val, arrays).stats[:3].tolist()
        return {
            **trained,
            **{"epochs": epochs, "seconds": ended.seconds, "AP": ap, "AP50": ap50, "AP75": ap75},
            "milliseconds": 1e3 * statistics.median(answer["seconds"]),
        }

    def _converted(self, format: str) -> str:
        """Convert the data set, unless that was done; return its folder."""
        if not format:
            return ""
        folder = self.folder / "data" / format
        for data, split in ((self.train, "train"), (self.val, "val")):
            source = getattr(self.settings, f"{split}_data")
            conversion.write_split(data, source, split, format, folder)
        return str(folder.absolute())

    def _epochs(self, name: str, python: str, data: str) -> int:
        """Choose the epochs for the budget by those of a short training, which is done once."""
        path = self.folder / "trials.json"
        trials = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if name not in trials:
            folder = self.folder / f"{name}_trial"
            print(f"  trial of {_TRIAL_EPOCHS} epochs", flush=True)
            _, ended = self._train(Run(name, 0), python, data, _TRIAL_EPOCHS, folder)
            shutil.rmtree(folder)
            trials[name] = {"seconds": ended.seconds, "marks": ended.marks}
            files.write_atomically(path, json.dumps(trials, indent=1))
        epochs = plan_epochs(Ended(**trials[name]), 60 * self.settings.processor_minutes)
        if not epochs:
            raise ToolError("the budget is too short for one epoch; raise --processor_minutes")
        print(f"  {epochs} epochs", flush=True)
        return epochs

    def _train(
        self, run: Run, python: str, data: str, epochs: int, folder: pathlib.Path
    ) -> tuple[dict[str, Any], Ended]:
        # What an interrupted training left: its time would be missing.
        shutil.rmtree(folder, ignore_errors=True)
        request = self._request(run, data, epochs, folder)
        return self._call(TOOLS[run.tool], python, request, "train")

    def _request(self, run: Run, data: str, epochs: int, folder: pathlib.Path) -> dict[str, Any]:
        label_map = self.val.label_map
        return {
            **TOOLS[run.tool].options,
            **{"epochs": epochs, "seed": run.seed, "image_size": self.settings.image_size},
            **{"data": data, "folder": str(folder.absolute()), "num_images": len(self.train)},
            "train_data": str(pathlib.Path(self.settings.train_data).absolute()),
            "val_data": str(pathlib.Path(self.settings.val_data).absolute()),
            "classes": [
                {"id": id_, "name": name} for id_, name in zip(label_map.ids, label_map.names)
            ],
            "images": [
                {"id": record.image_id, "path": os.path.abspath(str(record.image))}
                for record in self.val.records
            ],
        }

    def _call(
        self, tool: Tool, python: str, request: dict[str, Any], action: str
    ) -> tuple[dict[str, Any], Ended]:
        """Run the script of a tool in its environment; return its answer."""
        folder = pathlib.Path(request["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        asked, answer = (
            self.folder / f"{folder.name}_{action}_{kind}.json" for kind in ("request", "answer")
        )
        request = {**request, "action": action, "answer": str(answer.absolute())}
        files.write_atomically(asked, json.dumps(request))
        variables = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        variables |= {
            **_ENVIRONMENT,
            "YOLO_CONFIG_DIR": str((self.folder / "yolo_settings").absolute()),
        }
        if not tool.environment:
            variables["PYTHONPATH"] = str(REPOSITORY)
        log = folder / (LOG if action == "train" else f"{action}.log")
        command = [python, str(tool.script_path), str(asked.absolute())]
        ended = run_process(command, variables, log, lambda: tool.epochs_done(folder))
        content = json.loads(answer.read_text(encoding="utf-8"))
        for path in (asked, answer):
            path.unlink()
        return content, ended


def check_image_files(data: DetectionData) -> None:
    """Check that all images are files, as every tool can read.

    Raises:
      DataError: if some are within others.
    """
    if any(not isinstance(record.image, str) for record in data.records):
        raise DataError(
            "--val_data: has images that are no files of their own; convert it by "
            "python -m efficientdet_tf data convert --to=coco"
        )


def plan_epochs(trial: Ended, budget: float) -> int:
    """Return how many epochs fit into a budget.

    Args:
      trial: a training of at least two epochs.
      budget: processor seconds of a training, with the start and the end of its program.
    """
    marks = trial.marks
    if len(marks) < 2 or marks[-1] == marks[0]:
        raise ToolError("the trial ended without two complete epochs")
    epoch = (marks[-1] - marks[0]) / (len(marks) - 1)
    fixed = trial.seconds - len(marks) * epoch
    return max(0, int((budget - fixed) / epoch))


def to_arrays(detections: Sequence[dict[str, Any]], label_map: LabelMap) -> DetectionArrays:
    """Convert the detections that a script answers.

    Args:
      detections: see `benchmarks.competitors.tools`.
      label_map: classes of the data set.

    Raises:
      ToolError: for a class that is none of the data set.
    """
    indices = {name: index for index, name in enumerate(label_map.names)}
    for number, found in enumerate(detections):
        if found["class"] not in indices:
            raise ToolError(f"detection {number}: class {found['class']!r} is not in the data set")
    boxes = np.array([from_xywh(*found["box"]) for found in detections], np.float64)
    return DetectionArrays(
        np.array([found["image"] for found in detections], np.int64),
        boxes.reshape(-1, 4),
        np.array([found["score"] for found in detections], np.float64),
        np.array([indices[found["class"]] for found in detections], np.int64),
    )


def environment(tool: Tool, folder: pathlib.Path) -> str:
    """Make the virtual environment of a tool, unless that was done; return its interpreter.

    Raises:
      ToolError: if the tool cannot be installed.
    """
    if tool.lacks:
        raise ToolError(f"not installed: {tool.lacks}")
    if not tool.environment:
        return sys.executable
    path = (folder / tool.environment).absolute()
    python, done = path / "bin" / "python", path / "requirements.txt"
    wanted = "\n".join(tool.requirements) + "\n"
    if not done.exists() or done.read_text(encoding="utf-8") != wanted:
        print(f"  installing {', '.join(tool.requirements)}", flush=True)
        shutil.rmtree(path, ignore_errors=True)
        _install([sys.executable, "-m", "venv", str(path)])
        _install([str(python), "-m", "pip", "install", "--quiet", *tool.requirements])
        files.write_atomically(done, wanted)
    return str(python)


def _install(command: list[str]) -> None:
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode:
        raise ToolError(f"not installed: {last_line(ended.stderr) or last_line(ended.stdout)}")


def run_process(
    command: list[str],
    variables: dict[str, str],
    log: pathlib.Path,
    epochs_done: Callable[[], int] = lambda: 0,
) -> Ended:
    """Run a process to its end, and measure the time of the processor that it takes.

    Unlike the clock, this is nearly the same beside other work.

    Args:
      command: the command.
      variables: its environment.
      log: file for its output.
      epochs_done: function that counts its complete epochs so far. Default none.

    Raises:
      ToolError: if it fails; the message has the last line of its output.
    """
    marks: list[float] = []
    with log.open("w", encoding="utf-8") as output, _ended_by_sigterm():
        process = subprocess.Popen(command, stdout=output, stderr=output, env=variables)
        try:
            while True:
                number, status, usage = os.wait4(process.pid, os.WNOHANG)
                if number:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    break
                if (new := epochs_done() - len(marks)) > 0:
                    marks += [_processor_seconds(process.pid)] * new
                time.sleep(_POLL_SECONDS)
        finally:
            if process.returncode is None:
                process.kill()
    if process.returncode:
        reason = last_line(log.read_text(encoding="utf-8", errors="replace"))
        raise ToolError(f"failed: {reason} (exit code {process.returncode}; {log})")
    seconds = usage.ru_utime + usage.ru_stime
    return Ended(seconds, marks + [seconds] * (epochs_done() - len(marks)))


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM raise `SystemExit`, so that what was started is ended too."""
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _processor_seconds(pid: int) -> float:
    """Return the processor seconds of a process, on Linux."""
    fields = (
        pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    )
    # User and system time of its own and of its ended children.
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def last_line(text: str) -> str:
    """Return the last line that is not empty; "" without any."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
