"""Processor cores, and GPU memory growth."""

import os
import subprocess
import sys

import pytest
import tensorflow as tf

from efficientdet_tf import devices

# A command that prints the variable that TensorFlow reads, and whether it was set too late.
COMMAND = """
import os, sys
from absl import flags
from efficientdet_tf.cli import command_line

def main(values):
    print(os.environ["TF_FORCE_GPU_ALLOW_GROWTH"], "tensorflow" in sys.modules)

command_line.run(command_line.Command("command", "", flags.FlagValues, main))
"""


@pytest.mark.parametrize(("before", "after"), [(None, "true"), ("false", "false")])
def test_every_command_requests_memory_growth_before_importing_tensorflow(before, after):
    environment = {**os.environ, "TF_FORCE_GPU_ALLOW_GROWTH": before or ""}
    if before is None:
        del environment["TF_FORCE_GPU_ALLOW_GROWTH"]
    done = subprocess.run(
        [sys.executable, "-c", COMMAND], env=environment, capture_output=True, text=True
    )
    assert done.stdout == f"{after} False\n", done.stderr


def test_gpus_in_use_are_not_changed():
    with tf.device("/CPU:0"):
        tf.constant(1.0) + 1.0
    gpus = tf.config.list_logical_devices("GPU")
    assert devices.let_memory_grow() <= len(gpus)
    assert tf.config.list_logical_devices("GPU") == gpus


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux restricts a process")
def test_cores_are_those_that_this_process_may_use():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert devices.num_cores() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert devices.num_cores() == len(allowed)
