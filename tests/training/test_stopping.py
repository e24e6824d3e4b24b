"""Stop requests while training hangs."""

import signal
import subprocess
import sys
import time

import pytest

# Hangs where no Python runs, as in a step that waits for data that never come: in a mutex that
# this thread itself has locked.
HANGING = """
import ctypes, sys
from efficientdet_tf.training import stopping

stopping._STEP, stopping._EVALUATION = 0.5, 0.5
libc = ctypes.CDLL(None)
mutex = ctypes.create_string_buffer(64)

libc.pthread_mutex_lock(mutex)

def hang():
    print("hanging", flush=True)
    libc.pthread_mutex_lock(mutex)

class Hanging:
    def __del__(self):
        hang()

def train():
    reader = Hanging()
    raise stopping.Stopped(15).with_advice("saved")

try:
    with stopping.StopRequests() as requests:
        if sys.argv[1] == "step":
            requests.step_begins()
            hang()
        elif sys.argv[1] == "evaluation":
            with requests.at_once():
                hang()
        elif sys.argv[1] == "writing":
            with requests.writing():
                hang()
        else:
            try:
                train()
            except stopping.Stopped as stop:
                error = stop
            requests.end(error)
finally:
    print("left", flush=True)
"""


def hanging(where: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", HANGING, where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "hanging\n"
    # Until it is within the mutex, where handlers are not called.
    time.sleep(1)
    return process


@pytest.mark.parametrize("where", ["step", "evaluation"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_unhandled_request_ends_the_process(where, number):
    process = hanging(where)
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, out) == (128 + number, "")
    assert err.splitlines() == [
        "",
        f"train: stopped by {number.name}; a step has not ended in time, as when data cannot be "
        "read; the last checkpoint is kept; run the same command to resume",
    ]


def test_a_first_request_does_not_interrupt_writing():
    process = hanging("writing")
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 143
    assert err.splitlines()[-1].startswith("train: stopped by SIGTERM; ")


def test_a_blocked_read_does_not_delay_the_end_of_a_stopped_training():
    process = hanging("end")
    out, err = process.communicate()
    assert (process.returncode, out) == (143, "")
    assert err.splitlines() == ["", "train: stopped by SIGTERM; saved"]
