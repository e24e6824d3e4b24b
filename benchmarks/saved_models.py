"""Latency of SavedModels from JPEG bytes to boxes, taking turns: of other weights or commits.

    python -m benchmarks.saved_models --models=runs/a/export/saved_model,runs/b/export/saved_model

Prints, for each batch size, the median and the least time of a call, and both relative to the first
model. The image is a photograph of 640 x 427 pixels.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from absl import flags
from sklearn.datasets import load_sample_image

from efficientdet_tf.cli import command_line

FLAGS = flags.FlagValues()

flags.DEFINE_list("models", None, "Folders of SavedModels.", required=True, flag_values=FLAGS)
flags.DEFINE_multi_integer(
    "batch_size", [1, 8], "Images of a request; repeat for several.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "repeats",
    20,
    "Timed calls of each model and batch size, after four untimed.",
    lower_bound=1,
    flag_values=FLAGS,
)


def detection(model: Any) -> Callable[[tf.Tensor], object]:
    """Return the function of a SavedModel from encoded images to boxes, for which it waits."""
    signature = model.signatures["serving_default"]
    # Its name was another one in early versions.
    [name] = signature.structured_input_signature[1]
    return lambda images: signature(**{name: images})["boxes"].numpy()


def measure(paths: Sequence[str], batch_size: int, repeats: int) -> list[list[float]]:
    """Time requests of each model in turns, so that a slow period affects all; in seconds."""
    image = tf.io.encode_jpeg(load_sample_image("china.jpg"), quality=95)
    images = tf.fill([batch_size], image)
    # Variables live as long as their model.
    models = [tf.saved_model.load(path) for path in paths]
    functions = [detection(model) for model in models]
    seconds = [[] for _ in paths]
    for _ in range(repeats + 4):
        for detect, durations in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            detect(images)
            durations.append(time.perf_counter() - start)
    return [durations[4:] for durations in seconds]


def main() -> None:
    """Print a table for each batch size."""
    paths = FLAGS.models
    for batch_size in FLAGS.batch_size:
        print(f"batches of {batch_size}: median and least time, relative to the first")
        timed = measure(paths, batch_size, FLAGS.repeats)
        for path, seconds in zip(paths, timed, strict=True):
            figures = " ".join(
                f"{1e3 * value(seconds):8.1f} ms ({value(seconds) / value(timed[0]):.2f})"
                for value in (statistics.median, min)
            )
            print(f"  {figures}  {path}")


if __name__ == "__main__":
    command_line.run(
        command_line.Command("SavedModel benchmark", __doc__, lambda: FLAGS, lambda _: main())
    )
