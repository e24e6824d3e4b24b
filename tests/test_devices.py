"""GPU memory is taken as it is needed."""

import os
import subprocess
import sys

import pytest
import tensorflow as tf

from efficientdet_tf import devices

# A command that says what TensorFlow would read at its import, and whether it came too late.
COMMAND = """
import os, sys
from absl import flags
from efficientdet_tf.cli import command_line

def main(values):
    print(os.environ["TF_FORCE_GPU_ALLOW_GROWTH"], "tensorflow" in sys.modules)

command_line.run(command_line.Command("command", "", flags.FlagValues, main))
"""


@pytest.mark.parametrize(("before", "after"), [(None, "true"), ("false", "false")])
def test_every_command_asks_for_memory_growth_before_tensorflow_is_imported(before, after):
    environment = {**os.environ, "TF_FORCE_GPU_ALLOW_GROWTH": before or ""}
    if before is None:
        del environment["TF_FORCE_GPU_ALLOW_GROWTH"]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND], env=environment, capture_output=True, text=True
    )
    assert done.stdout == f"{after} False\n", done.stderr


def test_gpus_that_are_in_use_stay_as_they_are():
    with tf.device("/CPU:0"):
        tf.constant(1.0) + 1.0
    gpus = tf.config.list_logical_devices("GPU")
    assert devices.let_memory_grow() <= len(gpus)
    assert tf.config.list_logical_devices("GPU") == gpus
