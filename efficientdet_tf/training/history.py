"""The epochs of a run, read back from its `metrics.csv`."""

import csv
import math
import pathlib
from collections.abc import Sequence


def read_history(path: pathlib.Path) -> list[dict[str, float]]:
    """What was measured in each epoch, in order of epoch.

    A row that a crash cut off is left out; of an epoch that was trained again
    after one, the last row counts.

    Args:
      path: of the file; one that does not exist has no epochs.

    Returns:
      For each epoch its columns, "epoch" among them; columns with an empty cell
      left out, such as "AP" of an epoch without evaluation.
    """
    try:
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            rows = [_numbers(row) for row in csv.DictReader(file)]
    except FileNotFoundError:
        return []
    by_epoch = {row["epoch"]: row for row in rows if math.isfinite(row.get("epoch", math.nan))}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def evaluations_without_gain(history: Sequence[dict[str, float]]) -> int:
    """How many evaluations at the end of a history have no better AP than one before."""
    best, count = -math.inf, 0
    for row in history:
        if "AP" not in row:
            continue
        gained = row["AP"] > best
        best, count = (row["AP"], 0) if gained else (best, count + 1)
    return count


def _numbers(row: dict) -> dict[str, float]:
    numbers = {}
    for name, cell in row.items():
        try:
            numbers[name] = float(cell)
        except (TypeError, ValueError):
            continue
    return numbers
