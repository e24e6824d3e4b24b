"""Processor cores, and GPU memory growth."""

import math
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
    assert devices.num_cores() == math.ceil(min(len(allowed), devices.cpu_quota()))


@pytest.mark.parametrize(
    ("before", "quota", "after"),
    [(None, 2.5, "3"), (None, math.inf, None), ("8", 2.5, "8")],
)
def test_tensorflow_has_as_many_threads_as_processor_time(monkeypatch, before, quota, after):
    name = "TF_NUM_INTRAOP_THREADS"
    # Set first, so that it is as before after the test.
    monkeypatch.setenv(name, before or "")
    if before is None:
        monkeypatch.delenv(name)
    devices.limit_threads(quota)
    assert os.environ.get(name) == after


@pytest.mark.parametrize(
    ("memberships", "files", "quota"),
    [
        # A container with --cpus=2.5, which sees its own group as the outermost one.
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "150000 50000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n", "a/cpu.max": "100000 100000\n"}, 0.5),
        # Version 1, with the path of the group on the machine.
        (
            "3:memory:/docker/1f\n2:cpu,cpuacct:/docker/1f\n1:name=systemd:/docker/1f\n0::/\n",
            {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            2,
        ),
        (
            "2:cpu:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            math.inf,
        ),
        ("0::/\n", {}, math.inf),
        (None, {}, math.inf),
    ],
)
def test_a_container_may_have_a_share_of_the_processor_time(tmp_path, memberships, files, quota):
    for name, content in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    if memberships is not None:
        (tmp_path / "memberships").write_text(memberships)
    assert devices.cpu_quota(tmp_path / "memberships", tmp_path / "groups") == quota
