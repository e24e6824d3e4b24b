"""Training speed: the step and its parts, and what the input pipeline can deliver.

    python -m benchmarks.training --models=efficientdet-lite0,efficientdet-d0

Prints medians. The pipeline should deliver at least four times what the step
consumes, so that an accelerator four times as fast is still fed.
"""

import statistics
import time
from collections.abc import Iterator

import tensorflow as tf
from absl import flags

from efficientdet_tf import command_line
from efficientdet_tf.config import Config
from efficientdet_tf.data import digits, pipeline
from efficientdet_tf.training import run as run_lib

FLAGS = flags.FLAGS

# Enough to drain what was made in advance, and to settle the number of threads.
_UNTIMED_BATCHES = 30
_TIMED_BATCHES = 100

flags.DEFINE_list("models", ["efficientdet-lite0", "efficientdet-d0"], "Models to time.")
flags.DEFINE_integer("batch_size", 4, "Images in a step.", lower_bound=1)
flags.DEFINE_integer("repeats", 7, "Timed repetitions after two untimed ones.", lower_bound=1)


def median_seconds(function, repeats: int) -> float:
    """Median duration of a call, after two untimed calls."""
    durations = []
    for index in range(repeats + 2):
        start = time.perf_counter()
        function()
        if index >= 2:
            durations.append(time.perf_counter() - start)
    return statistics.median(durations)


def delivery_seconds(batches: Iterator) -> float:
    """Mean time that a batch takes to come, when nothing else is done.

    Not a median: of batches that were made in advance it would say too little.
    """
    for _ in range(_UNTIMED_BATCHES):
        next(batches)
    start = time.perf_counter()
    for _ in range(_TIMED_BATCHES):
        next(batches)
    return (time.perf_counter() - start) / _TIMED_BATCHES


def measure(name: str, batch_size: int, repeats: int) -> dict[str, float]:
    """Seconds a batch of each part of training `name`."""
    config = Config.for_model(name).override({"model.num_classes": 10})
    data = digits.load("train", num_images=64)
    model = run_lib.compiled_model(config, steps=100)
    batches = iter(pipeline.training_dataset(data, config, batch_size))
    batch = next(batches)
    delivery = delivery_seconds(batches)
    # Its threads would slow down what is timed next.
    del batches

    def gradients():
        with tf.GradientTape() as tape:
            losses = model.detection_loss(batch[1], model(batch[0], training=True))
            loss = losses["detection_loss"]
        return tape.gradient(loss, model.trainable_variables)

    parts = {
        "inference": tf.function(lambda: model(batch[0], training=False)),
        "forward": tf.function(lambda: model(batch[0], training=True)),
        "forward + backward": tf.function(gradients),
        "training step": tf.function(lambda: model.train_step(batch)),
    }
    seconds = {part: median_seconds(function, repeats) for part, function in parts.items()}
    return {**seconds, "input pipeline": delivery}


def main():
    """Prints a table for each model."""
    for name in FLAGS.models:
        seconds = measure(name, FLAGS.batch_size, FLAGS.repeats)
        size = Config.for_model(name).model.image_size
        print(f"{name} at {size[0]}x{size[1]}, batch {FLAGS.batch_size}, CPU, float32")
        for part, duration in seconds.items():
            rate = FLAGS.batch_size / duration
            print(f"  {part:20} {1e3 * duration:8.1f} ms/batch {rate:8.1f} images/s")
        ratio = seconds["training step"] / seconds["input pipeline"]
        print(f"  the pipeline delivers {ratio:.1f} times what the step consumes")


if __name__ == "__main__":
    command_line.run("training benchmark", main)
