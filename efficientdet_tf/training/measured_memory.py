"""Memory that real training steps take: the growth of the process, or that of the GPUs."""

import contextlib
import pathlib
import sys

import tensorflow as tf

from efficientdet_tf.training import memory

_STATUS = pathlib.Path("/proc/self/status")


class PeakMemory:
    """Peak of the memory that is taken in addition to that of now.

    Args:
      devices: distribution strategy.
    """

    def __init__(self, devices: tf.distribute.Strategy) -> None:
        self._gpus = [name for name in memory.device_names(devices) if "gpu" in name.lower()]
        self._before = 0 if self._gpus else _resident()
        self.restart()

    def restart(self) -> None:
        """Forget the peak so far."""
        for name in self._gpus:
            tf.config.experimental.reset_memory_stats(name)
        # Linux; elsewhere the peak is that since the process began.
        with contextlib.suppress(OSError):
            pathlib.Path("/proc/self/clear_refs").write_text("5")

    def bytes(self) -> int:
        """Return the peak; of the GPU that takes most."""
        if self._gpus:
            infos = [tf.config.experimental.get_memory_info(name) for name in self._gpus]
            return max(info["peak"] for info in infos)
        return max(0, _peak_resident() - self._before)


def _resident() -> int:
    """Return the resident memory of the process, its peak where it is unknown."""
    return _from_status("VmRSS") or _largest()


def _peak_resident() -> int:
    return _from_status("VmHWM") or _largest()


def _from_status(name: str) -> int:
    """Return a size in bytes that Linux tells of the process; 0 where it does not."""
    try:
        lines = _STATUS.read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
    except (OSError, ValueError, StopIteration):
        return 0


def _largest() -> int:
    # Absent on Windows.
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Bytes on macOS, else KiB.
    return peak if sys.platform == "darwin" else 1024 * peak
