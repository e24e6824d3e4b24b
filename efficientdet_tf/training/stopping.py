"""Graceful stop of training on SIGTERM or Ctrl-C, without losing steps."""

import contextlib
import gc
import math
import os
import select
import signal
import socket
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

from efficientdet_tf.errors import UserError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Seconds that a step or an evaluation may take after a request, in addition to twice the slowest
# step so far; and after a second request.
_STEP, _EVALUATION, _SECOND = 10.0, 30.0, 2.0
# Messages to the thread, besides signal numbers.
_CLOSE, _ANSWERED, _END = 253, 254, 255


class Stopped(UserError):
    """A run stopped by a signal.

    Attributes:
      exit_code: 128 + signal number, as in shells.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number

    def with_advice(self, advice: str) -> "Stopped":
        """Append how to resume to the message, and return the error itself."""
        self.args = (f"{self}; {advice}",)
        return self


class WorkerLost(UserError):
    """Another process of this training is gone.

    Attributes:
      exit_code: code of a temporary failure (sysexits.h, EX_TEMPFAIL).
    """

    exit_code = 75

    def __init__(self, error: Exception) -> None:
        reason = next((line for line in str(error).splitlines() if "/job:" in line), "")
        super().__init__(
            "another worker is gone; restart all of them to resume from the last checkpoint"
            + (f" ({reason.strip()[:200]})" if reason else "")
        )


class StopRequests:
    """Context that handles SIGTERM and Ctrl-C; a second signal has its default effect.

    Python calls a handler only between its own instructions, which a step that waits for data
    may never return to. Therefore a thread watches, too: it ends the process when a request
    is not handled in time.

    Outside the main thread, where Python allows no handlers, it has no effect.
    """

    def __init__(self) -> None:
        self._number: int | None = None
        self._raises = False
        self._is_writing = False
        self._before: dict[int, Any] = {}
        self._slowest_step = 0.0
        self._step_began: float | None = None
        self._is_first_step = True
        self._watch: _Watch | None = None

    def __enter__(self) -> "StopRequests":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._notice) for number in _SIGNALS}
            self._watch = _Watch(self._patience, lambda: self._is_writing)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._restore()
        if self._watch is not None:
            self._watch.close()

    def step_begins(self) -> None:
        """Start timing a step; `check` stops it."""
        self._step_began = time.monotonic()

    def check(self) -> None:
        """Raise `Stopped` when a stop has been requested."""
        if self._step_began is not None:
            # The first step includes compilation.
            if not self._is_first_step:
                duration = time.monotonic() - self._step_began
                self._slowest_step = max(self._slowest_step, duration)
            self._step_began, self._is_first_step = None, False
        if self._number is not None:
            if self._watch is not None:
                self._watch.answered()
            raise Stopped(self._number)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Return a context in which a request raises `Stopped` immediately."""
        self.check()
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Return a context that a first request does not interrupt, so that files are complete."""
        self._is_writing = True
        try:
            yield
        finally:
            self._is_writing = False

    def end(self, error: Exception) -> None:
        """Free the resources of a failed training, which may block on a read.

        Args:
          error: error about to be raised; its traceback is removed, as it references them.
        """
        if self._watch is not None:
            self._watch.expect_end(error)
        cause: BaseException | None = error
        while cause is not None:
            cause.__traceback__ = None
            cause = cause.__context__
        gc.collect()

    def _patience(self) -> float:
        """Return the seconds within which a request has to be handled."""
        # Ending an evaluation may lose an epoch of work.
        return (_EVALUATION if self._raises else _STEP) + 2 * self._slowest_step

    def _notice(self, number: int, frame: types.FrameType | None) -> None:
        self._number = number
        self._restore()
        if self._raises:
            self.check()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class _Watch:
    """Thread that ends the process when a signal is not handled in time.

    Python's own handler in C writes the number of each signal to a socket, whatever the main
    thread does.

    Args:
      patience: called without arguments, returns seconds.
      is_writing: called without arguments; while it is true, only a second signal counts.
    """

    def __init__(self, patience: Callable[[], float], is_writing: Callable[[], bool]) -> None:
        self._patience = patience
        self._is_writing = is_writing
        self._expected_error: Exception | None = None
        # Not a pipe: `select` does not support those on Windows.
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def answered(self) -> None:
        """Cancel the deadline of the signals so far."""
        self._writer.send(bytes([_ANSWERED]))

    def expect_end(self, error: Exception) -> None:
        """End the process with the message of an error unless closed in time."""
        self._expected_error = error
        self._writer.send(bytes([_END]))

    def close(self) -> None:
        """Stop watching."""
        signal.set_wakeup_fd(self._wakeup_before)
        self._writer.send(bytes([_CLOSE]))
        self._thread.join()
        self._reader.close()
        self._writer.close()

    def _watch(self) -> None:
        numbers: list[int] = []
        deadline: float | None = None
        while True:
            wait = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([self._reader], [], [], wait)[0]:
                if self._is_writing() and len(numbers) < 2:
                    deadline = time.monotonic() + self._patience()
                    continue
                self._end_process(numbers)
            [message] = self._reader.recv(1)
            if message == _CLOSE:
                return
            if message == _ANSWERED:
                deadline = None
            elif message == _END:
                deadline = time.monotonic() + _STEP
            elif message in _SIGNALS:
                seconds = _SECOND if numbers else self._patience()
                numbers.append(message)
                deadline = min(deadline or math.inf, time.monotonic() + seconds)

    def _end_process(self, numbers: list[int]) -> None:
        """Print the message and exit like `command_line`, without the main thread."""
        error = self._expected_error or Stopped(numbers[-1]).with_advice(
            "a step has not ended in time, as when data cannot be read; the last checkpoint is "
            "kept; run the same command to resume"
        )
        sys.stdout.flush()
        print(f"\ntrain: {error}", file=sys.stderr, flush=True)
        os._exit(getattr(error, "exit_code", 1))
