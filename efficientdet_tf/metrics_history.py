"""Metrics history of a run, read from its `metrics.csv`."""

import csv
import io
import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

# Metrics of a training step.
TRAINING_METRICS = (
    *("loss", "detection_loss", "class_loss", "box_loss", "box_iou_loss", "l2_loss"),
    *("distillation_loss", "gradient_norm"),
)
# Columns of `metrics.csv`, in order.
COLUMNS = (
    *("epoch", "seconds", "learning_rate"),
    *TRAINING_METRICS,
    *("AP", "AP50", "AP75", "images_skipped"),
)


class History(NamedTuple):
    """Content of a `metrics.csv`.

    Attributes:
      epochs: {column: value} of each epoch, including "epoch", in order; without empty
        cells, such as "AP" of an epoch without evaluation.
      num_unreadable: number of damaged lines, which are skipped.
    """

    epochs: list[dict[str, float]]
    num_unreadable: int


def read_history(path: pathlib.Path) -> History:
    """Read the metrics of each epoch.

    Lines left incomplete or full of NUL bytes by a crash or power cut are skipped and
    counted; for an epoch that was trained again, the last line counts.

    Args:
      path: path of the file; a missing file has no epochs.
    """
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return History([], 0)
    lines = text.splitlines(keepends=True)
    columns = _cells(lines[0]) if lines else []
    is_header = "epoch" in columns
    rows = [_row(line, columns if is_header else COLUMNS) for line in lines[is_header:]]
    readable = [row for row in rows if row]
    by_epoch = {row["epoch"]: row for row in readable}
    num_blank = sum(not line.strip() for line in lines[is_header:])
    return History(
        [by_epoch[epoch] for epoch in sorted(by_epoch)], len(rows) - len(readable) - num_blank
    )


def read_skipped_images(path: pathlib.Path) -> dict[str, str]:
    """Read the images that a run has skipped.

    Args:
      path: path of `skipped_images.csv`; a missing file has none; damaged lines are
        ignored.

    Returns:
      {image name: reason}.
    """
    try:
        text = path.read_bytes().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return {}
    rows = list(csv.reader(io.StringIO(text.replace("\0", "?"))))
    return dict(row for row in rows[1:] if len(row) == 2)


def evaluations_without_gain(history: Sequence[dict[str, float]]) -> int:
    """Count the evaluations at the end of a history without an AP improvement."""
    best, count = -math.inf, 0
    for row in history:
        if "AP" not in row:
            continue
        gained = row["AP"] > best
        best, count = (row["AP"], 0) if gained else (best, count + 1)
    return count


def _row(line: str, columns: Sequence[str]) -> dict[str, float] | None:
    """Parse a line to {column: number}; None for a damaged line."""
    cells = _cells(line)
    # Without its line end, the last number may be truncated.
    if len(cells) != len(columns) or not line.endswith("\n"):
        return None
    try:
        row = {name: float(cell) for name, cell in zip(columns, cells) if cell}
    except ValueError:
        return None
    return row if math.isfinite(row.get("epoch", math.nan)) else None


def _cells(line: str) -> list[str]:
    # Some versions of the csv module raise for NUL bytes.
    [cells] = csv.reader([line.rstrip("\r\n").replace("\0", "?")])
    return cells
