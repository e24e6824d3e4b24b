"""Run directories that cannot be loaded."""

import pytest

from efficientdet_tf.config import Config
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.run_directory import RunDirectory, RunDirectoryError


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(RunDirectoryError) as error:
        RunDirectory(tmp_path).load_model()
    assert str(error.value) == f"{tmp_path}: no config.yaml; is this a run directory?"


def test_a_run_without_weights(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.create(Config(), LabelMap((1,), ("disc",)))
    with pytest.raises(RunDirectoryError) as error:
        directory.load_model()
    assert str(error.value) == (
        f"{tmp_path}/best.weights.h5: missing; has the run finished its first epoch?"
    )
    (tmp_path / "last.weights.h5").touch()
    with pytest.raises(RunDirectoryError) as error:
        directory.load_model()
    assert str(error.value) == (
        f"{tmp_path}/best.weights.h5: missing; the run has not been evaluated yet "
        "(training.eval_interval_epochs); the weights so far are in last.weights.h5"
    )
