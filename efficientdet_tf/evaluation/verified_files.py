"""Measurements of exported files: a text table, and JSON beside the files."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

# Name of the JSON file in the folder of the exports.
FILE_NAME = "verification.json"


@dataclasses.dataclass(frozen=True)
class VerifiedFile:
    """Measurements of an exported file.

    Attributes:
      format: key of `export.formats.FORMATS`.
      size: bytes.
      ap, ap50: COCO metrics, 0..1.
      ap_drop: AP of the Keras model with the same NMS, minus `ap`.
      box_difference: largest difference of a box coordinate, in pixels of the image.
      score_difference: largest difference of a score.
      lost: fraction of the Keras model's detections without one of the same class and an IoU
        of at least 0.5.
      latency_ms: {number of threads: (median, 95th percentile)} from pixels to detections of an
        image; 0 threads for a runtime that chooses by itself.
      peak_memory: bytes by which the model lets a process grow that runs it once.
      is_kept: whether it lost no more than allowed.
      float_layers: layers of an int8 file that are kept in float32, by the names of their outputs.
    """

    format: str
    size: int
    ap: float
    ap50: float
    ap_drop: float
    box_difference: float
    score_difference: float
    lost: float
    latency_ms: dict[int, tuple[float, float]]
    peak_memory: int
    is_kept: bool
    float_layers: tuple[str, ...] = ()


def to_json(files: Sequence[VerifiedFile]) -> str:
    """Serialise measurements to JSON."""
    return json.dumps([dataclasses.asdict(file) for file in files], indent=1)


def read(path: pathlib.Path) -> list[VerifiedFile]:
    """Read measurements, the result of `to_json`.

    Raises:
      ValueError: when the file has other content; without its path.
      OSError: when it cannot be read.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        for entry in entries:
            # JSON has strings as keys, and no tuples.
            latency = entry["latency_ms"]
            entry["latency_ms"] = {int(key): tuple(value) for key, value in latency.items()}
            entry["float_layers"] = tuple(entry.get("float_layers", ()))
        return [VerifiedFile(**entry) for entry in entries]
    except (TypeError, LookupError, AttributeError) as error:
        raise ValueError("not measurements of exported files") from error


def is_own(path: pathlib.Path) -> bool:
    """Whether a file was written from `to_json`."""
    try:
        read(path)
    except (OSError, ValueError):
        return False
    return True


def table(files: Sequence[VerifiedFile]) -> str:
    """Format measurements as a text table."""
    head = f"{'format':<20}{'MB':>7}{'AP':>8}{'AP50':>8}{'drop':>8}{'box':>9}{'score':>8}"
    lines = [f"{head}{'lost':>7}{'memory':>10}  median and p95 latency by threads"]
    lines += [
        f"{file.format:<20}{file.size / 1e6:>7.2f}{file.ap:>8.3f}{file.ap50:>8.3f}"
        f"{file.ap_drop:>8.3f}{file.box_difference:>6.2f} px{file.score_difference:>8.3f}"
        f"{file.lost:>7.1%}{file.peak_memory / 1e6:>7.0f} MB  {format_latency(file)}"
        f"{remarks(file)}"
        for file in files
    ]
    return "\n".join(lines)


def remarks(file: VerifiedFile) -> str:
    """Return what is unusual of a file: "; not kept", "; 4 layers in float32"."""
    parts = [] if file.is_kept else ["not kept"]
    if file.float_layers:
        parts.append(f"{len(file.float_layers)} layers in float32")
    return "".join(f"; {part}" for part in parts)


def format_latency(file: VerifiedFile) -> str:
    """Format the latency, for example "1: 15.3 / 16.0 ms, 2: 10.0 / 10.9 ms"."""
    return ", ".join(
        f"{f'{threads}: ' if threads else ''}{median:.1f} / {p95:.1f} ms"
        for threads, (median, p95) in file.latency_ms.items()
    )
