"""Measuring time and memory, in a process that returns what it took."""

import concurrent.futures
import multiprocessing
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any


def in_own_process(function: Callable, *arguments: Any) -> Any:
    """Call a function in a new process, which returns its memory at the end.

    The process ends with this one, also when this one is killed.
    """
    # Spawned, since TensorFlow does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        1, mp_context=context, initializer=_end_with_parent
    ) as pool:
        return pool.submit(function, *arguments).result()


def _end_with_parent() -> None:
    def wait() -> None:
        multiprocessing.parent_process().join()
        # A run is resumed from its last checkpoint.
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def median_seconds(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Measure median wall and processor seconds of a call, after two untimed calls."""
    durations = []
    for index in range(repeats + 2):
        start, work = time.perf_counter(), time.process_time()
        function()
        if index >= 2:
            durations.append((time.perf_counter() - start, time.process_time() - work))
    wall, processor = (statistics.median(column) for column in zip(*durations))
    return wall, processor


def resident(field: str) -> int:
    """Return the current (VmRSS) or peak (VmHWM) memory of this process in bytes, on Linux."""
    with open("/proc/self/status", encoding="utf-8") as file:
        (line,) = (line for line in file if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])
