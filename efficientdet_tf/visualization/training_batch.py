"""Drawing of a training batch with the boxes of its targets."""

import pathlib

import numpy as np

from efficientdet_tf import anchors
from efficientdet_tf.config import Config
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.files import replacing
from efficientdet_tf.visualization import drawing
from keras_layers.box_coder import decode


def draw_training_batch(
    batch: tuple[np.ndarray, dict[str, np.ndarray]],
    config: Config,
    label_map: LabelMap,
    path: pathlib.Path,
) -> None:
    """Draw the images of a batch with the boxes decoded from its targets.

    Decoding shows the actual result of augmentation, resizing and anchor assignment.

    Args:
      batch: (images, targets) of `pipeline.training_dataset`, as NumPy arrays.
      config: config of the run.
      label_map: classes.
      path: PNG file to write.

    Raises:
      WriteError: when it cannot be written.
    """
    images, targets = batch
    grid = anchors.from_config(config)
    all_boxes, all_names = [], []
    for class_targets, delta in zip(targets["class_targets"], targets["box_targets"]):
        positive = class_targets >= 0
        boxes = decode(delta[positive], grid[positive]).numpy()
        # Each object is assigned to several anchors, whose rounding differs.
        objects = np.unique(np.c_[np.round(boxes, 1), class_targets[positive]], axis=0)
        all_boxes.append(objects[:, :4])
        all_names.append([label_map.names[int(index)] for index in objects[:, 4]])
    with replacing(path) as partial:
        drawing.draw_batch(images, all_boxes, all_names).save(partial)
