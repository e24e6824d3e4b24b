"""The whole state of a training: written as it goes, found again after a stop."""

import pathlib
import re
import shutil

import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.training.run_directory import RunDirectory, RunDirectoryError

# What TensorFlow raises for a file that is missing, cut off, damaged, or of
# other variables.
_UNREADABLE = (tf.errors.OpError, ValueError, IndexError, AssertionError)
# Of a position within an epoch; checkpoints of earlier versions have none.
_STEPS_INTO_EPOCH = "steps_into_epoch/.ATTRIBUTES/VARIABLE_VALUE"
# Weights files beside the checkpoints: best, last, and the one being written.
_WEIGHTS_FILES = 3


def checkpoints(directory: RunDirectory) -> list[pathlib.Path]:
    """The checkpoints of a run, the newest first, as TensorFlow names them: without suffix.

    The files count, not TensorFlow's list of them, which may be lost.
    """
    found = {
        int(match.group(1)): path.with_suffix("")
        for path in directory.checkpoints.glob("ckpt-*.index")
        if (match := re.fullmatch(r"ckpt-(\d+)", path.stem))
    }
    return [found[number] for number in sorted(found, reverse=True)]


def restore(directory: RunDirectory, model: keras.Model) -> tf.train.Checkpoint:
    """The training state of a run, at its newest checkpoint that can be read.

    One that cannot is named, and the one before is used.

    Args:
      directory: of the run.
      model: compiled; its weights, optimizer and moving average are set.

    Returns:
      The state; beside those it has the variables `epochs_done`, `steps_into_epoch`, of the
      epoch that is not done, and `best_ap`.

    Raises:
      RunDirectoryError: when there are checkpoints and none can be read.
    """
    with model.distribute_strategy.scope():
        model.optimizer.build(model.trainable_variables)
    paths = checkpoints(directory)
    for path in paths:
        state, steps = _state_of_epochs(model), tf.Variable(0, trainable=False)
        try:
            if tf.train.load_checkpoint(str(path)).has_tensor(_STEPS_INTO_EPOCH):
                state.steps_into_epoch = steps
            state.restore(str(path)).assert_existing_objects_matched()
        except _UNREADABLE as error:
            print(f"{path}: cannot be read ({_reason(error)}); trying the one before")
            continue
        state.steps_into_epoch = steps
        print(f"{directory.path}: resuming {_position(state)}")
        return state
    if paths:
        raise RunDirectoryError(
            f"{directory.checkpoints}: none of its checkpoints can be read; "
            "remove the folder to start the run again"
        )
    state = _state_of_epochs(model)
    state.steps_into_epoch = tf.Variable(0, trainable=False)
    return state


def _state_of_epochs(model: keras.Model) -> tf.train.Checkpoint:
    """What checkpoints of all versions have."""
    return tf.train.Checkpoint(
        model=model,
        optimizer=model.optimizer,
        moving_average=model.moving_average,
        best_ap=tf.Variable(-1.0, trainable=False),
        epochs_done=tf.Variable(0, trainable=False),
    )


def _position(state: tf.train.Checkpoint) -> str:
    steps = int(state.steps_into_epoch)
    return f"after epoch {int(state.epochs_done)}" + (f" and {steps} steps" if steps else "")


def check_space(directory: RunDirectory, state: tf.train.Checkpoint, keep: int) -> None:
    """Passes when the disk has room for all checkpoints and weights that the run will write.

    Args:
      directory: of the run; exists.
      state: of `restore`.
      keep: checkpoints that are kept.

    Raises:
      RunDirectoryError: when it has not.
    """
    weights = _bytes(state.model.variables)
    averages = _bytes(state.moving_average.averages) if state.moving_average else 0
    # A new checkpoint is written before the oldest goes.
    missing = max(0, keep + 1 - len(checkpoints(directory)))
    needed = missing * (weights + averages + _bytes(state.optimizer.variables))
    needed += _WEIGHTS_FILES * weights
    free = shutil.disk_usage(directory.path).free
    if free < needed:
        raise RunDirectoryError(
            f"{directory.path}: the disk has {_megabytes(free)} left, and the run will write "
            f"{_megabytes(needed)}; free some, use another --model_dir, or keep fewer "
            "checkpoints: --set training.keep_checkpoints=1"
        )


def _bytes(variables) -> int:
    return sum(variable.shape.num_elements() * variable.dtype.size for variable in variables)


def _megabytes(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
