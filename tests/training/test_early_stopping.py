"""Early stopping, within a process and across processes."""

import pytest
import tensorflow as tf
import tf_keras as keras

import tiny
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.run_directory import RunDirectory
from efficientdet_tf.training import train
from efficientdet_tf.training.early_stopping import EarlyStopping


def stopped_after(stopper, column, first_epoch=0):
    """Return the epochs after which training should end."""
    stopper.set_model(keras.Sequential())
    epochs = []
    for epoch, ap in enumerate(column, start=first_epoch):
        stopper.model.stop_training = False
        stopper.on_epoch_end(epoch, {"loss": 1.0} | ({} if ap is None else {"AP": ap}))
        epochs += [epoch + 1] * stopper.model.stop_training
    return epochs


@pytest.mark.parametrize(
    ("patience", "column", "expected"),
    [
        (2, [0.1, 0.2, 0.2, 0.1], [4]),
        (2, [0.1, 0.2, 0.2, 0.3, 0.2], []),
        # Epochs without an evaluation do not count.
        (2, [0.2, None, 0.1, None, None, 0.1, None], [6]),
        (1, [0.2, 0.2], [2]),
        (3, [float("nan")] * 3, [3]),
        (0, [0.3, 0.2, 0.1, 0.1, 0.1], []),
    ],
)
def test_patience_is_counted_in_evaluations(tmp_path, patience, column, expected):
    stopper = EarlyStopping(patience, tmp_path / "metrics.csv", 0)
    assert not stopper.is_over
    assert stopped_after(stopper, column) == expected
    assert stopper.is_over == bool(expected)


@pytest.fixture
def metrics(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,loss,AP\n1,3,0.1\n2,2,0.3\n3,2,\n4,2,0.2\n5,2,0.9\n")
    return path


def test_a_resumed_run_continues_the_count(metrics):
    # Epoch 5 was lost; 4 was the first evaluation without a better AP.
    stopper = EarlyStopping(3, metrics, 4)
    assert not stopper.is_over
    assert stopped_after(stopper, [0.3, 0.25], first_epoch=4) == [6]
    stopper = EarlyStopping(3, metrics, 4)
    assert stopped_after(stopper, [0.2, 0.4, 0.2], first_epoch=4) == []


def test_a_stopped_run_stays_stopped_until_patience_is_raised(metrics):
    assert EarlyStopping(1, metrics, 4).is_over
    assert not EarlyStopping(2, metrics, 4).is_over
    assert not EarlyStopping(0, metrics, 4).is_over


def test_that_nothing_is_left_to_train_is_told_before_a_network_is_built(metrics, capsys):
    folder, device = metrics.parent, tf.distribute.OneDeviceStrategy("/cpu:0")
    directory = RunDirectory(folder)
    stopped = tiny.config(**{"training.patience": 1})
    directory.create(stopped, LabelMap((1,), ("cat",)))
    assert not train._has_ended(stopped, directory, device)
    checkpoint = tf.train.Checkpoint(epochs_done=tf.Variable(4))
    directory.checkpoints.mkdir()
    checkpoint.write(str(directory.checkpoints / "ckpt-8"))
    # Other settings are stored first.
    longer = stopped.override({"training.patience": 2})
    assert not train._has_ended(longer, directory, device)
    assert capsys.readouterr().out == ""
    assert train._has_ended(stopped, directory, device)
    assert capsys.readouterr().out == (
        f"{folder}: early stopping: no AP improvement; set a larger training.patience to resume\n"
    )
    (directory.checkpoints / "ckpt-8.index").write_bytes(b"no checkpoint")
    assert not train._has_ended(stopped, directory, device)


def test_the_message_gives_the_reason(tmp_path, capsys):
    stopped_after(EarlyStopping(1, tmp_path / "metrics.csv", 0), [0.2, 0.2])
    assert capsys.readouterr().err == "epoch 2: early stopping: no AP improvement in 1 evaluation\n"
