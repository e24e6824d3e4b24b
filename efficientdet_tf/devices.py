"""Processor cores and GPU memory of this process."""

import math
import os
import pathlib

# Control groups of this process, and where they are mounted.
_MEMBERSHIPS, _GROUPS = pathlib.Path("/proc/self/cgroup"), pathlib.Path("/sys/fs/cgroup")


def num_cores() -> int:
    """Return the number of processor cores that this process may use.

    On a shared machine, batch systems and containers give it some of them, or a share of their
    time (`docker run --cpus=2`); with a thread for each core of the machine, ONNX Runtime took six
    times as long.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return math.ceil(min(count, cpu_quota()))


def cpu_quota(memberships: pathlib.Path = _MEMBERSHIPS, groups: pathlib.Path = _GROUPS) -> float:
    """Return the processor time that Linux's control groups give this process.

    Args:
      memberships: file with a line "number:controllers:path" for each group of the process.
      groups: folder of all groups, of version 1 or 2.

    Returns:
      Number of cores that may be busy all the time, above 0; infinity for no limit.
    """
    try:
        lines = memberships.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        # Not Linux.
        return math.inf
    quotas = [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        is_second_version = not controllers
        if not (is_second_version or "cpu" in controllers.split(",")):
            continue
        # Limits of outer groups hold, too. In a container the path may be that on the machine, and
        # the container's own group is the outermost one.
        inner = pathlib.PurePosixPath(path.lstrip("/"))
        for group in (inner, *inner.parents):
            if is_second_version:
                quotas.append(_quota(groups / group, "cpu.max"))
            else:
                names = "cpu.cfs_quota_us", "cpu.cfs_period_us"
                quotas.append(_quota(groups / "cpu" / group, *names))
    return min(quotas)


def _quota(folder: pathlib.Path, *names: str) -> float:
    """Return the quota in a group's files, which hold a time and its period in microseconds."""
    try:
        words = " ".join((folder / name).read_text() for name in names).split()
        time, period = map(int, words)
    # No such file, or "max" for no limit.
    except (OSError, ValueError):
        return math.inf
    return time / period if time > 0 and period > 0 else math.inf


def limit_threads(quota: float) -> None:
    """Limit TensorFlow's threads to the processor time of this process, before it is imported.

    By default it computes with a thread for each core of the machine, and a container that exceeds
    its time stands still for the rest of each period. An existing environment variable
    TF_NUM_INTRAOP_THREADS is respected.

    Args:
      quota: number of cores that may be busy all the time, as of `cpu_quota`.
    """
    if math.isfinite(quota):
        os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(math.ceil(quota)))


def request_memory_growth() -> None:
    """Request GPU memory growth before TensorFlow is imported.

    By default TensorFlow allocates all GPU memory, and an evaluation beside a training on the
    same GPU fails. An existing environment variable TF_FORCE_GPU_ALLOW_GROWTH is respected.
    """
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


def let_memory_grow() -> int:
    """Enable memory growth on every GPU that TensorFlow does not use yet.

    Call it before any other use of TensorFlow.

    Returns:
      Number of GPUs changed. GPUs in use or divided into logical devices are unchanged.
    """
    import tensorflow as tf

    count = 0
    for gpu in tf.config.list_physical_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except (RuntimeError, ValueError):
            continue
        count += 1
    return count
