"""Train command: errors before training."""

import pathlib
import subprocess
import sys

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
# Runs the command, and prints whether TensorFlow was imported.
RUN = """
import sys
from efficientdet_tf.cli import train
try:
    train.run()
finally:
    print("tensorflow" in sys.modules)
"""


@pytest.mark.parametrize("others", [[], ["--config=paper", "--val_data=digits"]])
def test_a_forgotten_train_data_is_named_before_tensorflow_is_imported(tmp_path, others):
    done = subprocess.run(
        [sys.executable, "-c", RUN, f"--model_dir={tmp_path / 'run'}", *others],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "False\n")
    assert done.stderr == (
        "train: --train_data is missing: a COCO .json file, a Pascal VOC folder, a YOLO "
        "data.yaml, TFRecord files, or 'digits' (built in); a --config may name it as data.train\n"
    )
    assert not (tmp_path / "run").exists()
