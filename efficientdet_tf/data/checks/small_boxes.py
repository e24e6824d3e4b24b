"""Boxes that are too small for any anchor at the network's input size."""

import numpy as np

from efficientdet_tf.boxes import sizes
from efficientdet_tf.config import Config
from efficientdet_tf.data.anchor_recall import best_ious, is_small, network_boxes
from efficientdet_tf.data.checks.checked_set import CheckedSet
from efficientdet_tf.data.faults import Fault


def small_boxes(part: CheckedSet, config: Config) -> list[Fault]:
    """Find the boxes that are smaller than the anchors, and that no anchor covers.

    Args:
      part: the checked set.
      config: config with the network's input size and the anchors.
    """
    annotations = part.annotations
    used = [each for each in part.images if each.record is not None]
    objects = [
        (each, index)
        for each in used
        for index in np.flatnonzero(each.record.is_counted).tolist()  # type: ignore[union-attr]
    ]
    records = [each.record for each in used if each.record is not None]
    boxes = network_boxes(records, config.model.image_size, config.model.resize).boxes
    ious = best_ious(boxes, config)
    faults = []
    for position in np.flatnonzero(is_small(boxes, ious, config)).tolist():
        each, index = objects[position]
        image = each.image
        height, width = sizes(boxes[position])
        place = f"{annotations.object_word} {image.numbers[index]}"
        line = (
            f"{image.annotation_file}: {place}: {annotations.box_field}: is {width:.1f} x "
            f"{height:.1f} pixels at the network's input; the best anchor has an IoU of "
            f"{ious[position]:.2f}"
        )
        where = {"file": image.annotation_file, "place": place, "field": annotations.box_field}
        box = each.record.boxes[index]  # type: ignore[union-attr]
        faults.append(Fault("box_small", line, image=image.name, box=box, **where))
    return faults
