"""A request to stop, from a scheduler or a keyboard, answered where nothing is lost."""

import contextlib
import signal
import threading
from collections.abc import Iterator

from efficientdet_tf.errors import UserError

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(UserError):
    """A run that was asked to stop, and did.

    Attributes:
      exit_code: 128 + the signal's number, as shells have it.
    """

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number

    def with_advice(self, advice: str) -> "Stopped":
        """The same, saying how to go on."""
        self.args = (f"{self}; {advice}",)
        return self


class WorkerLost(UserError):
    """Another process of this training is gone.

    Attributes:
      exit_code: that of a failure which passes when tried again (sysexits.h, EX_TEMPFAIL).
    """

    exit_code = 75

    def __init__(self, error: Exception):
        reason = next((line for line in str(error).splitlines() if "/job:" in line), "")
        super().__init__(
            "another worker is gone; start all of them again to go on from the last checkpoint"
            + (f" ({reason.strip()[:200]})" if reason else "")
        )


class StopRequests:
    """Notices SIGTERM and Ctrl-C while it is entered; the second one acts as without it.

    Outside the main thread, where Python allows no handlers, it notices nothing.
    """

    def __init__(self):
        self._number = None
        self._raises = False
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._notice) for number in _SIGNALS}
        return self

    def __exit__(self, *exception):
        self._restore()

    def check(self) -> None:
        """Raises `Stopped` when a stop has been asked for."""
        if self._number is not None:
            raise Stopped(self._number)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """A context that a request leaves wherever it is, by `Stopped`."""
        self.check()
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def _notice(self, number, frame):
        self._number = number
        self._restore()
        if self._raises:
            self.check()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
