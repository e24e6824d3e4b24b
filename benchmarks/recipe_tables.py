"""Markdown tables of `benchmarks.recipes`."""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmarks.recipe_runs import METRICS, Run
from benchmarks.screening_design import Effect, effects

Entries = Sequence[tuple[Run, dict[str, Any]]]


def report(entries: Entries) -> str:
    """Return the tables of all runs so far, best first.

    Args:
      entries: runs, and what was measured, see `recipe_runs.read`.
    """
    diverged = [run.title for run, measured in entries if "error" in measured]
    trained = [entry for entry in entries if "error" not in entry[1]]
    tables = [_one_at_a_time([entry for entry in trained if len(entry[0].factors) <= 1])]
    if screened := {f for run, _ in trained for f in run.factors if len(run.factors) > 1}:
        design = [entry for entry in trained if screened.issuperset(entry[0].factors)]
        tables.append(_effects(design, sorted(screened)))
    return "\n\n".join([*tables, *(f"diverged: {title}" for title in diverged)])


def _one_at_a_time(entries: Entries) -> str:
    """Return the table of runs with one factor, and of the base."""
    lines = [
        "| factor | data | AP | spread | to base | AP50 | AP75 | best AP | seeds | processor |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    rows: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for run, measured in entries:
        rows.setdefault((run.data, "".join(run.factors)), {})[run.seed] = measured
    for data, factor in sorted(rows, key=lambda row: (row[0], -_mean(rows[row].values(), "AP"))):
        by_seed = rows[data, factor]
        to_base = _to_base(by_seed, rows.get((data, ""), {})) if factor else ""
        lines.append(f"| {factor or 'base'} | {data} | {_cells(list(by_seed.values()), to_base)} |")
    return "\n".join(lines)


def _cells(found: list[dict[str, Any]], to_base: str) -> str:
    """Return the cells of a row from AP to the processor's time."""
    values = [measured["AP"] for measured in found]
    spread = f"{statistics.stdev(values):.3f}" if len(values) > 1 else ""
    best = statistics.mean(measured["best"]["AP"] for measured in found)
    seconds = statistics.median(measured["seconds"] for measured in found)
    return (
        f"{statistics.mean(values):.3f} | {spread} | {to_base} | {_mean(found, 'AP50'):.3f} | "
        f"{_mean(found, 'AP75'):.3f} | {best:.3f} | {len(found)} | {seconds:.0f} s"
    )


def _to_base(by_seed: dict[int, dict], base: dict[int, dict]) -> str:
    """Return mean and standard error of the differences to the base with the same seed."""
    differences = [by_seed[seed]["AP"] - base[seed]["AP"] for seed in by_seed if seed in base]
    if not differences:
        return ""
    if len(differences) == 1:
        return f"{differences[0]:+.3f}"
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return f"{statistics.mean(differences):+.3f} ± {error:.3f}"


def _effects(entries: Entries, factors: Sequence[str]) -> str:
    """Return the table of effects; of all data sets, their mean."""
    data = list(dict.fromkeys(run.data for run, _ in entries))
    by_metric = {key: dict(_by_data_set(entries, factors, data, key)) for key in METRICS}
    titles = [*(f"AP, {name}" for name in data), *(f"{key}, all" for key in METRICS)]
    lines = ["| factor | " + " | ".join(titles) + " |", "| --- |" + " ---: |" * len(titles)]
    means = {factor: _over_data_sets(factor, by_metric["AP"]) for factor in factors}
    for factor in sorted(factors, key=lambda name: -(means[name] or Effect(0, 0)).mean):
        cells = [_format(by_metric["AP"][name].get(factor)) for name in data]
        cells += [_format(_over_data_sets(factor, by_metric[key])) for key in METRICS]
        lines.append(f"| {factor} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _by_data_set(
    entries: Entries, factors: Sequence[str], data: Sequence[str], key: str
) -> Iterator[tuple[str, dict[str, Effect]]]:
    for name in data:
        found = [(run.factors, measured[key]) for run, measured in entries if run.data == name]
        yield name, effects(factors, [run for run, _ in found], [value for _, value in found])


def _over_data_sets(factor: str, by_data: dict[str, dict[str, Effect]]) -> Effect | None:
    """Return the mean effect over the data sets; None while one of them is missing."""
    found = [effect[factor] for effect in by_data.values() if factor in effect]
    if len(found) < len(by_data):
        return None
    error = sum(effect.error**2 for effect in found) ** 0.5 / len(found)
    return Effect(statistics.mean(effect.mean for effect in found), error)


def _format(effect: Effect | None) -> str:
    return f"{effect.mean:+.3f} ± {effect.error:.3f}" if effect else ""


def _mean(measured: Iterable[dict[str, Any]], key: str) -> float:
    return statistics.mean(entry[key] for entry in measured)
