"""Benchmark of training: speed and memory by model, precision, XLA, micro-batches, checkpointing.

    python -m benchmarks.training --models=efficientdet-lite0,efficientdet-d0

Each variant is measured in a separate process, for its peak memory. The input
pipeline should deliver at least four times what the step consumes, to feed an
accelerator four times as fast; for its throughput with each augmentation use
`python -m benchmarks.input_pipeline --augmentations`.
"""

import time
from collections.abc import Iterator

import tensorflow as tf
from absl import flags

from benchmarks.measuring import median_seconds
from benchmarks.training_step import measure
from efficientdet_tf.cli import command_line
from efficientdet_tf.config import Config, parse_assignments
from efficientdet_tf.data import digits, pipeline
from efficientdet_tf.training import train as run_lib

FLAGS = flags.FlagValues()

# Additional settings by name.
VARIANTS = {
    "float32": {},
    "bfloat16": {"training.precision": "mixed_bfloat16"},
    "float16": {"training.precision": "mixed_float16"},
    "xla": {"training.xla": True},
    "accumulation": {"training.gradient_accumulation_steps": 2},
    "checkpointing": {"training.gradient_checkpointing": True},
}

# Enough to drain prefetched batches, and for the number of threads to settle.
_UNTIMED_BATCHES = 30
_TIMED_BATCHES = 100

flags.DEFINE_list(
    "models", ["efficientdet-lite0", "efficientdet-d0"], "Models to time.", flag_values=FLAGS
)
flags.DEFINE_integer("batch_size", 4, "Images in a step.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_integer(
    "repeats", 7, "Timed repetitions after two untimed ones.", lower_bound=1, flag_values=FLAGS
)
flags.DEFINE_multi_enum(
    "variant",
    list(VARIANTS),
    list(VARIANTS),
    "Variants to measure; all by default.",
    flag_values=FLAGS,
)
flags.DEFINE_bool(
    "parts", True, "Time the parts of the step, and the input pipeline, too.", flag_values=FLAGS
)
flags.DEFINE_multi_string(
    "set", [], "Settings as key=value, as train.py takes them.", flag_values=FLAGS
)


def delivery_seconds(batches: Iterator) -> float:
    """Measure the mean time per batch without a consumer.

    Not a median, which prefetched batches would distort.
    """
    for _ in range(_UNTIMED_BATCHES):
        next(batches)
    start = time.perf_counter()
    for _ in range(_TIMED_BATCHES):
        next(batches)
    return (time.perf_counter() - start) / _TIMED_BATCHES


def measure_parts_of_step(config: Config, repeats: int) -> dict[str, float]:
    """Measure seconds per batch of each part of a training step, and of the input pipeline."""
    data = digits.load("train", num_images=64)
    model = run_lib.compiled_model(config, steps=100)
    batches = iter(pipeline.training_dataset(data, config, config.training.batch_size))
    batch = next(batches)
    delivery = delivery_seconds(batches)
    # Its threads would slow down the next measurements.
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
    seconds = {part: median_seconds(function, repeats)[0] for part, function in parts.items()}
    return {**seconds, "input pipeline": delivery}


def print_variants(name: str, settings: dict) -> None:
    """Print a line for each variant of training the model `name`."""
    batch_size = FLAGS.batch_size
    print(f"  {'':14} images/s  core seconds/image  first step  memory  as estimated")
    for variant in FLAGS.variant:
        step = measure(name, {**settings, **VARIANTS[variant]}, FLAGS.repeats)
        speed = f"{batch_size / step.step:8.2f}  {step.processor / batch_size:18.2f}"
        memory = f"{step.memory / 1e9:3.1f} GB  {step.estimated / 1e9:9.1f} GB"
        print(f"  {variant:14} {speed}  {step.first_step:8.0f} s  {memory}", flush=True)


def print_parts(config: Config) -> None:
    """Print a line for each part of the step, in float32, and for the input pipeline."""
    seconds = measure_parts_of_step(config, FLAGS.repeats)
    for part, duration in seconds.items():
        rate = FLAGS.batch_size / duration
        print(f"  {part:20} {1e3 * duration:8.1f} ms/batch {rate:8.1f} images/s")
    ratio = seconds["training step"] / seconds["input pipeline"]
    print(f"  the pipeline delivers {ratio:.1f} times what the step consumes")


def main():
    """Print two tables for each model."""
    common = {"model.num_classes": 10, "training.batch_size": FLAGS.batch_size}
    settings = {**common, **parse_assignments(FLAGS.set)}
    for name in FLAGS.models:
        config = Config.for_model(name).override(settings)
        height, width = config.model.image_size
        devices = ", ".join(d.device_type for d in tf.config.list_logical_devices())
        print(f"{name} at {width} x {height}, batches of {FLAGS.batch_size}, {devices}")
        print_variants(name, settings)
        if FLAGS.parts:
            print_parts(config)


if __name__ == "__main__":
    command_line.run(
        command_line.Command("training benchmark", __doc__, lambda: FLAGS, lambda _: main())
    )
