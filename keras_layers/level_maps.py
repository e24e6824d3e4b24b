"""Output maps of the levels: their names, and their layout by anchor.

The outputs are a dict with a class map and a box map for each level. Only this module defines
the position of anchors in them; targets are in the order of anchors.
"""

import tensorflow as tf

_CLASSES, _BOXES = "cls_", "box_"


def class_map(level: int) -> str:
    """Return the name of a level's class map."""
    return f"{_CLASSES}{level}"


def box_map(level: int) -> str:
    """Return the name of a level's box map."""
    return f"{_BOXES}{level}"


def by_anchor(outputs: dict[str, tf.Tensor]) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Reshape the maps to one row for each anchor, in order of row, column, and anchor of a cell.

    Args:
      outputs: for each level L `cls_L`, float [B, h, w, A * classes], and `box_L`, float
        [B, h, w, A * 4]; all but B are static.

    Returns:
      Two lists by level, from the finest: class logits float32 [B, n, classes] and box deltas
      float32 [B, n, 4].
    """
    names = (name for name in outputs if name.startswith(_BOXES))
    logits, deltas = [], []
    for level in sorted(int(name.removeprefix(_BOXES)) for name in names):
        cls, box = outputs[class_map(level)], outputs[box_map(level)]
        height, width, channels = box.shape[1:]
        num_anchors = channels // 4
        num_classes = cls.shape[-1] // num_anchors
        logits.append(tf.reshape(cls, [-1, height * width * num_anchors, num_classes]))
        deltas.append(tf.reshape(box, [-1, height * width * num_anchors, 4]))
    return [tf.cast(x, tf.float32) for x in logits], [tf.cast(x, tf.float32) for x in deltas]


def class_logits_by_anchor(outputs: dict[str, tf.Tensor], num_classes: int) -> tf.Tensor:
    """Reshape the class maps alone to one row for each anchor, in the order of `by_anchor`.

    Args:
      outputs: for each level L `cls_L`, float [B, h, w, A * classes]; all but B are static.
      num_classes: number of classes.

    Returns:
      float32 [B, N, classes] of the anchors of all levels, from the finest.
    """
    names = (name for name in outputs if name.startswith(_CLASSES))
    rows = []
    for level in sorted(int(name.removeprefix(_CLASSES)) for name in names):
        height, width, channels = outputs[class_map(level)].shape[1:]
        shape = [-1, height * width * channels // num_classes, num_classes]
        rows.append(tf.cast(tf.reshape(outputs[class_map(level)], shape), tf.float32))
    return tf.concat(rows, axis=1)
