"""Pre-NMS top-k with static shapes, for XLA and TPUs."""

import tensorflow as tf

from keras_layers.box_coder import decode
from keras_layers.level_maps import by_anchor


def select(outputs: dict[str, tf.Tensor], anchors: tf.Tensor, top_k: int) -> dict[str, tf.Tensor]:
    """Select and decode the (anchor, class) pairs of highest score of each image.

    `keras_layers.postprocessing.Postprocessing` selects the same pairs, faster on a CPU, but
    with shapes that depend on the values. Pass the result to its `suppress_candidates`.

    Args:
      outputs: dict of `cls_L`, float [B, h, w, A * classes], class logits, and `box_L`, float
        [B, h, w, A * 4], (ty, tx, th, tw), for each level L.
      anchors: float32 [N, 4], ymin, xmin, ymax, xmax in network pixels.
      top_k: number of pairs, or all if there are fewer; 0 for the best class of every anchor.

    Returns:
      Dict of `boxes` float32 [B, n, 4] in network pixels, `logits` float32 [B, n] and
      `classes` int32 [B, n], class indices.
    """
    logits, deltas = (tf.concat(levels, axis=1) for levels in by_anchor(outputs))
    if not top_k:
        return {
            "boxes": decode(deltas, anchors),
            "logits": tf.reduce_max(logits, axis=-1),
            "classes": tf.argmax(logits, axis=-1, output_type=tf.int32),
        }
    num_anchors, num_classes = logits.shape[1:]
    pairs = tf.reshape(logits, [-1, num_anchors * num_classes])
    best, indices = tf.math.top_k(pairs, min(top_k, num_anchors * num_classes))
    rows = indices // num_classes
    deltas = tf.gather(deltas, rows, batch_dims=1)
    return {
        "boxes": decode(deltas, tf.gather(anchors, rows)),
        "logits": best,
        "classes": indices % num_classes,
    }
