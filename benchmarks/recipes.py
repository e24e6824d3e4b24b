"""Benchmark of fine-tuning recipes: which settings raise AP on small data sets.

    python -m benchmarks.recipes --folder=DATA --output=runs/recipes

Trains Lite0 with the preset `finetune` and an ImageNet backbone for 450 steps at few pixels, on
each data set and with each seed, and prints Markdown tables. `DATA` holds `bccd` and `kangaroo` in
COCO form, see `benchmarks.recipe_runs`; the digits are built in. Each training is a process, and
its result a line of `results.jsonl` in `--output`: the same command resumes where it was
interrupted, and `--report` prints what there is.

Two designs:

- `plackett_burman`, the default, has half of the factors on in each run, and each pair in a
  quarter. Every run counts for the effect of every factor, so that 20 runs measure 16 factors with
  the error of a comparison of 10 runs with 10; it takes 170 runs to do so one factor at a time. Odd
  seeds have the mirror image of the design, with which interactions of two factors do not distort
  effects any more. The tables have each factor's effect and its standard error, by least squares
  over all runs so far.
- `one_at_a_time` has a run of the base and of each factor: for factors that exclude each other
  (kinds of IoU loss, optimizers) or spoil a short training (no pretrained weights), and for
  finalists. Differences are those to the base with the same seed.

A short training decides what is worth a long one, no more: what needs time, such as mosaic, looks
worse than it is, and high learning rates look better. Finalists are trained as the recipe is:

    python -m benchmarks.recipes --folder=DATA --design=one_at_a_time --factors=giou,ema-0.99
        --output=runs/finalists --set model.image_size=320 --set training.epochs=50
        --set training.steps_per_epoch=0
"""

import json
import pathlib
import shutil

from absl import flags

from benchmarks import recipe_factors, recipe_runs, recipe_tables
from benchmarks.measuring import in_own_process
from benchmarks.recipe_runs import DATA_SETS, DESIGNS, Run
from efficientdet_tf import files
from efficientdet_tf.cli import command_line
from efficientdet_tf.config import Config
from efficientdet_tf.errors import UserError
from keras_layers.options import did_you_mean


def define_flags() -> flags.FlagValues:
    """Declare the flags of the benchmark."""
    values = flags.FlagValues()
    flags.DEFINE_list("data", list(DATA_SETS), "Data sets to train on.", flag_values=values)
    flags.DEFINE_string("folder", "", "Folder of the data sets `bccd`, ...", flag_values=values)
    flags.DEFINE_enum("design", DESIGNS[0], DESIGNS, "Design of the runs.", flag_values=values)
    flags.DEFINE_list(
        "factors",
        [],
        f"Factors: {', '.join(recipe_factors.FACTORS)}. Default: those made for the design.",
        flag_values=values,
    )
    flags.DEFINE_integer("seeds", 3, "Runs of a design.", lower_bound=1, flag_values=values)
    flags.DEFINE_multi_string(
        "set", [], "Settings of the base as key=value, as train.py takes them.", flag_values=values
    )
    flags.DEFINE_string("output", "runs/recipes", "Folder of results.", flag_values=values)
    flags.DEFINE_bool("report", False, "Print the tables only.", flag_values=values)
    return values


def main(values: flags.FlagValues) -> None:
    """Train what has no result yet, and print the tables.

    Raises:
      UserError: for unknown names, factors that exclude each other, data sets that are not there,
        or results of another base.
    """
    _check_names("--data", values.data, DATA_SETS)
    _check_names("--factors", values.factors, recipe_factors.FACTORS)
    folder = pathlib.Path(values.output)
    results = folder / "results.jsonl"
    if not values.report:
        bases = {name: recipe_runs.base(name, values.folder, values.set) for name in values.data}
        planned = recipe_runs.plan(values.design, values.factors, values.data, values.seeds)
        for run in planned:
            recipe_factors.apply(bases[run.data], run.factors)
        _keep_bases(folder / "bases.json", bases)
        _train_missing(planned, bases, results)
    entries = recipe_runs.read(results)
    if not entries:
        raise UserError(f"{results}: no results yet; run the same command without --report")
    print(recipe_tables.report(entries))


def _train_missing(planned: list[Run], bases: dict[str, Config], results: pathlib.Path) -> None:
    missing = recipe_runs.missing(planned, results)
    for number, run in enumerate(missing, 1):
        print(f"{number}/{len(missing)} {run.title}", flush=True)
        config = recipe_factors.apply(bases[run.data], run.factors)
        config = config.override({"training.seed": run.seed})
        # The folder of a run that was interrupted has the same name: it is resumed.
        folder = results.parent / run.folder
        measured = in_own_process(recipe_runs.train, config.to_dict(), str(folder))
        recipe_runs.append(results, run, measured)
        shutil.rmtree(folder)


def _keep_bases(path: pathlib.Path, bases: dict[str, Config]) -> None:
    """Write the base settings of each data set; refuse others than those of the results."""
    new = {name: base.to_dict() for name, base in bases.items()}
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    changed = [name for name in new if old.get(name, new[name]) != new[name]]
    if changed:
        raise UserError(
            f"{path}: has results of {changed[0]} with other settings; use another --output"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, json.dumps(old | new, indent=1))


def _check_names(flag: str, names: list[str], known: dict) -> None:
    for name in names:
        if name not in known:
            raise UserError(f"{flag}: unknown {name!r}{did_you_mean(name, known)}")


if __name__ == "__main__":
    command_line.run(command_line.Command("recipe benchmark", __doc__, define_flags, main))
