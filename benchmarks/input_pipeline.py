"""Benchmark of the training input pipeline: throughput, and time of each stage.

    python -m benchmarks.input_pipeline --data=digits

prints for each model the throughput of the whole pipeline, as in training, with what it takes of
this process, and the processor time of each stage per image. The stages are those of the paper's
recipe; `--augmentations` prints the throughput with each of the other augmentations instead.
With `--set data.service=grpc://...` the whole pipeline is that of a tf.data service.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from absl import flags

from efficientdet_tf import anchors, data, targets
from efficientdet_tf.cli import command_line
from efficientdet_tf.config import Config, parse_assignments
from efficientdet_tf.data import augmentation, pipeline, preprocessing
from efficientdet_tf.data.decoding import decode_image
from efficientdet_tf.data.image_sources import read_encoded
from efficientdet_tf.data.reading import parallel_map
from efficientdet_tf.data.records import DetectionData, Record
from efficientdet_tf.errors import UserError

FLAGS = flags.FlagValues()
_DATA = flags.DEFINE_string(
    "data", data.BUILT_IN, "A data set, as train.py takes it.", flag_values=FLAGS
)
_FORMAT = flags.DEFINE_string(
    "format", "auto", "Its format, as train.py takes it.", flag_values=FLAGS
)
_MODELS = flags.DEFINE_list(
    "models",
    ["efficientdet-d0", "efficientdet-lite0"],
    "Models whose input is produced.",
    flag_values=FLAGS,
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 8, "Images in a batch.", lower_bound=1, flag_values=FLAGS
)
_SET = flags.DEFINE_multi_string(
    "set", [], "Settings as key=value, as train.py takes them.", flag_values=FLAGS
)
_CACHE = flags.DEFINE_bool("cache", False, "Keep decoded images in memory.", flag_values=FLAGS)
_SECONDS = flags.DEFINE_float(
    "seconds", 10.0, "Duration of each measurement in seconds.", lower_bound=0.1, flag_values=FLAGS
)
_AUGMENTATIONS = flags.DEFINE_bool(
    "augmentations", False, "Time each augmentation instead.", flag_values=FLAGS
)
_IMAGES = flags.DEFINE_integer(
    "images", 100, "Images for timing the stages.", lower_bound=1, flag_values=FLAGS
)

# Additional settings by name.
AUGMENTATIONS = {
    "flip, scale, crop": {},
    "none": {
        "augmentation.horizontal_flip": False,
        "augmentation.scale_min": 1.0,
        "augmentation.scale_max": 1.0,
    },
    "AutoAugment v0": {"augmentation.policy": "v0"},
    "AutoAugment v1": {"augmentation.policy": "v1"},
    "AutoAugment v2": {"augmentation.policy": "v2"},
    "AutoAugment v3": {"augmentation.policy": "v3"},
    "RandAugment": {"augmentation.policy": "rand"},
    "colour": {"augmentation.color": 0.5},
    "blur": {"augmentation.blur": 1.0},
    "sharpness": {"augmentation.sharpness": 1.0},
    "GridMask": {"augmentation.grid_mask": 1.0},
    "mosaic": {"augmentation.mosaic": 1.0},
    "mixup": {"augmentation.mixup": 1.0},
    "copy-paste": {"augmentation.copy_paste": 1.0},
}


class Throughput(NamedTuple):
    """Speed of a pipeline without a consumer.

    Attributes:
      start: processor seconds until the first batch.
      rate: images per second after it.
      milliseconds: processor milliseconds for an image.
    """

    start: float
    rate: float
    milliseconds: float


def throughput(
    source: DetectionData, config: Config, batch_size: int, seconds: float
) -> Throughput:
    """Measure the start of a pipeline, and its speed for some seconds."""
    work = time.process_time()
    batches = iter(pipeline.training_dataset(source, config, batch_size))
    next(batches)
    until_first = time.process_time() - work
    # The first batches start threads and fill cache and buffers.
    warm_up = len(source) // batch_size + 1 if config.data.cache else 10
    for _ in range(warm_up):
        next(batches)
    start, work, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        next(batches)
        count += batch_size
    milliseconds = 1000 * (time.process_time() - work) / count
    return Throughput(until_first, count / (time.perf_counter() - start), milliseconds)


def stage_times(source: DetectionData, config: Config, num_images: int) -> dict[str, float]:
    """Measure the milliseconds of processor time of each stage per image, by name.

    Each stage is measured as the increase over a pipeline of the earlier stages.
    """
    stages = _stages(config)
    records = [source.records[i % len(source)] for i in range(num_images)]
    totals = []
    for count in range(len(stages) + 1):
        dataset = _record_dataset(records)
        for stage in stages[:count]:
            # Each stage adds or replaces named tensors of an image.
            dataset = parallel_map(dataset, lambda values, stage=stage: values | stage(values))
        totals.append(_processor_milliseconds(dataset) / num_images)
    return {
        stage.__name__: after - before
        for stage, before, after in zip(stages, totals[:-1], totals[1:])
    }


def _record_dataset(records: list[Record]) -> tf.data.Dataset:
    return tf.data.Dataset.from_generator(
        lambda: (
            {
                "file": record.image
                if isinstance(record.image, str)
                else read_encoded(record.image),
                "in_memory": not isinstance(record.image, str),
                "apply_exif": record.apply_exif,
                "boxes": record.boxes,
                "classes": record.classes,
                "seed": [0, number],
            }
            for number, record in enumerate(records)
        ),
        output_signature={
            "file": tf.TensorSpec([], tf.string),
            "in_memory": tf.TensorSpec([], tf.bool),
            "apply_exif": tf.TensorSpec([], tf.bool),
            "boxes": tf.TensorSpec([None, 4], tf.float32),
            "classes": tf.TensorSpec([None], tf.int32),
            "seed": tf.TensorSpec([2], tf.int64),
        },
    ).cache()


def _processor_milliseconds(dataset: tf.data.Dataset) -> float:
    """Measure a pass over a data set, without the start of its functions."""

    def measure(num_passes: int) -> float:
        start = time.process_time()
        dataset.repeat(num_passes).reduce(np.int64(0), lambda count, _: count + 1)
        return 1000 * (time.process_time() - start)

    # The first fills the cache.
    measure(1)
    return statistics.median((measure(6) - measure(1)) / 5 for _ in range(3))


def _stages(config: Config) -> list[Callable[[dict], dict]]:
    """Return the steps of `pipeline.training_dataset`, each a function of named tensors."""
    size, mean = config.model.image_size, config.model.pixel_mean
    scales = (config.augmentation.scale_min, config.augmentation.scale_max)

    def read(v):
        encoded = tf.cond(v["in_memory"], lambda: v["file"], lambda: tf.io.read_file(v["file"]))
        return {"encoded": encoded}

    def decode(v):
        return {"image": decode_image(v["encoded"], v["apply_exif"])}

    def flip(v):
        image, boxes = augmentation.random_flip(v["image"], v["boxes"], v["seed"])
        return {"image": image, "boxes": boxes}

    def scale_and_crop(v):
        image, boxes, kept = augmentation.random_scale_and_crop(
            v["image"], v["boxes"], size, scales, v["seed"]
        )
        return {"scaled": image, "boxes": boxes, "classes": tf.gather(v["classes"], kept)}

    def pad(v):
        return {"input": preprocessing.pad(v["scaled"], size, mean)}

    def assign(v):
        classes, boxes, count = targets.assign(
            anchors.grid_from_config(config), v["boxes"], v["classes"], has_ignored=False
        )
        return {"class_targets": classes, "box_targets": boxes, "count": count}

    return [read, decode, flip, scale_and_crop, pad, assign]


def batching_time(config: Config, batch_size: int, num_images: int) -> float:
    """Measure the milliseconds of processor time of batching one image and its targets."""
    height, width = config.model.image_size
    count = len(anchors.from_config(config))
    one = tf.zeros([height, width, 3]), tf.zeros([count], tf.int32), tf.zeros([count, 4])
    images = tf.data.Dataset.from_tensors(one).cache().repeat(num_images)
    alone, batched = (_processor_milliseconds(d) for d in (images, images.batch(batch_size)))
    return (batched - alone) / num_images


def _report(source: DetectionData) -> Iterator[str]:
    for name in _MODELS.value:
        config = Config.for_model(name).override(
            {"data.cache": _CACHE.value} | parse_assignments(_SET.value)
        )
        height, width = config.model.image_size
        if _AUGMENTATIONS.value:
            yield f"{name} at {width} x {height}"
            for augmentation_name, settings in AUGMENTATIONS.items():
                changed = config.override(settings)
                speed = throughput(source, changed, _BATCH_SIZE.value, _SECONDS.value)
                yield (
                    f"  {augmentation_name:<18} {speed.rate:7.1f} images per second, "
                    f"{speed.start:.1f} s until the first batch"
                )
            continue
        speed = throughput(source, config, _BATCH_SIZE.value, _SECONDS.value)
        yield f"{name} at {width} x {height}: {speed.rate:.1f} images per second"
        yield f"  {'first batch':<16} {speed.start:7.2f} s"
        yield f"  {'this process':<16} {speed.milliseconds:7.2f} ms an image"
        times = stage_times(source, config, _IMAGES.value)
        times["batch"] = batching_time(config, _BATCH_SIZE.value, _IMAGES.value)
        for stage, milliseconds in times.items():
            yield f"  {stage:<16} {milliseconds:7.2f} ms"
        yield f"  {'sum':<16} {sum(times.values()):7.2f} ms"


def main() -> None:
    """Print the report; an unusable data set or model is reported in one line."""
    try:
        source = data.load(_DATA.value, format=_FORMAT.value, verify="header")
        print(f"{source.source}: {len(source)} images, batches of {_BATCH_SIZE.value}")
        for line in _report(source):
            print(line, flush=True)
    except UserError as error:
        sys.exit(f"input_pipeline: {error}")


if __name__ == "__main__":
    command_line.run(
        command_line.Command("input pipeline benchmark", __doc__, lambda: FLAGS, lambda _: main())
    )
