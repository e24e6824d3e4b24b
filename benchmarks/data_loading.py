"""Benchmark of loading a large data set: seconds and memory until the first batch.

    python -m benchmarks.data_loading --images=118000 --boxes=850000

writes a COCO file of the size of COCO's train2017, with links to a few JPEG files, and
prints for each stage the wall seconds, the processor seconds, the process's peak memory so far
beyond that of importing TensorFlow, and the system's read calls. Each row is a process of its own:

* read: the file is parsed and grouped by image;
* first load: with the header of every image, the cache of verified images empty;
* later load: with that cache;
* first batch: `later load`, and the pipeline's first batch.

    python -m benchmarks.data_loading --tfrecord --images=100000

writes TFRecord shards of small images instead, and compares reading images on demand, in sequence
(`data.shuffle_buffer`), and keeping them all in memory: loading, and 1,000 images of each.
"""

import collections
import dataclasses
import importlib
import io
import itertools
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from absl import flags
from PIL import Image

from benchmarks.measuring import in_own_process, resident
from efficientdet_tf.cli import command_line

FLAGS = flags.FlagValues()
_FOLDER = flags.DEFINE_string(
    "folder", "/tmp/data_loading", "Where the set is generated, or found.", flag_values=FLAGS
)
_IMAGES = flags.DEFINE_integer(
    "images", 118_000, "Images of the set.", lower_bound=100, flag_values=FLAGS
)
_BOXES = flags.DEFINE_integer(
    "boxes", 850_000, "Boxes of the set.", lower_bound=1, flag_values=FLAGS
)
_POLYGON = flags.DEFINE_integer(
    "polygon", 0, "Corners of each object's polygon; about 20 in COCO's files.", flag_values=FLAGS
)

_TFRECORD = flags.DEFINE_bool(
    "tfrecord", False, "Measure TFRecord shards instead of a COCO file.", flag_values=FLAGS
)

# Images that all file names link to, and their width and height.
_FILES, _SIZE = 8, (640, 480)
_CLASSES = 80


def write_coco_set(folder: pathlib.Path, images: int, boxes: int, polygon: int) -> pathlib.Path:
    """Write a generated COCO file, unless it exists, and links to its images."""
    file = folder / f"images-{images}-boxes-{boxes}-polygon-{polygon}.json"
    _write_images(folder / "images", images)
    if not file.exists():
        random = np.random.default_rng(0)
        content = {
            "info": {"description": "generated"},
            "images": [_image_entry(number) for number in range(images)],
            "annotations": _annotations(random, images, boxes, polygon),
            "categories": [{"id": i, "name": f"class {i}"} for i in range(1, _CLASSES + 1)],
        }
        file.write_text(json.dumps(content), encoding="utf-8")
    return file


def _write_images(folder: pathlib.Path, images: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(_FILES):
        coarse = random.integers(0, 255, (12, 16, 3), np.uint8)
        target = folder / f"file-{number}.jpg"
        if not target.exists():
            Image.fromarray(coarse).resize(_SIZE, Image.Resampling.BICUBIC).save(target)
    names = {entry.name for entry in os.scandir(folder)}
    for number in range(images):
        name = _file_name(number)
        if name not in names:
            os.link(folder / f"file-{number % _FILES}.jpg", folder / name)


def _file_name(number: int) -> str:
    return f"{number:012d}.jpg"


def _image_entry(number: int) -> dict:
    return {
        "license": 3,
        "file_name": _file_name(number),
        "coco_url": f"http://images.example.org/train/{_file_name(number)}",
        "height": _SIZE[1],
        "width": _SIZE[0],
        "date_captured": "2013-11-14 11:18:45",
        "id": 7 * number + 5,
    }


def _annotations(random: np.random.Generator, images: int, boxes: int, polygon: int) -> list:
    of_image = random.integers(0, images, boxes).tolist()
    corners = np.sort(random.uniform(0, 1, (boxes, 2, 2)), axis=1) * _SIZE
    sides = np.maximum(corners[:, 1] - corners[:, 0], 2)
    origins = np.minimum(corners[:, 0], np.array(_SIZE) - 2)
    given = np.concatenate([origins, sides], axis=1).round(2).tolist()
    classes = random.integers(1, _CLASSES + 1, boxes).tolist()
    outline = np.linspace(1.25, 400.5, 2 * polygon).round(2).tolist()
    return [
        {
            "segmentation": [outline],
            "area": round(box[2] * box[3], 4),
            "iscrowd": 0,
            "image_id": 7 * image + 5,
            "bbox": box,
            "category_id": label,
            "id": number,
        }
        for number, (image, box, label) in enumerate(zip(of_image, given, classes), 1)
    ]


class Measured(NamedTuple):
    """What a stage took: wall and processor seconds, bytes beyond those of imports, read calls."""

    wall: float
    processor: float
    peak: float
    reads: int


def measured(function: Callable, *arguments: object) -> Measured:
    """Call a function and measure it."""
    before, reads = resident("VmRSS"), _read_calls()
    start, work = time.perf_counter(), time.process_time()
    result = function(*arguments)
    spent = time.perf_counter() - start, time.process_time() - work
    del result
    return Measured(*spent, resident("VmHWM") - before, _read_calls() - reads)


def _read_calls() -> int:
    counters = pathlib.Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(dict(line.split() for line in counters)["syscr:"])


def measure_read(file: str) -> Measured:
    """Measure the reader alone."""
    from efficientdet_tf.data import coco

    return measured(lambda: coco.read(file, images="", split="train"))


def measure_load(file: str) -> Measured:
    """Measure reading and validation, with the headers of the images."""
    from efficientdet_tf import data

    # A format's reader is imported when it is needed, and TensorFlow with it.
    importlib.import_module("efficientdet_tf.data.tfrecord")
    return measured(lambda: data.load(file, verify="header"))


def measure_first_batch(file: str) -> Measured:
    """Measure the first batch of Lite0, with the memory of loading."""
    from efficientdet_tf import data
    from efficientdet_tf.config import Config
    from efficientdet_tf.data import pipeline

    before = resident("VmRSS")
    loaded = data.load(file, verify="header")
    config = Config.for_model("efficientdet-lite0")
    spent = measured(lambda: next(iter(pipeline.training_dataset(loaded, config, 8))))
    return spent._replace(peak=resident("VmHWM") - before)


def write_shards(folder: pathlib.Path, images: int, shards: int = 32) -> str:
    """Write TFRecord shards of generated images with seven boxes, unless they exist."""
    folder = folder / f"tfrecord-{images}"
    if (folder / "label_map.json").exists():
        return str(folder)
    import tensorflow as tf

    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for shard in range(shards):
        with tf.io.TFRecordWriter(str(folder / f"part-{shard:05}.tfrecord")) as writer:
            for number in range(shard, images, shards):
                writer.write(_example(random, number))
    names = [{"id": i, "name": f"class {i}"} for i in range(1, _CLASSES + 1)]
    (folder / "label_map.json").write_text(json.dumps(names))
    return str(folder)


def _example(random: np.random.Generator, number: int) -> bytes:
    import tensorflow as tf

    file = io.BytesIO()
    coarse = Image.fromarray(random.integers(0, 255, (16, 20, 3), np.uint8))
    coarse.resize((320, 240), Image.Resampling.BICUBIC).save(file, "JPEG")
    corners = np.sort(random.uniform(0, 1, (7, 2, 2)), axis=1)
    features = {
        "image/encoded": [file.getvalue()],
        "image/source_id": [str(number).encode()],
        "image/height": [240],
        "image/width": [320],
        "image/object/bbox/ymin": corners[:, 0, 0].tolist(),
        "image/object/bbox/xmin": corners[:, 0, 1].tolist(),
        "image/object/bbox/ymax": corners[:, 1, 0].tolist(),
        "image/object/bbox/xmax": corners[:, 1, 1].tolist(),
        "image/object/class/label": random.integers(1, _CLASSES + 1, 7).tolist(),
    }
    example = tf.train.Example()
    for key, values in features.items():
        kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[type(values[0])]
        getattr(example.features.feature[key], kind).value.extend(values)
    return example.SerializeToString()


def measure_images(folder: str, in_memory: bool = False, shuffle_buffer: int = 0) -> Measured:
    """Measure reading and decoding 1,000 shuffled images, with the memory of loading."""
    from efficientdet_tf import data
    from efficientdet_tf.config import Config
    from efficientdet_tf.data import pipeline
    from efficientdet_tf.data.image_sources import read_encoded

    before = resident("VmRSS")
    loaded = data.load(folder, verify="header")
    if in_memory:
        kept = [dataclasses.replace(r, image=read_encoded(r.image)) for r in loaded.records]
        loaded = dataclasses.replace(loaded, records=kept)
    config = Config.for_model("efficientdet-lite0").override(
        {"data.shuffle_buffer": shuffle_buffer}
    )
    reads = _read_calls()
    batches = iter(pipeline.training_dataset(loaded, config, 8))
    next(batches)
    spent = measured(lambda: collections.deque(itertools.islice(batches, 125), maxlen=0))
    # With those of a window that was read for the first batch.
    return spent._replace(peak=resident("VmHWM") - before, reads=_read_calls() - reads)


def main() -> None:
    """Generate the set, and print a row for each stage."""
    folder = pathlib.Path(_FOLDER.value)
    os.environ["EFFICIENTDET_CACHE"] = str(folder / "cache")
    shutil.rmtree(folder / "cache", ignore_errors=True)
    if _TFRECORD.value:
        path = write_shards(folder, _IMAGES.value)
        size = sum(file.stat().st_size for file in pathlib.Path(path).iterdir())
        stages: dict[str, tuple] = {
            "first load": (measure_load, path),
            "later load": (measure_load, path),
            "on demand": (measure_images, path),
            "in sequence": (measure_images, path, False, 1024),
            "in memory": (measure_images, path, True),
        }
    else:
        path = str(write_coco_set(folder, _IMAGES.value, _BOXES.value, _POLYGON.value))
        size = os.path.getsize(path)
        stages = {
            "read": (measure_read, path),
            "first load": (measure_load, path),
            "later load": (measure_load, path),
            "first batch": (measure_first_batch, path),
        }
    print(f"{path}: {size / 2**20:.0f} MB")
    print(f"{'':<12} {'seconds':>8} {'processor':>9} {'peak memory':>12} {'reads':>8}")
    for name, stage in stages.items():
        wall, processor, peak, reads = in_own_process(*stage)
        print(
            f"{name:<12} {wall:8.1f} {processor:9.1f} {peak / 2**20:9.0f} MB {reads:8}", flush=True
        )


if __name__ == "__main__":
    command_line.run(
        command_line.Command("data loading benchmark", __doc__, lambda: FLAGS, lambda _: main())
    )
