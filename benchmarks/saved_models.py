"""Latency of SavedModels from JPEG bytes to boxes, taking turns: of other weights or commits.

    python -m benchmarks.saved_models --models=runs/a/export/saved_model,runs/b/export/saved_model

Prints the median time of a call for each batch size, and relates it to that of the first model. The
image is a photograph of 640 x 427 pixels.
"""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from absl import flags
from sklearn.datasets import load_sample_image

from benchmarks.latency import median_seconds
from efficientdet_tf.cli import command_line

FLAGS = flags.FlagValues()

flags.DEFINE_list("models", [], "Folders of SavedModels.", flag_values=FLAGS)
flags.DEFINE_multi_integer(
    "batch_size", [1, 8], "Images of a request; repeat for several.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "repeats",
    20,
    "Timed calls of each model and batch size, after three untimed.",
    lower_bound=1,
    flag_values=FLAGS,
)


def detection(model: Any) -> Callable[[tf.Tensor], object]:
    """Return the function of a SavedModel from encoded images to boxes, for which it waits."""
    signature = model.signatures["serving_default"]
    # Its name was another one in early versions.
    [name] = signature.structured_input_signature[1]
    return lambda images: signature(**{name: images})["boxes"].numpy()


def main() -> None:
    """Print a table for each batch size."""
    command_line.require(FLAGS, "models")
    image = tf.io.encode_jpeg(load_sample_image("china.jpg"), quality=95)
    # Variables live as long as their model.
    models = {path: tf.saved_model.load(path) for path in FLAGS.models}
    for batch_size in FLAGS.batch_size:
        images = tf.fill([batch_size], image)
        parts = {
            path: functools.partial(detection(model), images) for path, model in models.items()
        }
        seconds = median_seconds(parts, FLAGS.repeats)
        print(f"batches of {batch_size}: median, relative to the first")
        for path, median in seconds.items():
            print(f"  {1e3 * median:8.1f} ms ({median / seconds[FLAGS.models[0]]:.2f})  {path}")


if __name__ == "__main__":
    command_line.run(
        command_line.Command("SavedModel benchmark", __doc__, lambda: FLAGS, lambda _: main())
    )
