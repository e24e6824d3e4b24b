"""Recovery from divergence: back to the last checkpoint, with half the learning rate."""

import json
import pathlib
from typing import NamedTuple

from efficientdet_tf.config import Config
from efficientdet_tf.errors import UserError
from efficientdet_tf.files import write_atomically
from efficientdet_tf.run_directory import RunDirectory
from efficientdet_tf.training import state

FILE = "recoveries.json"


class TrainingDiverged(UserError):
    """The loss is NaN or infinite, or has exploded.

    Args:
      message: what happened, in one line.
      step: number of the step, counted from 1 over the run.
    """

    def __init__(self, message: str, step: int) -> None:
        super().__init__(message)
        self.step = step


class Recovery(NamedTuple):
    """One return to a checkpoint.

    Attributes:
      step: step at which the loss diverged.
      checkpoint: step of the checkpoint that training returned to; 0 is the start of the run.
      learning_rate: `optimizer.learning_rate` of the settings, which stays as it is.
    """

    step: int
    checkpoint: int
    learning_rate: float


def recover(directory: RunDirectory, config: Config, error: TrainingDiverged) -> None:
    """Prepare a diverged run for another attempt, and print what changes.

    A checkpoint to which an earlier recovery returned is deleted if there is an older one: its
    weights have diverged.

    Args:
      directory: run directory.
      config: settings of the run.
      error: the divergence.

    Raises:
      TrainingDiverged: when no recovery is left, or the only checkpoint has diverged.
      WriteError: when the folder cannot be written to.
    """
    earlier = recoveries(directory.path, config)
    most = config.training.max_recoveries
    if len(earlier) >= most:
        tried = f"; recoveries with half the learning rate, without success: {len(earlier)}"
        raise TrainingDiverged(f"{error}{tried if earlier else ''}", error.step) from error
    numbers = [state.number(path) for path in state.checkpoints(directory)]
    if earlier and numbers[:1] == [earlier[-1].checkpoint]:
        if len(numbers) == 1:
            raise TrainingDiverged(
                f"{error}; so it did before from the only checkpoint, of step {numbers[0]}",
                error.step,
            ) from error
        state.delete_checkpoint(directory, numbers.pop(0))
    checkpoint = numbers[0] if numbers else 0
    latest = Recovery(error.step, checkpoint, config.optimizer.learning_rate)
    _write(directory.path, [*_read(directory.path), latest])
    source = f"the checkpoint of step {checkpoint}" if checkpoint else "the beginning"
    print(
        f"{error}\nrecovery {len(earlier) + 1} of {most}: back to {source}, half the learning rate"
    )


def recoveries(folder: pathlib.Path, config: Config) -> list[Recovery]:
    """Read the recoveries of a run with the learning rate of `config`; [] if there are none.

    Another `optimizer.learning_rate` is a decision of the user, and applies unhalved.
    """
    rate = config.optimizer.learning_rate
    return [each for each in _read(folder) if each.learning_rate == rate]


def _read(folder: pathlib.Path) -> list[Recovery]:
    """Read all recoveries of a run; [] for a missing or damaged file."""
    try:
        items = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return [
            Recovery(int(item["step"]), int(item["checkpoint"]), float(item["learning_rate"]))
            for item in items
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def with_halved_rate(config: Config, folder: pathlib.Path) -> Config:
    """Return the settings with the learning rate after the recoveries of a run so far."""
    rate = config.optimizer.learning_rate / 2 ** len(recoveries(folder, config))
    return config.override({"optimizer.learning_rate": rate})


def describe(config: Config, folder: pathlib.Path) -> str:
    """Describe the learning rate after the recoveries of a run in one line; "" without any."""
    given = config.optimizer.learning_rate
    rate = with_halved_rate(config, folder).optimizer.learning_rate
    if rate == given:
        return ""
    return (
        f"learning rate: {rate:g} instead of {given:g} after divergence ({folder / FILE}); "
        "--set optimizer.learning_rate=... chooses another"
    )


def _write(folder: pathlib.Path, found: list[Recovery]) -> None:
    items = [each._asdict() for each in found]
    write_atomically(folder / FILE, json.dumps(items, indent=1) + "\n")
