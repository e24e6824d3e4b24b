"""Anchor assignment: match anchors to ground-truth boxes (focal-loss paper, section 4).

An anchor is positive when its best box overlaps it with at least the matching
threshold. Every box is also force-matched to its best anchor, so that no object
is without anchors; if two boxes force the same anchor, the first one gets it.

Ignored boxes are matched in the same way: anchors that match them, but no object,
are excluded from the class loss.
"""

import tensorflow as tf

from efficientdet_tf.box_tensors import intersection_with_box, iou_with_box
from keras_layers.box_coder import encode

BACKGROUND = -1
# Class target of an anchor excluded from the class loss, and class index of a box whose
# matched anchors are excluded.
IGNORED = -2
# Class index of a crowd region, which excludes all anchors inside.
IGNORED_REGION = -3
# Minimum share of an anchor's area inside a region to count as inside (the overlap with crowd
# regions in COCO's evaluation).
_SHARE_INSIDE = 0.5


def assign(
    anchors: tf.Tensor,
    boxes: tf.Tensor,
    classes: tf.Tensor,
    positive_iou_threshold: float = 0.5,
    ignore_iou_threshold: float = 1.0,
    has_ignored: bool = True,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Compute the training targets of one image, in graph operations.

    Args:
      anchors: float32 [N, 4], ymin, xmin, ymax, xmax in network pixels; a
        NumPy array (a constant of the graph) is fastest.
      boxes: float32 [n, 4] in network pixels, n may be zero.
      classes: int32 [n], class indices from 0, `IGNORED` or `IGNORED_REGION`.
      positive_iou_threshold: an anchor with at least this IoU is positive. Default 0.5.
      ignore_iou_threshold: other anchors with at least this IoU get the class target
        `IGNORED` (RetinaNet: 0.4). Default 1, none.
      has_ignored: whether a class may be negative; without such boxes, False takes a third less
        time. Default True.

    Returns:
      Class targets, int32 [N], `BACKGROUND` for unmatched anchors, `IGNORED` for those
      matched to an ignored box only or between the two thresholds; box targets, float32
      [N, 4], `box_coder.encode` of the matched box, zero for negative anchors; number of positive
      anchors, float32 scalar.
    """
    anchors, boxes = tf.convert_to_tensor(anchors), tf.convert_to_tensor(boxes)
    classes = tf.cast(classes, tf.int32)
    if not has_ignored:
        return _assign_objects(
            anchors, boxes, classes, positive_iou_threshold, ignore_iou_threshold
        )
    is_object = classes >= 0
    class_targets, box_targets, num_positives = _assign_objects(
        anchors,
        boxes[is_object],
        classes[is_object],
        positive_iou_threshold,
        ignore_iou_threshold,
    )
    # Most images have no ignored box.
    class_targets = tf.cond(
        tf.reduce_all(is_object),
        lambda: class_targets,
        lambda: _ignore(class_targets, anchors, boxes, classes, positive_iou_threshold),
    )
    return class_targets, box_targets, num_positives


def _assign_objects(
    anchors: tf.Tensor,
    boxes: tf.Tensor,
    classes: tf.Tensor,
    positive_iou_threshold: float,
    ignore_iou_threshold: float,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Assign anchors to boxes that are all objects."""
    box_of_anchor, overlap = _match(anchors, boxes, positive_iou_threshold)
    positive = tf.where(box_of_anchor >= 0)
    box_of_positive = tf.gather_nd(box_of_anchor, positive)
    deltas = encode(tf.gather(boxes, box_of_positive), tf.gather_nd(anchors, positive))
    num_anchors = tf.shape(anchors, out_type=tf.int64)[0]
    # Only the few positives are gathered and encoded: 20 times fewer than all.
    box_targets = tf.scatter_nd(positive, deltas, [num_anchors, 4])
    unmatched = tf.fill([num_anchors], BACKGROUND)
    if ignore_iou_threshold < positive_iou_threshold:
        unmatched = tf.where(overlap >= ignore_iou_threshold, IGNORED, unmatched)
    class_targets = tf.tensor_scatter_nd_update(
        unmatched, positive, tf.gather(classes, box_of_positive)
    )
    return class_targets, box_targets, tf.cast(tf.shape(positive)[0], tf.float32)


def _ignore(
    class_targets: tf.Tensor,
    anchors: tf.Tensor,
    boxes: tf.Tensor,
    classes: tf.Tensor,
    positive_iou_threshold: float,
) -> tf.Tensor:
    """Set background class targets on ignored boxes to `IGNORED`: int32 [N]."""
    matched, _ = _match(anchors, boxes[classes == IGNORED], positive_iou_threshold)
    ignored = matched >= 0
    ignored |= _inside_any(anchors, boxes[classes == IGNORED_REGION])
    return tf.where(ignored & (class_targets == BACKGROUND), IGNORED, class_targets)


def _match(anchors: tf.Tensor, boxes: tf.Tensor, threshold: float) -> tuple[tf.Tensor, tf.Tensor]:
    """Match each anchor to a box: int32 [N], box indices, -1 for none; float32 [N], best IoU.

    One box at a time: a matrix of all overlaps would take hundreds of megabytes
    for a crowded image at a large size, and is slower because it misses the cache.
    """
    num_anchors, num_boxes = tf.shape(anchors)[0], tf.shape(boxes)[0]
    sides = tf.unstack(anchors, axis=1)

    def match_box(
        index: tf.Tensor, best_overlap: tf.Tensor, best_box: tf.Tensor, best_anchors: tf.Tensor
    ) -> tuple:
        overlap = iou_with_box(sides, boxes[index])
        best_box = tf.where(overlap > best_overlap, index, best_box)
        best_anchor = tf.argmax(overlap, output_type=tf.int32)
        best_anchors = best_anchors.write(index, best_anchor)
        return index + 1, tf.maximum(overlap, best_overlap), best_box, best_anchors

    _, best_overlap, best_box, best_anchors = tf.while_loop(
        lambda index, *_: index < num_boxes,
        match_box,
        (
            tf.constant(0),
            tf.zeros([num_anchors]),
            tf.fill([num_anchors], -1),
            tf.TensorArray(tf.int32, num_boxes, element_shape=[]),
        ),
    )
    matched = tf.where(best_overlap >= threshold, best_box, -1)
    # An anchor forced by several boxes gets the first of them; without a forced box, the
    # minimum is the largest integer.
    forced = tf.math.unsorted_segment_min(tf.range(num_boxes), best_anchors.stack(), num_anchors)
    return tf.where(forced < num_boxes, forced, matched), best_overlap


def _inside_any(anchors: tf.Tensor, regions: tf.Tensor) -> tf.Tensor:
    """Find the anchors with enough of their area inside one of the regions: bool [N]."""
    sides = tf.unstack(anchors, axis=1)
    ymin, xmin, ymax, xmax = sides
    least = _SHARE_INSIDE * (ymax - ymin) * (xmax - xmin)

    def add_region(index: tf.Tensor, inside: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index + 1, inside | (intersection_with_box(sides, regions[index]) >= least)

    num_regions = tf.shape(regions)[0]
    return tf.while_loop(
        lambda index, _: index < num_regions,
        add_region,
        (tf.constant(0), tf.zeros(tf.shape(ymin), tf.bool)),
    )[1]
