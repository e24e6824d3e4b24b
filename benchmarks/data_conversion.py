"""Benchmark of converting a large data set: seconds and memory for each format.

    python -m benchmarks.data_conversion --images=20000 --boxes=140000

generates a COCO file as `benchmarks.data_loading` does, and prints for each format the wall
seconds, the processor seconds, and the process's peak memory beyond that of importing
TensorFlow. Images are hard links but in TFRecord files. "again" repeats the conversion before
it, where all images and shards are there; "split" divides the set, with a fingerprint of every
image. Each row is a process of its own.
"""

import os
import pathlib
import shutil

from absl import flags

from benchmarks.data_loading import measured, write_coco_set
from benchmarks.measuring import in_own_process
from efficientdet_tf.cli import command_line

FLAGS = flags.FlagValues()
_FOLDER = flags.DEFINE_string(
    "folder", "/tmp/data_conversion", "Where the sets are written.", flag_values=FLAGS
)
_IMAGES = flags.DEFINE_integer(
    "images", 20_000, "Images of the set.", lower_bound=100, flag_values=FLAGS
)
_BOXES = flags.DEFINE_integer(
    "boxes", 140_000, "Boxes of the set.", lower_bound=1, flag_values=FLAGS
)


def measure_conversion(path: str, format: str, output: str) -> tuple[float, float, float]:
    """Measure converting a set, with the headers of its images."""
    from efficientdet_tf.data import conversion

    folder = pathlib.Path(output)
    return measured(lambda: conversion.convert(path, format, folder, ["train"], num_shards=4))


def measure_split(path: str, output: str) -> tuple[float, float, float]:
    """Measure dividing a set."""
    from efficientdet_tf.data import splitting

    return measured(lambda: splitting.split(path, pathlib.Path(output), val_fraction=0.2))


def main() -> None:
    """Generate the set, and print a row for each format."""
    folder = pathlib.Path(_FOLDER.value)
    os.environ["EFFICIENTDET_CACHE"] = str(folder / "cache")
    path = str(write_coco_set(folder, _IMAGES.value, _BOXES.value, polygon=0))
    print(f"{path}: {_IMAGES.value} images, {_BOXES.value} boxes")
    print(f"{'':<12} {'seconds':>8} {'processor':>9} {'peak memory':>12}")
    for name in ("coco", "voc", "yolo", "csv", "tfrecord", "again", "split"):
        output = str(folder / ("tfrecord" if name == "again" else name))
        if name != "again":
            shutil.rmtree(output, ignore_errors=True)
        if name == "split":
            stage: tuple = (measure_split, path, output)
        else:
            format = "tfrecord" if name == "again" else name
            stage = (measure_conversion, path, format, output)
        wall, processor, peak = in_own_process(*stage)
        print(f"{name:<12} {wall:8.1f} {processor:9.1f} {peak / 2**20:9.0f} MB", flush=True)


if __name__ == "__main__":
    command_line.run(
        command_line.Command("data conversion benchmark", __doc__, lambda: FLAGS, lambda _: main())
    )
