"""Benchmark of explanations: time of a heat map, and how much of the logit its places carry.

    python -m benchmarks.explanations --model=efficientdet-d0
    python -m benchmarks.explanations --model_dir=runs/mine

The first has untrained weights and measures the time. The second deletes the places of highest
values, which become the mean colour, and prints how far the class logit falls. As many pixels are
deleted around the box's centre, and at random, in blocks of 8 x 8 pixels; and by the map of the
feature network's outputs, of which a heat map could also be made.
"""

import functools
import time

import numpy as np
from absl import flags

from efficientdet_tf.cli import command_line

FLAGS = flags.FlagValues()

flags.DEFINE_string("model", "efficientdet-d0", "Published model to measure.", flag_values=FLAGS)
flags.DEFINE_string("model_dir", None, "Run directory whose maps are tested.", flag_values=FLAGS)
flags.DEFINE_integer("images", 20, "Images of its validation set.", flag_values=FLAGS)

# Deleted pixels as shares of the box's area.
SHARES = (0.1, 0.25, 0.5)
PER_IMAGE = 6


def main() -> None:
    """Print the time, or what deletions do."""
    if FLAGS.model_dir:
        print_deletions()
    else:
        print_times()


def print_times() -> None:
    """Print the median time of detection alone, and with one and eight heat maps."""
    from benchmarks.measuring import median_seconds
    from efficientdet_tf import model as model_lib
    from efficientdet_tf.config import Config
    from efficientdet_tf.data.records import LabelMap
    from efficientdet_tf.inference.explanation import Explainer

    config = Config.for_model(FLAGS.model)
    classes = range(1, config.model.num_classes + 1)
    label_map = LabelMap(tuple(classes), tuple(map(str, classes)))
    model = model_lib.build(config)
    image = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    start = time.perf_counter()
    explainer = Explainer(model, config, label_map)
    explainer.explain(image, 0.0, 1)
    print(f"{FLAGS.model}: explainer and first call {time.perf_counter() - start:.1f} s")
    for number in (0, 1, 8):
        call = functools.partial(explainer.explain, image, 0.0, number)
        wall, processor = median_seconds(call, 10)
        print(f"{number} heat maps: {1000 * wall:.0f} ms, processor {1000 * processor:.0f} ms")


def print_deletions() -> None:
    """Print the mean change of the logit by what is deleted."""
    from efficientdet_tf.data import parts
    from efficientdet_tf.data.record_images import read_record
    from efficientdet_tf.inference.detection_function import InputResize
    from efficientdet_tf.inference.explanation import Explainer
    from efficientdet_tf.run_directory import RunDirectory

    run = RunDirectory(FLAGS.model_dir)
    config, model = run.config(), run.load_model()
    explainer = Explainer(model, config, run.label_map())
    # Taken for a network whose inputs cannot be used.
    model.get_layer("feature_network").needs_backbone = True
    of_outputs = Explainer(model, config, run.label_map())
    random = np.random.default_rng(0)
    changes: dict[str, list] = {}
    for record in parts.load_split(config, "val").records[: FLAGS.images]:
        image = InputResize.from_config(config)(read_record(record))[0].numpy()
        image = np.rint(image).astype(np.uint8)
        for found in explainer.explain(image, max_detections=PER_IMAGE):
            other = of_outputs.explain_box(image, found.box, found.class_index)
            if other is None:
                continue
            places = {
                "feature network's inputs": found.heat_map(),
                "feature network's outputs": other.heat_map(),
                "around the box's centre": nearness(found.box, image.shape[:2]),
                "at random": blocks(random, image.shape[:2]),
            }
            for name, values in places.items():
                change = deletion(model, config, image, found, values)
                changes.setdefault(name, []).append(change)
    print(f"{'deleted':<28}" + "".join(f"{share:>8.0%}" for share in SHARES))
    for name, rows in changes.items():
        print(f"{name:<28}" + "".join(f"{value:>8.2f}" for value in np.mean(rows, axis=0)))
    print(f"mean of {len(rows)} detections")


def deletion(model, config, image, found, values) -> np.ndarray:
    """Return the change of a logit when the pixels of highest value are deleted, by share."""
    from keras_layers.level_maps import class_logits_by_anchor

    area = (found.box[2] - found.box[0]) * (found.box[3] - found.box[1])
    order = np.argsort(-values, axis=None, kind="stable")
    changed = np.repeat(image[None].astype(np.float32), len(SHARES), axis=0)
    for copy, share in zip(changed, SHARES):
        copy.reshape(-1, 3)[order[: int(share * area)]] = config.model.pixel_mean
    outputs = model(changed, training=False)
    logits = class_logits_by_anchor(outputs, config.model.num_classes)
    return logits[:, found.anchor, found.class_index].numpy() - found.logit


def nearness(box, size) -> np.ndarray:
    """Return a map that falls from the centre of a box, in its shape."""
    sides = np.maximum(box[2:] - box[:2], 1)
    offsets = np.moveaxis(np.indices(size), 0, -1) + 0.5 - (box[:2] + box[2:]) / 2
    return -np.abs(offsets / sides).max(axis=-1)


def blocks(random, size) -> np.ndarray:
    """Return a map of random values for blocks of 8 x 8 pixels."""
    height, width = size
    return (
        random.random((-(-height // 8), -(-width // 8))).repeat(8, 0).repeat(8, 1)[:height, :width]
    )


if __name__ == "__main__":
    command_line.run(
        command_line.Command("explanations benchmark", __doc__, lambda: FLAGS, lambda _: main())
    )
