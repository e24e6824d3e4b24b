"""What the network is asked to learn, as an image."""

import pathlib

import numpy as np
import tensorflow as tf

from efficientdet_tf import anchors
from efficientdet_tf.boxes import decode
from efficientdet_tf.config import Config
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.files import replacing
from efficientdet_tf.visualization import drawing

# More would be an image too large to look at.
MOST_IMAGES = 8


def draw_training_batch(
    batch: tuple[tf.Tensor, dict[str, tf.Tensor]],
    config: Config,
    label_map: LabelMap,
    path: pathlib.Path,
) -> None:
    """Writes the images of a batch with the boxes that its targets encode.

    The boxes are read back from the targets, so that the image shows what
    augmentation, resizing and assignment really made of the data.

    Args:
      batch: (images, targets) of `pipeline.training_dataset`.
      config: of the run.
      label_map: names the classes.
      path: of the PNG file.

    Raises:
      WriteError: when it cannot be written.
    """
    images, targets = batch
    images = images.numpy()[:MOST_IMAGES]
    classes, deltas = targets["class_targets"].numpy(), targets["box_targets"].numpy()
    grid = anchors.from_config(config)
    all_boxes, all_names = [], []
    for of_anchor, delta in zip(classes[: len(images)], deltas):
        positive = of_anchor >= 0
        boxes = decode(delta[positive], grid[positive]).numpy()
        # Every object answers through many anchors; their rounding differs.
        objects = np.unique(np.c_[np.round(boxes, 1), of_anchor[positive]], axis=0)
        all_boxes.append(objects[:, :4])
        all_names.append([label_map.names[int(index)] for index in objects[:, 4]])
    with replacing(path) as partial:
        drawing.draw_batch(images, all_boxes, all_names).save(partial)
