"""Trainings of `benchmarks.recipes`: data sets, base settings, designs, and results on disk."""

import pathlib
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks import result_lines, screening_design
from benchmarks.recipe_factors import FACTORS, SCREENED
from efficientdet_tf.config import Config, parse_assignments
from efficientdet_tf.errors import UserError

DESIGNS = ("plackett_burman", "one_at_a_time")
METRICS = ("AP", "AP50", "AP75")

# 450 steps at few pixels.
SETTINGS = {
    "training.pretrained": "imagenet",
    "training.epochs": 15,
    "training.steps_per_epoch": 30,
    "training.eval_interval_epochs": 5,
    "training.keep_checkpoints": 1,
    "data.cache": True,
    "data.verify": "header",
}
# {data set: input size, near the shape of its images, and what else it needs}
DATA_SETS: dict[str, dict[str, Any]] = {
    "bccd": {"model.image_size": [192, 256]},
    "kangaroo": {"model.image_size": [192, 256]},
    "digits": {
        "model.image_size": [192, 192],
        # Mirrored digits are other signs.
        "augmentation.horizontal_flip": False,
    },
}


class Run(NamedTuple):
    """A training.

    Attributes:
      data: name of the data set.
      seed: seed of the training.
      factors: names of the factors that are on, sorted.
    """

    data: str
    seed: int
    factors: tuple[str, ...]

    @property
    def title(self) -> str:
        """Description in one line, for example "bccd, seed 0: giou, mosaic"."""
        return f"{self.data}, seed {self.seed}: {', '.join(self.factors) or 'base'}"

    @property
    def folder(self) -> str:
        """Name of the run directory while it is trained."""
        names = "+".join(self.factors) or "base"
        # A design's runs have up to 20 factors on: too long for the name of a folder.
        return f"{self.data}_{self.seed}_{names}"[:200]


def base(data: str, folder: str, assignments: Sequence[str] = ()) -> Config:
    """Return the config of all runs on a data set, without its factors.

    Args:
      data: name of the data set.
      folder: folder of the data sets; the digits need none.
      assignments: settings that replace those of the benchmark, as "key=value".

    Raises:
      UserError: if the data set is not there.
    """
    config = Config.from_yaml("finetune", "efficientdet-lite0")
    paths = {"data.train": data, "data.val": data} if data == "digits" else _paths(data, folder)
    settings = SETTINGS | DATA_SETS[data] | paths
    return config.override(settings | parse_assignments(assignments))


def _paths(data: str, folder: str) -> dict[str, str]:
    annotations = pathlib.Path(folder).absolute() / data / "annotations"
    paths = {f"data.{split}": annotations / f"instances_{split}.json" for split in ("train", "val")}
    for path in paths.values():
        if not path.is_file():
            raise UserError(f"{path}: no such file; set --folder to the folder of {data}")
    return {key: str(path) for key, path in paths.items()}


def plan(design: str, factors: Sequence[str], data: Sequence[str], num_seeds: int) -> list[Run]:
    """List the runs of a design, in the order in which they are trained.

    A seed of everything first, and a row of the design on each data set: an interrupted benchmark
    has compared all of them.

    Raises:
      UserError: if a design has not room for the factors.
    """
    runs = []
    for seed in range(num_seeds):
        try:
            rows = _rows(design, factors, is_mirrored=bool(seed % 2))
        except ValueError as error:
            raise UserError(f"--factors: {error}; use --design=one_at_a_time") from error
        runs += [Run(name, seed, tuple(sorted(row))) for row in rows for name in data]
    return runs


def _rows(design: str, factors: Sequence[str], is_mirrored: bool) -> list[tuple[str, ...]]:
    if design == "one_at_a_time":
        return [(), *((factor,) for factor in factors or FACTORS)]
    return screening_design.plackett_burman(factors or SCREENED, is_mirrored)


def train(settings: dict[str, Any], folder: str) -> dict[str, Any]:
    """Train, and return what was measured.

    Returns:
      AP, AP50 and AP75 at the end, "best" with those of the evaluation of best AP and its epoch,
      "evaluations" with those of each, and "seconds" of the processor; or "error", why the training
      diverged.
    """
    from efficientdet_tf.metrics_history import read_history
    from efficientdet_tf.training import train as run_lib
    from efficientdet_tf.training.recovery import TrainingDiverged

    began = time.process_time()
    try:
        run_lib.train(Config.from_dict(settings), folder)
    except TrainingDiverged as error:
        return {"error": str(error)}
    epochs = read_history(pathlib.Path(folder) / "metrics.csv").epochs
    evaluated = [{key: row[key] for key in ("epoch", *METRICS)} for row in epochs if "AP" in row]
    last, best = evaluated[-1], max(evaluated, key=lambda row: row["AP"])
    # Unlike the clock, the same beside other work.
    seconds = time.process_time() - began
    at_end = {key: last[key] for key in METRICS}
    return {**at_end, "best": best, "evaluations": evaluated, "seconds": seconds}


def missing(planned: Sequence[Run], results: pathlib.Path) -> list[Run]:
    """List the planned runs without a result, in order."""
    done = {run for run, _ in read(results)}
    return [run for run in planned if run not in done]


def append(results: pathlib.Path, run: Run, measured: dict[str, Any]) -> None:
    """Add a line with a run and what was measured."""
    result_lines.append(results, {**run._asdict(), **measured})


def read(results: pathlib.Path) -> list[tuple[Run, dict[str, Any]]]:
    """Read the runs so far, and what was measured; a line that was cut off is left out."""
    entries = []
    for entry in result_lines.read(results):
        run = Run(entry.pop("data"), entry.pop("seed"), tuple(entry.pop("factors")))
        entries.append((run, entry))
    return entries
