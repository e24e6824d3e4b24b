"""Lock of a run directory: only one process trains in it.

It is a lock of the operating system (flock), which is released however its process ends and
which most network file systems share among hosts. The file names the holder. Where locks do not
reach other hosts, the modification time of the file does: the holder updates it every few
seconds.
"""

import contextlib
import datetime
import json
import os
import pathlib
import socket
import threading
import time
from typing import IO, Any, Self

from efficientdet_tf.errors import UserError
from efficientdet_tf.files import WriteError

try:
    import fcntl
except ImportError:
    # Windows.
    fcntl = None  # type: ignore[assignment]

FILE = "run.lock"
# Seconds between renewals, and without renewal until a holder counts as gone.
RENEWAL, GONE = 4.0, 15.0


class RunInUse(UserError):
    """A run directory in which another process trains."""


class RunLock:
    """Lock of a run directory, held while it is entered.

    Args:
      folder: the run directory; created if missing, and removed again if left empty.

    Raises, when entered:
      RunInUse: when another process holds the lock; the message names it.
      WriteError: when the folder cannot be written to.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._path = folder / FILE
        self._file: IO
        self._is_locked = False
        self._made = not folder.exists()
        self._released = threading.Event()

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = self._open()
        except OSError as error:
            raise WriteError(f"{self._folder}: cannot be written: {error.strerror}") from error
        self._take_over()
        threading.Thread(target=self._renew, daemon=True).start()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._released.set()
        # While locked: afterwards the file could be a new one of another process.
        with contextlib.suppress(OSError):
            self._path.unlink()
        self._file.close()
        if self._made:
            with contextlib.suppress(OSError):
                self._folder.rmdir()

    def _open(self) -> IO:
        """Open and, where possible, lock the file; ensure that it still has its name."""
        while True:
            file = self._path.open("a+", encoding="utf-8")
            try:
                self._is_locked = _lock(file)
            except BlockingIOError:
                holder = _holder(file)
                file.close()
                raise self._in_use(holder) from None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), self._path.stat()):
                    return file
            file.close()

    def _take_over(self) -> None:
        """Write this process into the file, once no other process renews it."""
        holder = _holder(self._file)
        if holder:
            if self._may_live(holder) and self._is_renewed():
                self._file.close()
                raise self._in_use(holder)
            print(f"{self._folder}: left by {_shown(holder)}, which is gone; resuming")
        self._file.truncate(0)
        now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
        this_process = {"host": socket.gethostname(), "process": os.getpid(), "since": now}
        self._file.write(json.dumps(this_process))
        self._file.flush()

    def _may_live(self, holder: dict) -> bool:
        """Whether a holder may still be running although its lock is not visible here."""
        if holder["host"] != socket.gethostname():
            return True
        return not self._is_locked and _is_running(holder["process"])

    def _is_renewed(self) -> bool:
        """Whether the modification time changes; clocks of hosts may differ."""
        before, end = self._path.stat().st_mtime_ns, time.monotonic() + GONE
        while time.monotonic() < end:
            time.sleep(0.5)
            # Opened, because network file systems then refresh the time.
            with contextlib.suppress(FileNotFoundError), self._path.open() as file:
                if os.fstat(file.fileno()).st_mtime_ns != before:
                    return True
        return False

    def _renew(self) -> None:
        while not self._released.wait(RENEWAL):
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def _in_use(self, holder: dict) -> RunInUse:
        return RunInUse(
            f"{self._folder}: is in use by {_shown(holder)}; "
            "wait until it ends, or use another --model_dir"
        )


def _holder(file: IO) -> dict:
    """Read the holder from the file; {} when it is empty or damaged."""
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return {name: holder[name] for name in ("host", "process", "since")}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _lock(file: IO) -> bool:
    """Lock a file, where file system and operating system support locks.

    Returns:
      Whether the file is locked.

    Raises:
      BlockingIOError: when another process holds the lock.
    """
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _is_running(process: int) -> bool:
    try:
        # On Windows this would end it.
        if os.name == "posix":
            os.kill(int(process), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _shown(holder: dict) -> str:
    if not holder:
        return "another process"
    return f"process {holder['process']} on {holder['host']} since {holder['since']}"
