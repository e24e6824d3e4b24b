"""Smallest detector and data set for training, used by most tests."""

import dataclasses
import pathlib

from efficientdet_tf.config import Config
from efficientdet_tf.data import digits
from efficientdet_tf.data.coco_writer import write_coco
from efficientdet_tf.data.records import LabelMap

# 100 variables instead of 600: a training step is traced in a fraction of the time.
NETWORK = {
    "model.image_size": 64,
    "model.max_level": 5,
    "model.backbone_width": 0.25,
    "model.backbone_depth": 0.1,
    "model.head_repeats": 1,
    "neck.num_filters": 8,
    "neck.num_repeats": 1,
}


def config(**overrides: object) -> Config:
    """Build the config of a tiny EfficientDet-Lite0, with dotted overrides."""
    return Config.for_model("efficientdet-lite0").override(NETWORK | overrides)


def write_coco_file(folder: pathlib.Path, num_images: int, ids: tuple[int, ...] = ()) -> str:
    """Write images of digits as a COCO data set, optionally with other category ids."""
    data = digits.load("train", num_images=num_images)
    if ids:
        data = dataclasses.replace(data, label_map=LabelMap(ids, data.label_map.names))
    write_coco(data, folder)
    return str(folder / "annotations.json")
