"""Resuming with other settings: what is refused, what may change, and what follows from it."""

import json
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from efficientdet_tf.config import Config
from efficientdet_tf.files import write_atomically

# The one place that says which settings shape a checkpoint: all of these sections but what
# may change, and of other sections these, each with what of its value has to stay.
_SHAPING_SECTIONS = ("model", "neck", "anchors")
_MAY_CHANGE = ("model.backbone_survival_prob", "anchors.positive_iou_threshold")
_SHAPING: dict[str, Callable[[Any], Any]] = {
    "optimizer.name": str,
    "optimizer.lookahead": bool,
    # Optimizers of tensorflow-addons keep nothing at 0.
    "optimizer.momentum": bool,
    "optimizer.ema_decay": bool,
    # Only it has a loss scale, around the optimizer.
    "training.precision": lambda name: name == "mixed_float16",
}
# Set by the training from its data.
_DERIVED = ("loss.class_weight_values",)
# AP before and after a change of these cannot be compared.
_MEASURED_BY = ("data.val", "data.val_images", "data.format", "data.use_difficult", "detection.")

CHANGES_FILE = "changes.json"
# Setting -> (value before, value after).
Changed = dict[str, tuple[Any, Any]]


class Change(NamedTuple):
    """Settings that a run was resumed with, which differ from those before.

    Attributes:
      epoch: epochs that were done.
      step: steps that were done.
      settings: what differs.
    """

    epoch: int
    step: int
    settings: Changed

    @property
    def is_of_measuring(self) -> bool:
        """Whether AP before and after it cannot be compared."""
        return any(key.startswith(_MEASURED_BY) for key in self.settings)


def shapes_checkpoint(key: str) -> bool:
    """Whether a run can only be resumed with the same value of a setting, or one like it."""
    section = key.partition(".")[0]
    return key in _SHAPING or (section in _SHAPING_SECTIONS and key not in _MAY_CHANGE)


def refused(stored: Config, asked: Config) -> Changed:
    """The settings that differ and shape the checkpoint."""
    return {
        key: (old, new)
        for key, (old, new) in _differing(stored, asked).items()
        if shapes_checkpoint(key) and _shape(key, old) != _shape(key, new)
    }


def changed(stored: Config, asked: Config) -> Changed:
    """The settings that differ and may."""
    shaping = refused(stored, asked)
    return {
        key: values
        for key, values in _differing(stored, asked).items()
        if key not in shaping and key not in _DERIVED
    }


def describe(
    change: Change, rates: tuple[float, float], best_ap: float, with_early_stopping: bool
) -> list[str]:
    """Lines on what changed, and what follows.

    Args:
      change: of this resumption.
      rates: learning rate of the next step, by the settings before and after.
      best_ap: of the run so far; negative before the first evaluation.
      with_early_stopping: whether `training.patience` is set.
    """
    lines = [
        f"changed since: {key} {shown(old)} -> {shown(new)}"
        for key, (old, new) in change.settings.items()
    ]
    before, after = rates
    if not math.isclose(before, after, rel_tol=1e-3, abs_tol=1e-9):
        line = f"learning rate of step {change.step + 1}: {before:.3g} -> {after:.3g}"
        if after > 2 * before:
            line += "; it had fallen and rises again"
        lines.append(line)
    if change.is_of_measuring and best_ap >= 0:
        line = f"best AP {best_ap:.3f}: forgotten, as it was measured with other settings; "
        line += "best.weights.h5 is replaced at the next evaluation"
        lines.append(line + ("; early stopping starts over" if with_early_stopping else ""))
    if "training.pretrained" in change.settings:
        lines.append("training.pretrained: not loaded; the run is resumed from its checkpoint")
    return lines


def shown(value: Any) -> str:
    """A value of a setting for a message."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(shown, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value) or "''"


def read_changes(folder: pathlib.Path) -> list[Change]:
    """The changes of a run so far, in order; a file that is damaged or missing has none."""
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
    """Write what `read_changes` reads.

    Raises:
      WriteError: when it cannot be written.
    """
    items = [change._asdict() for change in changes]
    write_atomically(folder / CHANGES_FILE, json.dumps(items, indent=1) + "\n")


def measured_since(changes: list[Change]) -> Change:
    """The last change after which AP is another; one before the first step where there is none."""
    ours = [change for change in changes if change.is_of_measuring]
    return ours[-1] if ours else Change(0, -1, {})


def _shape(key: str, value: Any) -> Any:
    return _SHAPING[key](value) if key in _SHAPING else value


def _differing(stored: Config, asked: Config) -> Changed:
    old, new = stored.to_dict(), asked.to_dict()
    return {
        f"{section}.{name}": (value, new[section][name])
        for section, fields in old.items()
        for name, value in fields.items()
        if value != new[section][name]
    }
