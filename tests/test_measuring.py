"""Processes of `benchmarks.measuring`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

# Imported by the new process, which must not run it again.
PROGRAM = """
import os, pathlib, sys, time
from benchmarks.measuring import in_own_process

def work(folder):
    pathlib.Path(folder, "started").write_text(str(os.getpid()))
    time.sleep(10)
    pathlib.Path(folder, "finished").touch()

if __name__ == "__main__":
    in_own_process(work, sys.argv[1])
"""


def is_running(process: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def test_a_process_ends_with_the_one_that_started_it(tmp_path):
    script, started = tmp_path / "program.py", tmp_path / "started"
    script.write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], env=environment)
    while not (started.exists() and started.read_text()):
        assert parent.poll() is None
        time.sleep(0.01)
    process = int(started.read_text())
    assert is_running(process)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    try:
        while is_running(process):
            assert not (tmp_path / "finished").exists(), "it went on with its work"
            time.sleep(0.01)
    finally:
        if is_running(process):
            os.kill(process, signal.SIGKILL)
