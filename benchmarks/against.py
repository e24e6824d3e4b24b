"""Comparison with other tools: the same data, split, budget and evaluation.

    nice -n 19 python -m benchmarks.against --train_data=bccd/annotations/instances_train.json
        --val_data=bccd/annotations/instances_val.json --processor_minutes=20

Each tool is installed once into an environment of its own, in `venvs` of `--output`, gets the data
set in its own format, trains for the budget with its own settings for small data sets, and detects
in the validation images by its own inference. pycocotools evaluates all of them. What each tool was
asked to do is in its script, in `benchmarks/competitors`.

The budget is time of the processor, since the clock means little where other programs run. The
epochs for it follow from a trial of two epochs, so that each tool has its whole schedule; the table
has the minutes that were taken in the end, with the start of the program and without installing
and converting. Nobody gets weights chosen by the validation set: those at the end count.

No tool downloads weights: all start from random ones, except one row, which is marked.

Each training is a line of `results.jsonl` in `--output`: the same command resumes where it was
interrupted, and tries again what failed; `--report` prints the table of what there is.
"""

import json
import pathlib

from absl import flags

from benchmarks import against_tables, result_lines
from benchmarks.against_runs import Comparison, Run, Settings
from benchmarks.competitors.tools import TOOLS
from efficientdet_tf import files
from efficientdet_tf.cli import command_line
from efficientdet_tf.errors import UserError
from keras_layers.options import did_you_mean


def define_flags() -> flags.FlagValues:
    """Declare the flags of the benchmark."""
    values = flags.FlagValues()
    flags.DEFINE_string("train_data", None, "Training data: a path.", flag_values=values)
    flags.DEFINE_string("val_data", None, "Validation data: a path.", flag_values=values)
    flags.DEFINE_list("tools", list(TOOLS), "Tools to compare.", flag_values=values)
    flags.DEFINE_float(
        "processor_minutes",
        20.0,
        "Budget of each training, in minutes of processor time.",
        lower_bound=0.1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "image_size",
        320,
        "Height and width of the input in pixels, where the tool leaves the choice.",
        lower_bound=64,
        flag_values=values,
    )
    flags.DEFINE_integer("seeds", 1, "Trainings of each tool.", lower_bound=1, flag_values=values)
    flags.DEFINE_string("output", "runs/against", "Folder of results.", flag_values=values)
    flags.DEFINE_bool("report", False, "Print the table only.", flag_values=values)
    return values


def main(values: flags.FlagValues) -> None:
    """Train what has no result yet, and print the table.

    Raises:
      UserError: for an unknown tool, a data set that cannot be used, or results of other settings.
    """
    for name in values.tools:
        if name not in TOOLS:
            raise UserError(f"--tools: unknown {name!r}{did_you_mean(name, TOOLS)}")
    folder = pathlib.Path(values.output)
    results = folder / "results.jsonl"
    if not values.report:
        command_line.require(values, "train_data", "val_data")
        settings = Settings(**{key: values[key].value for key in Settings._fields})
        comparison = Comparison(settings, folder)
        _keep_settings(folder / "settings.json", settings)
        _measure_missing(comparison, values.tools, values.seeds, results)
    entries = read(results)
    if not entries:
        raise UserError(f"{results}: no results yet; run the same command without --report")
    print(against_tables.report(list(entries.items())))


def _measure_missing(
    comparison: Comparison, tools: list[str], num_seeds: int, results: pathlib.Path
) -> None:
    done = {run for run, measured in read(results).items() if "error" not in measured}
    # A seed of all tools first: an interrupted comparison compares all of them.
    planned = [Run(tool, seed) for seed in range(num_seeds) for tool in tools]
    missing = [run for run in planned if run not in done]
    for number, run in enumerate(missing, 1):
        print(f"{number}/{len(missing)} {run.tool}, seed {run.seed}", flush=True)
        measured = comparison.measure(run)
        if "error" in measured:
            print(f"  {measured['error']}", flush=True)
        result_lines.append(results, {**run._asdict(), **measured})


def read(results: pathlib.Path) -> dict[Run, dict]:
    """Read the runs so far, and what was measured at the last try of each."""
    lines = result_lines.read(results)
    return {Run(entry.pop("tool"), entry.pop("seed")): entry for entry in lines}


def _keep_settings(path: pathlib.Path, settings: Settings) -> None:
    """Write the settings; refuse others than those of the results."""
    new = settings._asdict()
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else new
    for key, value in new.items():
        if old[key] != value:
            raise UserError(f"{path}: has results of --{key}={old[key]}; use another --output")
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, json.dumps(new, indent=1))


if __name__ == "__main__":
    command_line.run(command_line.Command("comparison", __doc__, define_flags, main))
