"""Time and memory of a training step, measured in a separate process."""

import dataclasses
import time
from collections.abc import Mapping

from benchmarks.measuring import in_own_process, median_seconds, resident


@dataclasses.dataclass(frozen=True)
class Measured:
    """Measurements of one training configuration.

    Attributes:
      first_step: seconds of the first step, with tracing and compiling.
      step: median seconds of a step.
      processor: median seconds of all processor cores for a step.
      memory: growth of the process in bytes, from before building the network to the peak.
      estimated: the same as estimated by `efficientdet_tf.training.memory`.
    """

    first_step: float
    step: float
    processor: float
    memory: int
    estimated: int


def measure(model: str, settings: Mapping[str, object], repeats: int) -> Measured:
    """Run training steps on built-in data in a new process.

    Args:
      model: model name.
      settings: settings for `Config.override`.
      repeats: number of timed steps, after two untimed ones.
    """
    return in_own_process(_measure, model, dict(settings), repeats)


def _measure(name: str, settings: dict, repeats: int) -> Measured:
    import tensorflow as tf

    from efficientdet_tf.config import Config
    from efficientdet_tf.data import digits, pipeline
    from efficientdet_tf.training import memory
    from efficientdet_tf.training import train as run_lib

    config = Config.for_model(name).override({"model.num_classes": 10, **settings})
    data = digits.load("train", num_images=16)
    batch = next(iter(pipeline.training_dataset(data, config, config.training.batch_size)))
    before = resident("VmRSS")
    model = run_lib.compiled_model(config, steps=100)
    estimated = memory.estimate(model, config).total
    # As in Keras' `fit`.
    compiled = config.training.xla or None
    step = tf.function(lambda: model.train_step(batch), jit_compile=compiled)
    start = time.perf_counter()
    step()["loss"].numpy()
    first_step = time.perf_counter() - start
    seconds, processor = median_seconds(lambda: step()["loss"].numpy(), repeats)
    return Measured(first_step, seconds, processor, resident("VmHWM") - before, estimated)
