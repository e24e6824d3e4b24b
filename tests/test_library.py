"""Names of `import efficientdet_tf`."""

import subprocess
import sys
from pathlib import Path

import pytest

import efficientdet_tf
from efficientdet_tf.cli import command_line, report

REPOSITORY = Path(__file__).resolve().parents[1]

HOMES = {
    "Config": "efficientdet_tf.config.Config",
    "DetectionLoss": "efficientdet_tf.losses.DetectionLoss",
    "Detector": "efficientdet_tf.detector.Detector",
    "EfficientDet": "efficientdet_tf.training.detection_model.EfficientDet",
    "load_data": "efficientdet_tf.data.load",
    "training_dataset": "efficientdet_tf.data.pipeline.training_dataset",
}


def test_each_name_is_that_of_its_module():
    assert set(efficientdet_tf.__all__) == set(HOMES) <= set(dir(efficientdet_tf))
    for name, home in HOMES.items():
        item = getattr(efficientdet_tf, name)
        assert f"{item.__module__}.{item.__qualname__}" == home


def test_the_version_is_that_of_the_package_and_of_every_command(capsys):
    command = [sys.executable, "setup.py", "--version"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == efficientdet_tf.__version__
    assert command_line.call(report.COMMAND, ["--version"]) == 0
    any_command = command_line.choose("program", {}, ["--version"])
    assert command_line.call(*any_command) == 0
    assert capsys.readouterr().out.split() == [efficientdet_tf.__version__] * 2


def test_an_unknown_name():
    with pytest.raises(AttributeError) as error:
        efficientdet_tf.Efficientdet  # noqa: B018
    assert str(error.value) == "module 'efficientdet_tf' has no attribute 'Efficientdet'"


def test_the_import_does_not_import_tensorflow():
    code = "import sys, efficientdet_tf; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
