"""Drawing of a training batch with the boxes of its targets."""

import pathlib

import numpy as np
import tensorflow as tf

from efficientdet_tf import anchors
from efficientdet_tf.config import Config
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.files import replacing
from efficientdet_tf.visualization import drawing
from keras_layers.box_coder import decode

# More images would make the grid unreadable.
MOST_IMAGES = 8


def draw_training_batch(
    batch: tuple[tf.Tensor, dict[str, tf.Tensor]],
    config: Config,
    label_map: LabelMap,
    path: pathlib.Path,
) -> None:
    """Draw the images of a batch with the boxes decoded from its targets.

    Decoding shows the actual result of augmentation, resizing and anchor assignment.

    Args:
      batch: (images, targets) of `pipeline.training_dataset`.
      config: config of the run.
      label_map: classes.
      path: PNG file to write.

    Raises:
      WriteError: when it cannot be written.
    """
    images, targets = batch
    images = images.numpy()[:MOST_IMAGES]
    classes, deltas = targets["class_targets"].numpy(), targets["box_targets"].numpy()
    grid = anchors.from_config(config)
    all_boxes, all_names = [], []
    for class_targets, delta in zip(classes[: len(images)], deltas):
        positive = class_targets >= 0
        boxes = decode(delta[positive], grid[positive]).numpy()
        # Each object is assigned to several anchors, whose rounding differs.
        objects = np.unique(np.c_[np.round(boxes, 1), class_targets[positive]], axis=0)
        all_boxes.append(objects[:, :4])
        all_names.append([label_map.names[int(index)] for index in objects[:, 4]])
    with replacing(path) as partial:
        drawing.draw_batch(images, all_boxes, all_names).save(partial)
