"""Design, queue and tables of `benchmarks.recipes`; nothing is trained."""

import json

import numpy as np
import pytest

from benchmarks import recipe_factors, recipe_runs, recipe_tables, recipes, screening_design
from benchmarks.recipe_runs import Run
from efficientdet_tf.cli import command_line
from efficientdet_tf.config import Config
from efficientdet_tf.errors import UserError

BASE = recipe_runs.base("digits", "", ["model.image_size=192x256"])
COMMAND = command_line.Command("recipes", recipes.__doc__, recipes.define_flags, recipes.main)


def measured(ap, best=None):
    return {
        **{"AP": ap, "AP50": 2 * ap, "AP75": ap / 2, "seconds": 100.0},
        "best": {"epoch": 5, "AP": best or ap, "AP50": 2 * ap, "AP75": ap / 2},
    }


@pytest.mark.parametrize("count", [1, 8, 9, 16, 17, 20])
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_factors_of_a_design_are_on_in_half_of_the_runs_and_independent(count, is_mirrored):
    factors = [str(number) for number in range(count)]
    runs = screening_design.plackett_burman(factors, is_mirrored)
    assert len(runs) == (12 if count <= 8 else 20 if count <= 16 else 24)
    signs = np.array([[1 if factor in run else -1 for factor in factors] for run in runs])
    np.testing.assert_array_equal(signs.sum(axis=0), np.zeros(count))
    np.testing.assert_array_equal(signs.T @ signs, len(runs) * np.eye(count))
    # One run is the base, or has all factors on.
    assert runs[-1] == (tuple(factors) if is_mirrored else ())


def test_mirrored_runs_have_the_other_factors_on():
    factors = list("abcdefgh")
    pairs = zip(*(screening_design.plackett_burman(factors, mirrored) for mirrored in (0, 1)))
    for run, mirrored in pairs:
        assert sorted(run + mirrored) == factors


def test_effects_are_found_with_their_errors():
    factors, real = list("abcdefgh"), {"a": 0.05, "c": -0.02}
    runs = screening_design.plackett_burman(factors)
    values = [0.4 + sum(real.get(factor, 0) for factor in run) for run in runs]
    for factor, effect in screening_design.effects(factors, runs, values).items():
        assert effect.mean == pytest.approx(real.get(factor, 0))
        assert effect.error == pytest.approx(0, abs=1e-8)
    # Each run twice, once 0.02 higher.
    with_noise = screening_design.effects(factors, runs * 2, [*values, *np.add(values, 0.02)])
    # Deviations of 0.01 in 24 runs with 9 unknowns; the difference of 12 and 12 runs.
    expected = 0.01 * (24 / 15) ** 0.5 * (1 / 12 + 1 / 12) ** 0.5
    assert with_noise["b"].mean == pytest.approx(0)
    assert with_noise["b"].error == pytest.approx(expected)


def test_a_mirrored_design_keeps_interactions_out_of_effects():
    factors = list("abcdefgh")

    def measure(run):
        return 0.1 * ("a" in run and "b" in run)

    def largest_wrong_effect(runs):
        found = screening_design.effects(factors, runs, [measure(run) for run in runs])
        return max(abs(found[factor].mean) for factor in factors[2:])

    runs = screening_design.plackett_burman(factors)
    assert largest_wrong_effect(runs) == pytest.approx(0.1 / 6)
    runs += screening_design.plackett_burman(factors, is_mirrored=True)
    assert largest_wrong_effect(runs) == pytest.approx(0)


def test_no_effects_before_the_runs_tell_factors_apart():
    factors = list("abcdefgh")
    runs = screening_design.plackett_burman(factors)
    assert screening_design.effects(factors, runs[:8], [0.4] * 8) == {}
    # All of them are on in every run.
    assert screening_design.effects(factors, [factors] * 20, [0.4] * 20) == {}


def test_more_factors_than_any_design_has_room_for():
    with pytest.raises(ValueError, match="^21 factors are more than 20$"):
        screening_design.plackett_burman([str(number) for number in range(21)])


@pytest.mark.parametrize("factor", recipe_factors.FACTORS)
def test_each_factor_changes_the_base(factor):
    assert recipe_factors.apply(BASE, [factor]) != BASE


def test_screened_factors_can_be_on_together():
    screening_design.plackett_burman(recipe_factors.SCREENED)
    recipe_factors.apply(BASE, recipe_factors.SCREENED)
    message = "^--factors: ema-off sets optimizer.ema_decay, which another factor sets too$"
    with pytest.raises(UserError, match=message):
        recipe_factors.apply(BASE, ["ema-0.99", "ema-off"])


def test_factors_of_shape_and_time_follow_the_base():
    size = {
        name: recipe_factors.apply(BASE, [name]).model.image_size
        for name in ("input-1.5", "input-square")
    }
    assert size == {"input-1.5": (288, 384), "input-square": (224, 224)}
    before, after = BASE.training, recipe_factors.apply(BASE, ["epochs-double"]).training
    assert after.epochs == 2 * before.epochs
    assert after.eval_interval_epochs == 2 * before.eval_interval_epochs


def test_a_plan_compares_on_all_data_sets_early():
    plan = recipe_runs.plan("one_at_a_time", ["giou", "mosaic"], ["bccd", "digits"], 2)
    assert plan[:4] == [
        *(Run("bccd", 0, ()), Run("digits", 0, ())),
        *(Run("bccd", 0, ("giou",)), Run("digits", 0, ("giou",))),
    ]
    assert [run.seed for run in plan] == [0] * 6 + [1] * 6
    plan = recipe_runs.plan("plackett_burman", [], ["bccd"], 3)
    assert len(plan) == len(set(plan)) == 60
    by_seed = [[run.factors for run in plan if run.seed == seed] for seed in range(3)]
    assert by_seed[0] == by_seed[2] != by_seed[1]


def test_folders_of_a_plan_are_its_own():
    plan = recipe_runs.plan("plackett_burman", [], list(recipe_runs.DATA_SETS), 2)
    folders = [run.folder for run in plan]
    assert len(set(folders)) == len(folders)
    assert max(map(len, folders)) < 256


def test_results_are_kept_and_resumed_after_a_line_that_was_cut_off(tmp_path):
    results = tmp_path / "results.jsonl"
    plan = recipe_runs.plan("one_at_a_time", ["giou"], ["bccd", "digits"], 1)
    assert recipe_runs.missing(plan, results) == plan
    recipe_runs.append(results, plan[0], measured(0.5))
    with results.open("a") as file:
        file.write('{"data": "digits", "seed": 0, "fac')
    assert recipe_runs.missing(plan, results) == plan[1:]
    recipe_runs.append(results, plan[1], {"error": "loss is NaN"})
    assert recipe_runs.missing(plan, results) == plan[2:]
    assert recipe_runs.read(results) == [
        (plan[0], measured(0.5)),
        (plan[1], {"error": "loss is NaN"}),
    ]


def test_the_table_of_single_factors():
    entries = [
        (Run("bccd", 0, ()), measured(0.5)),
        (Run("bccd", 1, ()), measured(0.52)),
        (Run("bccd", 0, ("giou",)), measured(0.53, best=0.55)),
        (Run("bccd", 1, ("giou",)), measured(0.53)),
        (Run("digits", 0, ("giou",)), measured(0.3)),
        (Run("digits", 1, ("giou",)), {"error": "loss is NaN"}),
    ]
    table, diverged = recipe_tables.report(entries).split("\n\n")
    assert table.splitlines()[2:] == [
        "| giou | bccd | 0.530 | 0.000 | +0.020 ± 0.010 | 1.060 | 0.265 | 0.540 | 2 | 100 s |",
        "| base | bccd | 0.510 | 0.014 |  | 1.020 | 0.255 | 0.510 | 2 | 100 s |",
        "| giou | digits | 0.300 |  |  | 0.600 | 0.150 | 0.300 | 1 | 100 s |",
    ]
    assert diverged == "diverged: digits, seed 1: giou"


def test_the_table_of_effects():
    plan = recipe_runs.plan("plackett_burman", ["giou", "mosaic"], ["bccd", "digits"], 1)
    weights = {"bccd": 0.02, "digits": 0.04}
    entries = [(run, measured(0.5 + weights[run.data] * ("mosaic" in run.factors))) for run in plan]
    # A single factor that is not of the design distorts nothing.
    entries.append((Run("bccd", 0, ("scratch",)), measured(0.1)))
    _, table = recipe_tables.report(entries).split("\n\n")
    assert table.splitlines() == [
        "| factor | AP, bccd | AP, digits | AP, all | AP50, all | AP75, all |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| mosaic | +0.020 ± 0.000 | +0.040 ± 0.000 | +0.030 ± 0.000 | +0.060 ± 0.000 | "
        "+0.015 ± 0.000 |",
        "| giou | " + " | ".join(["+0.000 ± 0.000"] * 5) + " |",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data=bcd"], "--data: unknown 'bcd'; did you mean 'bccd'?"),
        (["--factors=mosiac"], "--factors: unknown 'mosiac'; did you mean 'mosaic'?"),
        (["--data=bccd", "--folder=/nowhere"], "/nowhere/bccd/annotations/instances_train.json: "),
        (["--data=digits", "--factors=ema-off,ema-0.99"], "--factors: ema-off sets optimizer."),
        (["--report"], "OUTPUT/results.jsonl: no results yet; run the same command without "),
    ],
)
def test_complains_in_one_line(arguments, message, tmp_path, capsys):
    assert command_line.call(COMMAND, [*arguments, f"--output={tmp_path}"]) == 1
    out, err = capsys.readouterr()
    [line] = err.splitlines()
    assert line.startswith(f"recipes: {message}".replace("OUTPUT", str(tmp_path))) and out == ""
    assert not list(tmp_path.iterdir())


def test_a_finished_queue_prints_its_tables_and_keeps_to_its_base(tmp_path, capsys):
    plan = recipe_runs.plan("one_at_a_time", ["giou"], ["digits"], 1)
    for run, ap in zip(plan, (0.4, 0.5)):
        recipe_runs.append(tmp_path / "results.jsonl", run, measured(ap))
    arguments = ["--data=digits", "--design=one_at_a_time", "--factors=giou", "--seeds=1"]
    arguments.append(f"--output={tmp_path}")
    assert command_line.call(COMMAND, arguments) == 0
    assert "| giou | digits | 0.500 |  | +0.100 |" in capsys.readouterr().out
    [base] = json.loads((tmp_path / "bases.json").read_text()).values()
    assert Config.from_dict(base) == recipe_runs.base("digits", "")
    assert command_line.call(COMMAND, [*arguments, "--set=training.epochs=3"]) == 1
    assert capsys.readouterr().err == (
        f"recipes: {tmp_path}/bases.json: has results of digits with other settings; "
        "use another --output\n"
    )
