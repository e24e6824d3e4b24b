"""Latency benchmark for one image: the network alone, with NMS, and exported.

    python -m benchmarks.latency --models=efficientdet-d0,efficientdet-lite0

Prints medians for one photograph of 640 x 427 pixels: of the network with constant weights, as
`Detector` has it, also with NMS, of the exported SavedModel from encoded bytes, and of the exported
TFLite file. A model given by name has untrained weights: every anchor then scores about 0.01,
above the score threshold, so that NMS is slower than after training. A run directory is timed with
its trained weights.
"""

import os
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tf_keras as keras
from absl import flags
from sklearn.datasets import load_sample_image

from efficientdet_tf import model as model_lib
from efficientdet_tf.cli import command_line
from efficientdet_tf.config import Config
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.detector import Detector
from efficientdet_tf.inference import detection_function
from efficientdet_tf.inference.frozen_network import freeze_network
from efficientdet_tf.run_directory import RunDirectory
from export import saved_model, tflite

FLAGS = flags.FlagValues()

flags.DEFINE_list(
    "models",
    ["efficientdet-d0", "efficientdet-lite0"],
    "Models by name, or run directories.",
    flag_values=FLAGS,
)
flags.DEFINE_integer(
    "repeats",
    30,
    "Timed calls of each part, after three untimed.",
    lower_bound=1,
    flag_values=FLAGS,
)


def median_seconds(parts: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Measure the median duration of a call of each part.

    Calls are interleaved, so that a slow period of the machine affects all parts.
    """
    durations = {name: [] for name in parts}
    for index in range(repeats + 3):
        for name, function in parts.items():
            start = time.perf_counter()
            function()
            if index >= 3:
                durations[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in durations.items()}


def load(model: str) -> tuple[keras.Model, Config, LabelMap]:
    """Load the model of a run directory, or build an untrained one by name."""
    if os.path.isdir(model):
        run = RunDirectory(model)
        return run.load_model(), run.config(), run.label_map()
    config = Config.for_model(model)
    keras.utils.set_random_seed(0)
    count = config.model.num_classes
    names = tuple(f"class {index}" for index in range(count))
    return model_lib.build(config), config, LabelMap(tuple(range(count)), names)


def build_parts(model: str, folder: pathlib.Path) -> dict[str, Callable[[], object]]:
    """Build the timed functions by name; exports are written to `folder`."""
    network, config, label_map = load(model)
    pixels = load_sample_image("china.jpg")
    encoded = tf.io.encode_jpeg(pixels, quality=95)
    image, scale, size = detection_function.InputResize.from_config(config)(tf.constant(pixels))
    inputs = image[None], scale[None], size[None]
    frozen = freeze_network(network, config.model.image_size)
    alone = tf.function(frozen, autograph=False)
    detect = detection_function.detection_function(frozen, config)
    served = saved_model.export(network, config, label_map, folder / "saved_model")
    serve = tf.saved_model.load(str(served)).signatures["serving_default"]
    mobile = tflite.export(network, config, label_map, folder / "model.tflite")
    detector = Detector.load(mobile)
    return {
        "network alone": lambda: alone(inputs[0])["cls_3"].numpy(),
        "network + NMS": lambda: detect(*inputs)["boxes"].numpy(),
        "SavedModel, from bytes": lambda: serve(image_bytes=encoded[None])["boxes"].numpy(),
        "TFLite, from pixels": lambda: detector.detect([np.asarray(pixels)]),
    }


def main():
    """Print a table for each model."""
    for model in FLAGS.models:
        with tempfile.TemporaryDirectory() as folder:
            seconds = median_seconds(build_parts(model, pathlib.Path(folder)), FLAGS.repeats)
        print(f"{model}, one image, {os.cpu_count()} CPU cores, float32")
        alone = seconds["network alone"]
        for part, duration in seconds.items():
            print(f"  {part:24} {1e3 * duration:7.1f} ms  {duration / alone - 1:+6.1%}")


if __name__ == "__main__":
    command_line.run(
        command_line.Command("latency benchmark", __doc__, lambda: FLAGS, lambda _: main())
    )
