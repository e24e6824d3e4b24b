"""Comparison of runtimes on one machine: a table, JSON beside the files, and which to use."""

import dataclasses
import json
import pathlib

# Name of the JSON file in the folder of the exports.
FILE_NAME = "runtimes.json"
# `format` of the run itself.
RUN = "run"


@dataclasses.dataclass(frozen=True)
class ComparedRuntime:
    """Measurements of a file in a runtime.

    Attributes:
      format: key of `export.formats.FORMATS`, or `RUN`.
      runtime: "keras", "tensorflow", "litert", or one of
        `efficientdet_tf.inference.onnx_runtimes.RUNTIMES`.
      size: bytes of the file; of the weights for the run.
      ap: COCO metric, 0..1.
      is_exact: whether the detections are those of the run, whose NMS may be soft.
      peak_memory: bytes by which the model lets a process grow that runs it once.
      file: name of the file in the folder of the exports; "" for the run.
      file_digest: SHA-256 of the file; "" for a folder and the run.
      latency_ms: {number of threads: (median, 95th percentile)} from pixels to detections of an
        image.
      throughput: {number of threads: {batch size: images per second}}.
    """

    format: str
    runtime: str
    size: int
    ap: float
    is_exact: bool
    peak_memory: int
    file: str
    file_digest: str
    latency_ms: dict[int, tuple[float, float]]
    throughput: dict[int, dict[int, float]]

    @property
    def name(self) -> str:
        """Format and runtime in words."""
        return f"{self.format} in {self.runtime}"

    @property
    def best_latency_ms(self) -> float:
        """Median latency with the number of threads that is best for it."""
        return min(median for median, _ in self.latency_ms.values())

    @property
    def latency_with_most_threads(self) -> float:
        """Median latency in milliseconds with as many threads as there are cores."""
        return self.latency_ms[max(self.latency_ms)][0]

    @property
    def best_throughput(self) -> float:
        """Images per second with the number of threads and the batch that are best for it."""
        return max(max(batches.values()) for batches in self.throughput.values())


@dataclasses.dataclass(frozen=True)
class RuntimeComparison:
    """Runtimes of one model on one machine.

    Attributes:
      machine: `efficientdet_tf.inference.runtime_choice.describe_machine` of it.
      run_digest: `efficientdet_tf.inference.runtime_choice.run_digest` of the run.
      source: data set of AP.
      max_ap_drop: largest loss of AP, 0..1, of what may be advised.
      runtimes: the run first.
    """

    machine: str
    run_digest: str
    source: str
    max_ap_drop: float
    runtimes: tuple[ComparedRuntime, ...]

    def advice(self) -> list[str]:
        """Say which runtime to use, a sentence for each purpose."""
        run, *_ = self.runtimes
        accepted = [x for x in self.runtimes if x.ap >= run.ap - self.max_ap_drop]
        fastest = min(accepted, key=lambda x: x.best_latency_ms)
        exact = min((x for x in accepted if x.is_exact), key=lambda x: x.best_latency_ms)
        busiest = max(accepted, key=lambda x: x.best_throughput)
        smallest = min((x for x in accepted if x.format != RUN), key=lambda x: x.size, default=run)
        lines = [f"Fastest for one image: {fastest.name}, {self._speed(fastest)}."]
        if exact is not fastest:
            lines.append(
                f"Fastest with the detections of the run: {exact.name}, {self._speed(exact)}."
            )
        return [
            *lines,
            f"Most images a second: {busiest.name}, {busiest.best_throughput:.1f}.",
            f"Smallest: {smallest.format}, {smallest.size / 1e6:.2f} MB, AP {smallest.ap:.3f}.",
        ]

    def _speed(self, chosen: ComparedRuntime) -> str:
        run, *_ = self.runtimes
        ratio = run.best_latency_ms / chosen.best_latency_ms
        return (
            f"{chosen.best_latency_ms:.1f} ms, {ratio:.1f} times as fast as Keras, AP "
            f"{chosen.ap:.3f} against {run.ap:.3f}"
        )

    def table(self) -> str:
        """Format the measurements as a text table."""
        head = f"{'format':<20}{'runtime':<15}{'MB':>7}{'AP':>8}{'exact':>7}{'memory':>10}"
        lines = [f"{head}  median / p95 ms of an image, images/s by threads and batch"]
        lines += [
            f"{x.format:<20}{x.runtime:<15}{x.size / 1e6:>7.2f}{x.ap:>8.3f}"
            f"{'yes' if x.is_exact else 'no':>7}{x.peak_memory / 1e6:>7.0f} MB  {format_speed(x)}"
            for x in self.runtimes
        ]
        return "\n".join(lines)

    def to_json(self) -> str:
        """Serialise to JSON."""
        return json.dumps(dataclasses.asdict(self) | {"advice": self.advice()}, indent=1)


def format_speed(runtime: ComparedRuntime) -> str:
    """Format by threads, for example "1: 8.1 / 9.0 ms, 123 /s, 4: 160 /s; 2: ..."."""
    return "; ".join(
        f"{threads}: {median:.1f} / {p95:.1f} ms, {_rates(runtime.throughput[threads])}"
        for threads, (median, p95) in runtime.latency_ms.items()
    )


def _rates(throughput: dict[int, float]) -> str:
    return ", ".join(f"x{batch} {rate:.1f}/s" for batch, rate in throughput.items())


def read(path: pathlib.Path) -> RuntimeComparison:
    """Read a comparison, the result of `to_json`.

    Raises:
      ValueError: when the file has other content; without its path.
      OSError: when it cannot be read.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        # Derived from the others.
        del values["advice"]
        values["runtimes"] = tuple(_runtime(entry) for entry in values["runtimes"])
        if not values["runtimes"]:
            raise ValueError("no runtime")
        return RuntimeComparison(**values)
    except (TypeError, LookupError, AttributeError) as error:
        raise ValueError("not a comparison of runtimes") from error


def _runtime(entry: dict) -> ComparedRuntime:
    """Parse an entry; JSON has strings as keys, and no tuples."""
    latency = {int(key): tuple(value) for key, value in entry.pop("latency_ms").items()}
    throughput = {
        int(threads): {int(batch): rate for batch, rate in rates.items()}
        for threads, rates in entry.pop("throughput").items()
    }
    return ComparedRuntime(**entry, latency_ms=latency, throughput=throughput)


def is_own(path: pathlib.Path) -> bool:
    """Whether a file was written from `RuntimeComparison.to_json`."""
    try:
        read(path)
    except (OSError, ValueError):
        return False
    return True
