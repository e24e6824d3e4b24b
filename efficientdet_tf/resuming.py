"""Resuming with other settings: refused and permitted changes, and their effects."""

import json
import math
import pathlib
from typing import NamedTuple

from efficientdet_tf.config import Config, Differences, format_value, marked
from efficientdet_tf.config.declaration import DerivedFromData, MeasuresAP, Shapes
from efficientdet_tf.files import write_atomically

CHANGES_FILE = "changes.json"


class Change(NamedTuple):
    """Changed settings of a resumed run.

    Attributes:
      epoch: number of epochs done.
      step: number of steps done.
      settings: changed settings, {key: (old, new)}.
    """

    epoch: int
    step: int
    settings: Differences

    @property
    def changes_ap(self) -> bool:
        """Whether AP before and after the change is not comparable."""
        return not marked(MeasuresAP).keys().isdisjoint(self.settings)


def refused(stored: Config, asked: Config) -> Differences:
    """Find the changed settings that shape the checkpoint: {key: (stored, asked)}."""
    shaping = marked(Shapes)
    return {
        key: (old, new)
        for key, (old, new) in stored.differences(asked).items()
        if key in shaping and shaping[key].part_of(old) != shaping[key].part_of(new)
    }


def changed(stored: Config, asked: Config) -> Differences:
    """Find the changed settings that may change: {key: (stored, asked)}."""
    others = refused(stored, asked).keys() | marked(DerivedFromData).keys()
    return {key: v for key, v in stored.differences(asked).items() if key not in others}


def keep_pretrained(stored: Config, asked: Config) -> Config:
    """Return the settings to resume with: `training.pretrained` stays that which was loaded.

    Other weights that are asked for are not loaded, and a line says so.
    """
    ours, other = stored.training.pretrained, asked.training.pretrained
    if other not in ("", ours):
        print(f"training.pretrained: {other}: not loaded; the run is resumed from its checkpoint")
    return asked.override({"training.pretrained": ours})


def describe(
    change: Change, rates: tuple[float, float], best_ap: float, with_early_stopping: bool
) -> list[str]:
    """Describe a change of settings and its effects in lines.

    Args:
      change: change of this resumption.
      rates: learning rate of the next step, with the old and the new settings.
      best_ap: best AP of the run so far; negative before the first evaluation.
      with_early_stopping: whether `training.patience` is set.
    """
    lines = [
        f"changed since: {key} {format_value(old)} -> {format_value(new)}"
        for key, (old, new) in change.settings.items()
    ]
    before, after = rates
    if not math.isclose(before, after, rel_tol=1e-3, abs_tol=1e-9):
        line = f"learning rate of step {change.step + 1}: {before:.3g} -> {after:.3g}"
        if after > 2 * before:
            line += "; it had fallen and rises again"
        lines.append(line)
    if change.changes_ap and best_ap >= 0:
        line = f"best AP {best_ap:.3f}: reset, as it was measured with other settings; "
        line += "best.weights.h5 is replaced at the next evaluation"
        lines.append(line + ("; early stopping restarts" if with_early_stopping else ""))
    return lines


def read_changes(folder: pathlib.Path) -> list[Change]:
    """Read the changes of a run so far, in order; [] for a damaged or missing file."""
    try:
        items = json.loads((folder / CHANGES_FILE).read_text(encoding="utf-8"))
        return [
            Change(
                int(item["epoch"]),
                int(item["step"]),
                {key: (old, new) for key, (old, new) in item["settings"].items()},
            )
            for item in items
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def write_changes(folder: pathlib.Path, changes: list[Change]) -> None:
    """Write the file that `read_changes` reads.

    Raises:
      WriteError: when it cannot be written.
    """
    items = [change._asdict() for change in changes]
    write_atomically(folder / CHANGES_FILE, json.dumps(items, indent=1) + "\n")


def measured_since(changes: list[Change]) -> Change:
    """Return the last change that affects AP; if none, one before the first step."""
    relevant = [change for change in changes if change.changes_ap]
    return relevant[-1] if relevant else Change(0, -1, {})
