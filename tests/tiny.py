"""Smallest detector and data set for training, used by most tests."""

import dataclasses
import pathlib

import h5py
import numpy as np
import tensorflow as tf

from efficientdet_tf.config import Config
from efficientdet_tf.data import digits
from efficientdet_tf.data.coco_writer import write_coco
from efficientdet_tf.data.records import LabelMap

# 120 variables instead of 600: a training step is traced in a fraction of the time.
NETWORK = {
    "model.backbone": "small_backbone:SmallBackbone",
    "model.image_size": 64,
    "model.max_level": 5,
    "model.head_repeats": 1,
    "neck.num_filters": 8,
    "neck.num_repeats": 1,
}

# The same with a backbone of the product's.
EFFICIENTNET = NETWORK | {
    "model.backbone": "efficientnet-lite0",
    "model.backbone_width": 0.25,
    "model.backbone_depth": 0.1,
}


def config(**overrides: object) -> Config:
    """Build the config of a tiny EfficientDet-Lite0, with dotted overrides."""
    return Config.for_model("efficientdet-lite0").override(NETWORK | overrides)


def object_at_each_position() -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Return a batch for levels 3 to 7 at 64 pixels and one class.

    Returns:
      Two random images, and targets by which the first of the nine anchors of each position has
      an object.
    """
    positions = sum(size**2 for size in (8, 4, 2, 1, 1))
    classes = tf.one_hot(tf.zeros([2, positions], tf.int32), 9, 1, -1)
    targets = {
        "class_targets": tf.reshape(classes, [2, -1]),
        "box_targets": tf.ones([2, 9 * positions, 4]),
        "num_positives": tf.ones([2]),
    }
    return tf.random.stateless_uniform([2, 64, 64, 3], [1, 2], 0, 255), targets


def write_coco_file(folder: pathlib.Path, num_images: int, ids: tuple[int, ...] = ()) -> str:
    """Write images of digits as a COCO data set, optionally with other category ids."""
    data = digits.load("train", num_images=num_images)
    if ids:
        data = dataclasses.replace(data, label_map=LabelMap(ids, data.label_map.names))
    write_coco(data, folder)
    return str(folder / "annotations.json")


def stored_weights(model_dir: pathlib.Path) -> dict[str, np.ndarray]:
    """Return the arrays of last.weights.h5 by name, without making the model of the run."""
    found = {}

    def keep(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(model_dir / "last.weights.h5") as file:
        file.visititems(keep)
    return found


def assert_same_weights(model_dir: pathlib.Path, other_dir: pathlib.Path) -> None:
    """Assert that two runs ended with the same bits."""
    ours, theirs = stored_weights(model_dir), stored_weights(other_dir)
    assert len(ours) > 90 and ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], name)
