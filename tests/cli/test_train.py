"""Train command: errors before training."""

import pathlib
import subprocess
import sys

import pytest

from efficientdet_tf.cli import command_line
from efficientdet_tf.cli import train as train_command

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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "train: --model_dir is missing: Run directory to write; the same command resumes it."),
        (
            ["--model_dir=x", "--model=efficientdet-d9"],
            "train: unknown model 'efficientdet-d9'; did you mean 'efficientdet-d7'?",
        ),
        (
            ["--model_dir=x", "--set=optimizer.learning_rat=1"],
            "train: unknown key 'optimizer.learning_rat'; did you mean 'optimizer.learning_rate'?",
        ),
        (
            ["--model_dir=x", "--strategy=gpus"],
            "train: training.strategy: 'gpus' is not one of auto, cpu, gpu, mirrored, "
            "multi_worker, tpu",
        ),
        (
            ["--model_dir=x", "--phi=8", "--config=finetune"],
            "train: phi: 8 is not a number from -2.5 to 7",
        ),
        (
            ["--model_dir=x", "--phi=small"],
            "train: flag --phi=small: could not convert string to float: 'small'; see --help",
        ),
        (
            ["--model_dir=x", "--phi=1", "--model=efficientdet-d1"],
            "train: --phi and --model: both choose the network; leave out one of them",
        ),
        (
            ["--model_dir=x", "--config=nowhere.yaml"],
            "train: config nowhere.yaml: No such file or directory; "
            "built in: ablation-b3-bifpn, ablation-b3-fpn, ablation-r50-fpn, digits, finetune, "
            "paper, retinanet",
        ),
    ],
)
def test_wrong_settings_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command_line.call(train_command.COMMAND, arguments) == 1
    assert capsys.readouterr() == ("", f"{message}\n")
    assert not list(tmp_path.iterdir())
