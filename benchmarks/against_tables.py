"""Markdown table of `benchmarks.against`."""

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.against_runs import Run
from benchmarks.competitors.tools import TOOLS

Entries = Sequence[tuple[Run, dict[str, Any]]]

_COLUMNS = (
    *("tool", "version", "licence", "initial weights", "input", "parameters", "epochs"),
    *("processor minutes", "AP", "AP50", "AP75", "processor ms/image", "seeds"),
)
# Columns of text; the others are numbers.
_NUM_TEXTS = 5


def report(entries: Entries) -> str:
    """Return the table of all runs so far, best AP first, and then what has none."""
    measured: dict[str, list[dict[str, Any]]] = {}
    errors = {}
    for run, entry in entries:
        if "error" in entry:
            errors[run] = entry["error"]
        else:
            measured.setdefault(run.tool, []).append(entry)
    lines = [_line(_COLUMNS)]
    lines.append(_line("---" if i < _NUM_TEXTS else "---:" for i in range(len(_COLUMNS))))
    for tool in sorted(measured, key=lambda tool: -_mean(measured[tool], "AP")):
        lines.append(_line(_cells(tool, measured[tool])))
    for run, reason in errors.items():
        tool = TOOLS[run.tool]
        # A line of an error may hold what ends a cell.
        cells = [tool.title, reason.replace("|", "\\|"), tool.licence, tool.initial_weights]
        lines.append(_line(cells + [""] * (len(_COLUMNS) - len(cells))))
    return "\n".join(lines)


def _cells(name: str, found: list[dict[str, Any]]) -> list[str]:
    tool, last = TOOLS[name], found[-1]
    return [
        *(tool.title, last["version"], tool.licence, tool.initial_weights, last["input"]),
        *(f"{last['parameters'] / 1e6:.2f} M", str(last["epochs"])),
        f"{_mean(found, 'seconds') / 60:.1f}",
        *(f"{_mean(found, key):.3f}" for key in ("AP", "AP50", "AP75")),
        *(f"{_mean(found, 'milliseconds'):.0f}", str(len(found))),
    ]


def _line(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def _mean(found: list[dict[str, Any]], key: str) -> float:
    return statistics.mean(entry[key] for entry in found)
