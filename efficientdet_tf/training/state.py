"""Training state: checkpoints, and restoring from them."""

import contextlib
import pathlib
import re
import shutil
from collections.abc import Iterable
from typing import Any

import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.run_directory import RunDirectory, RunDirectoryError

# Raised by TensorFlow for a missing, truncated or damaged file.
_UNREADABLE = (tf.errors.OpError, IndexError)
# Name in a checkpoint of the value of a variable.
_VALUE = "{}/.ATTRIBUTES/VARIABLE_VALUE"
# Weights files beside the checkpoints: best, last, and the one being written.
_WEIGHTS_FILES = 3


def number(path: pathlib.Path) -> int:
    """Return the number of a checkpoint, the steps that it has done, from its prefix."""
    return int(path.name.removeprefix("ckpt-"))


def delete_checkpoint(directory: RunDirectory, number: int) -> None:
    """Delete the files of a checkpoint.

    Raises:
      RunDirectoryError: when they cannot be deleted.
    """
    try:
        # The index first: without it, the rest is no checkpoint.
        for file in sorted(directory.checkpoints.glob(f"ckpt-{number}.*"), reverse=True):
            file.unlink()
    except OSError as error:
        raise RunDirectoryError(
            f"{directory.checkpoints}: cannot be written: {error.strerror}"
        ) from error


def checkpoints(directory: RunDirectory) -> list[pathlib.Path]:
    """List the checkpoints of a run, newest first, by TensorFlow's prefix: without suffix.

    Found by file name, because TensorFlow's own list may be lost.
    """
    found = {
        int(match.group(1)): path.with_suffix("")
        for path in directory.checkpoints.glob("ckpt-*.index")
        if (match := re.fullmatch(r"ckpt-(\d+)", path.stem))
    }
    return [found[number] for number in sorted(found, reverse=True)]


def epochs_done(directory: RunDirectory) -> int:
    """Read the number of completed epochs from the newest checkpoint, without a network.

    It is 0 without a checkpoint, and with an unreadable one.
    """
    for newest in checkpoints(directory)[:1]:
        with contextlib.suppress(*_UNREADABLE, ValueError):
            reader = tf.train.load_checkpoint(str(newest))
            return int(reader.get_tensor(_VALUE.format("epochs_done")))
    return 0


def restore(directory: RunDirectory, model: keras.Model) -> tf.train.Checkpoint:
    """Restore the training state of a run from its newest readable checkpoint.

    An unreadable one is reported, and the previous one is used.

    Args:
      directory: run directory.
      model: compiled model; its weights, optimizer and moving average are restored.

    Returns:
      The state, with the further variables `epochs_done`, `best_ap`, `steps_into_epoch` (steps
      done in the current epoch), `images_skipped` (in the training stream so far),
      `steps_per_epoch` (0 before the first step, and in earlier versions) and `schedule_shift`,
      see `fit_schedule`.

    Raises:
      RunDirectoryError: when no checkpoint is readable, or one has other settings.
    """
    with model.distribute_strategy.scope():
        model.optimizer.build(model.trainable_variables)
    paths = checkpoints(directory)
    for path in paths:
        state, later = _state_of_epochs(model), _later_variables()
        try:
            reader = tf.train.load_checkpoint(str(path))
            for name, variable in later.items():
                if reader.has_tensor(_VALUE.format(name)):
                    setattr(state, name, variable)
            _restore_all(state, path, reader)
        except _UNREADABLE as error:
            reason = _reason(error)
            print(f"{path}: unreadable checkpoint ({reason}); falling back to the previous one")
            continue
        for name, variable in later.items():
            setattr(state, name, variable)
        print(f"{directory.path}: resuming {_position(state)}")
        return state
    if paths:
        raise RunDirectoryError(
            f"{directory.checkpoints}: none of its checkpoints can be read; start a new run in "
            f"another --model_dir, with --pretrained={directory.path} from its weights"
        )
    state = _state_of_epochs(model)
    for name, variable in _later_variables().items():
        setattr(state, name, variable)
    return state


def _restore_all(state: tf.train.Checkpoint, path: pathlib.Path, reader: Any) -> None:
    """Restore all variables of the state.

    Raises:
      _UNREADABLE: for a damaged checkpoint.
      RunDirectoryError: for an intact one with other variables.
    """
    try:
        state.restore(str(path)).assert_existing_objects_matched()
    except (ValueError, AssertionError) as error:
        # Raises when a file is damaged.
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
        raise RunDirectoryError(
            f"{path}: does not match the settings of config.yaml; "
            "use those it was trained with, or another --model_dir"
        ) from error


def _state_of_epochs(model: keras.Model) -> tf.train.Checkpoint:
    """Make the state that checkpoints of all versions contain."""
    # Absent without a moving average.
    average = {"moving_average": model.moving_average} if model.moving_average else {}
    return tf.train.Checkpoint(
        model=model,
        optimizer=model.optimizer,
        best_ap=tf.Variable(-1.0, trainable=False),
        epochs_done=tf.Variable(0, trainable=False),
        **average,
    )


def _later_variables() -> dict[str, tf.Variable]:
    """Make the variables that earlier checkpoint versions lack, with neutral values."""
    return {
        "steps_into_epoch": tf.Variable(0, trainable=False),
        "images_skipped": tf.Variable(0, trainable=False),
        "steps_per_epoch": tf.Variable(0, trainable=False),
        "schedule_shift": tf.Variable(0, trainable=False),
    }


def fit_schedule(state: tf.train.Checkpoint, steps: int, stored_steps: int) -> None:
    """Let the learning-rate schedule continue at the epoch that a resumed run has reached.

    With another batch size or number of images an epoch has other steps, while the optimizer
    counts all of them: `schedule_shift` is added to its count. Within an epoch, the share that is
    done stays, rounded down to a step.

    Args:
      state: training state from `restore`.
      steps: steps in an epoch.
      stored_steps: steps in an epoch by the settings of the run so far, for the checkpoints of
        versions that did not store them.
    """
    before = int(state.steps_per_epoch) or stored_steps
    if before != steps:
        steps_into_epoch = int(state.steps_into_epoch) * steps // before
        state.steps_into_epoch.assign(steps_into_epoch)
        done = int(state.epochs_done) * steps + steps_into_epoch
        state.schedule_shift.assign(done - int(state.optimizer.iterations.numpy()))
    state.steps_per_epoch.assign(steps)


def schedule_position(state: tf.train.Checkpoint) -> int:
    """Return the number of steps that the learning-rate schedule has done."""
    return int(state.optimizer.iterations.numpy()) + int(state.schedule_shift)


def _position(state: tf.train.Checkpoint) -> str:
    steps = int(state.steps_into_epoch)
    return f"after epoch {int(state.epochs_done)}" + (f" and {steps} steps" if steps else "")


def check_space(directory: RunDirectory, state: tf.train.Checkpoint, keep: int) -> None:
    """Check that the disk has room for all checkpoints and weights of the run.

    Args:
      directory: existing run directory.
      state: training state from `restore`.
      keep: number of checkpoints to keep.

    Raises:
      RunDirectoryError: when the free space does not suffice.
    """
    weights = _bytes(state.model.variables)
    average = state.model.moving_average
    averages = _bytes(average.averages) if average else 0
    # A new checkpoint is written before the oldest is deleted.
    missing = max(0, keep + 1 - len(checkpoints(directory)))
    needed = missing * (weights + averages + _bytes(state.optimizer.variables))
    needed += _WEIGHTS_FILES * weights
    free = shutil.disk_usage(directory.path).free
    if free < needed:
        raise RunDirectoryError(
            f"{directory.path}: the disk has {_megabytes(free)} left, and the run needs "
            f"{_megabytes(needed)}; free disk space, use another --model_dir, or keep fewer "
            "checkpoints: --set training.keep_checkpoints=1"
        )


def _bytes(variables: Iterable[tf.Variable]) -> int:
    return sum(variable.shape.num_elements() * variable.dtype.size for variable in variables)


def _megabytes(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
