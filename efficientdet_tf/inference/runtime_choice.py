"""Choice of the runtime of a run: the fastest exact one that was measured on this machine."""

import hashlib
import importlib.metadata
import pathlib
import platform
from typing import NamedTuple

from efficientdet_tf.devices import num_cores
from efficientdet_tf.inference import compared_runtimes
from efficientdet_tf.run_directory import RunDirectory

# What decides about the speed of a runtime.
_PACKAGES = ("tensorflow", "ai-edge-litert", "onnxruntime", "openvino")
# What a run's detections depend on.
_FILES = ("config.yaml", "label_map.json", "best.weights.h5")


class Choice(NamedTuple):
    """Exported file of a run and its runtime.

    Attributes:
      path: path of the file.
      runtime: "litert", or a key of `efficientdet_tf.inference.onnx_runtimes.RUNTIMES`.
    """

    path: pathlib.Path
    runtime: str


def fastest_exact(run: RunDirectory) -> Choice | None:
    """Return the fastest file of a run whose detections are those of the run.

    It is read from what `python -m export --compare` has measured on this machine, in the folder
    `export` of the run.

    Returns:
      The file and its runtime; None if nothing was measured, if anything has changed since (the
      weights, the settings, the file, the processor, a package), or if nothing is faster.
    """
    folder = run.path / "export"
    try:
        comparison = compared_runtimes.read(folder / compared_runtimes.FILE_NAME)
        if (comparison.machine, comparison.run_digest) != (describe_machine(), run_digest(run)):
            return None
        exact = [
            runtime
            for runtime in comparison.runtimes
            # Folders are not chosen: whether they have changed is not known.
            if runtime.is_exact and (runtime.file_digest or runtime.format == compared_runtimes.RUN)
        ]
        fastest = min(exact, key=lambda runtime: runtime.latency_with_most_threads)
        path = folder / fastest.file
        if not fastest.file_digest or file_digest(path) != fastest.file_digest:
            return None
    except (OSError, ValueError):
        return None
    return Choice(path, fastest.runtime)


def run_digest(run: RunDirectory, settings: dict[str, str] | None = None) -> str:
    """Return the SHA-256 of all that the detections of a run's best weights depend on.

    Args:
      run: the run.
      settings: settings that its own are overridden by. Default none.

    Raises:
      OSError: when a file cannot be read.
    """
    parts = [file_digest(run.path / name) for name in _FILES]
    parts += [f"{key}={value}" for key, value in sorted((settings or {}).items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def file_digest(path: pathlib.Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
      OSError: when it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_machine() -> str:
    """Describe processor, GPUs and the versions of the runtimes."""
    versions = []
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    devices = f"{num_cores()} cores, {_num_gpus()} GPUs"
    return f"{_processor()}, {devices}; {', '.join(versions)}"


def _num_gpus() -> int:
    """Count the NVIDIA GPUs; TensorFlow, which knows them as well, takes seconds to import."""
    return len([path for path in pathlib.Path("/dev").glob("nvidia*") if path.name[6:].isdecimal()])


def _processor() -> str:
    """Return the name of the processor; Linux tells it in a file only."""
    path = pathlib.Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
