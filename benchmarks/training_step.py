"""What one training step takes, measured in a process of its own."""

import concurrent.futures
import dataclasses
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping


@dataclasses.dataclass(frozen=True)
class Measured:
    """Of one configuration of training.

    Attributes:
      first_step: seconds of the first step, with tracing and compiling.
      step: median seconds of a step.
      processor: median seconds of all processor cores for a step.
      memory: bytes that the process grew by from before the network to the peak.
      estimated: bytes that `efficientdet_tf.training.memory` foretells of that.
    """

    first_step: float
    step: float
    processor: float
    memory: int
    estimated: int


def measure(model: str, settings: Mapping[str, object], repeats: int) -> Measured:
    """Takes training steps on built-in data, in a new process.

    Args:
      model: by name.
      settings: as of `Config.override`.
      repeats: timed steps, after two untimed ones.
    """
    # Spawned, since TensorFlow does not survive a fork; one for each measurement, since
    # what a process has held it does not give back.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_measure, model, dict(settings), repeats).result()


def _measure(name: str, settings: dict, repeats: int) -> Measured:
    import tensorflow as tf

    from efficientdet_tf.config import Config
    from efficientdet_tf.data import digits, pipeline
    from efficientdet_tf.training import memory
    from efficientdet_tf.training import train as run_lib

    config = Config.for_model(name).override({"model.num_classes": 10, **settings})
    data = digits.load("train", num_images=16)
    batch = next(iter(pipeline.training_dataset(data, config, config.training.batch_size)))
    before = _resident("VmRSS")
    model = run_lib.compiled_model(config, steps=100)
    estimated = memory.estimate(model, config).total
    # As Keras' `fit` does.
    compiled = config.training.xla or None
    step = tf.function(lambda: model.train_step(batch), jit_compile=compiled)
    start = time.perf_counter()
    step()["loss"].numpy()
    first_step = time.perf_counter() - start
    seconds, processor = median_seconds(lambda: step()["loss"].numpy(), repeats)
    return Measured(first_step, seconds, processor, _resident("VmHWM") - before, estimated)


def median_seconds(function: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median duration of a call and of its work on all cores, after two untimed calls."""
    durations = []
    for index in range(repeats + 2):
        start, work = time.perf_counter(), time.process_time()
        function()
        if index >= 2:
            durations.append((time.perf_counter() - start, time.process_time() - work))
    return tuple(statistics.median(column) for column in zip(*durations))


def _resident(field: str) -> int:
    """Memory of this process now (VmRSS) or at its peak (VmHWM); Linux tells it."""
    with open("/proc/self/status", encoding="utf-8") as file:
        (line,) = (line for line in file if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])
