"""The whole state of a training: written after every epoch, found again after a stop."""

import pathlib
import re

import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.training.run_directory import RunDirectory, RunDirectoryError

# What TensorFlow raises for a file that is missing, cut off, damaged, or of
# other variables.
_UNREADABLE = (tf.errors.OpError, ValueError, IndexError, AssertionError)


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


def restore(directory: RunDirectory, model: keras.Model, keep: int) -> tf.train.CheckpointManager:
    """The training state of a run, at its newest checkpoint that can be read.

    One that cannot is named, and the one before is used.

    Args:
      directory: of the run.
      model: compiled; its weights, optimizer and moving average are set.
      keep: so many checkpoints are kept from now on.

    Returns:
      The manager; `manager.checkpoint` has the variables `epochs_done` and
      `best_ap`.

    Raises:
      RunDirectoryError: when there are checkpoints and none can be read.
    """
    state = tf.train.Checkpoint(
        model=model,
        optimizer=model.optimizer,
        moving_average=model.moving_average,
        best_ap=tf.Variable(-1.0, trainable=False),
        epochs_done=tf.Variable(0, trainable=False),
    )
    paths = checkpoints(directory)
    for path in paths:
        model.optimizer.build(model.trainable_variables)
        try:
            state.restore(str(path)).assert_existing_objects_matched()
        except _UNREADABLE as error:
            print(f"{path}: cannot be read ({_reason(error)}); trying the one before")
        else:
            print(f"{directory.path}: resuming after epoch {int(state.epochs_done)}")
            break
    else:
        if paths:
            raise RunDirectoryError(
                f"{directory.checkpoints}: none of its checkpoints can be read; "
                "remove the folder to start the run again"
            )
    return tf.train.CheckpointManager(state, str(directory.checkpoints), max_to_keep=keep)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
