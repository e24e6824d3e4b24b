"""Results of a benchmark as lines of JSON, which an interruption does not spoil."""

import json
import pathlib
from typing import Any


def append(path: pathlib.Path, entry: dict[str, Any]) -> None:
    """Add a line; the file and its folder are made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    # After a line that was cut off, when the benchmark was killed.
    start = "" if text.endswith("\n") or not text else "\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(start + json.dumps(entry) + "\n")


def read(path: pathlib.Path) -> list[dict[str, Any]]:
    """Read the lines so far; one that was cut off is left out."""
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            continue
    return entries
