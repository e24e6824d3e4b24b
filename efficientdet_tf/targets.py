"""Anchor assignment: match anchors to ground-truth boxes (focal-loss paper, section 4).

An anchor is positive when its best box overlaps it with at least the matching
threshold. Every box is also force-matched to its best anchor, so that no object
is without anchors; if two boxes force the same anchor, the first one gets it.

Ignored boxes are matched in the same way: anchors that match them, but no object,
are excluded from the class loss.
"""

import tensorflow as tf

from efficientdet_tf.anchors import AnchorGrid
from efficientdet_tf.box_tensors import intersection_with_box, iou_with_box
from efficientdet_tf.boxes import sizes
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
# Anchors are compared with a box from this share of the least IoU on that matters, and from this
# distance beyond in pixels, so that rounding leaves none out.
_SLACK, _SLACK_PIXELS = 0.95, 0.01


def assign(
    grid: AnchorGrid,
    boxes: tf.Tensor,
    classes: tf.Tensor,
    positive_iou_threshold: float = 0.5,
    ignore_iou_threshold: float = 1.0,
    has_ignored: bool = True,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Compute the training targets of one image, in graph operations.

    Args:
      grid: the N anchors in network pixels, see `anchors.generate`.
      boxes: float32 [n, 4] in network pixels, n may be zero.
      classes: int32 [n], class indices from 0, `IGNORED` or `IGNORED_REGION`.
      positive_iou_threshold: an anchor with at least this IoU is positive. Default 0.5.
      ignore_iou_threshold: other anchors with at least this IoU get the class target
        `IGNORED` (RetinaNet: 0.4). Default 1, none.
      has_ignored: whether a class may be negative; without such boxes, False is faster. Default
        True.

    Returns:
      Class targets, int32 [N], `BACKGROUND` for unmatched anchors, `IGNORED` for those
      matched to an ignored box only or between the two thresholds; box targets, float32
      [N, 4], `box_coder.encode` of the matched box, zero for negative anchors; number of positive
      anchors, float32 scalar.
    """
    boxes = tf.convert_to_tensor(boxes)
    classes = tf.cast(classes, tf.int32)
    if not has_ignored:
        return _assign_objects(grid, boxes, classes, positive_iou_threshold, ignore_iou_threshold)
    is_object = classes >= 0
    class_targets, box_targets, num_positives = _assign_objects(
        grid,
        boxes[is_object],
        classes[is_object],
        positive_iou_threshold,
        ignore_iou_threshold,
    )
    # Most images have no ignored box.
    class_targets = tf.cond(
        tf.reduce_all(is_object),
        lambda: class_targets,
        lambda: _ignore(class_targets, grid, boxes, classes, positive_iou_threshold),
    )
    return class_targets, box_targets, num_positives


def _assign_objects(
    grid: AnchorGrid,
    boxes: tf.Tensor,
    classes: tf.Tensor,
    positive_iou_threshold: float,
    ignore_iou_threshold: float,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Assign anchors to boxes that are all objects."""
    least = min(positive_iou_threshold, ignore_iou_threshold)
    positive, box_of_positive, overlap = _match(grid, boxes, positive_iou_threshold, least)
    deltas = encode(tf.gather(boxes, box_of_positive), tf.gather_nd(grid.boxes, positive))
    num_anchors = len(grid.boxes)
    # Only the few positives are gathered and encoded: 20 times fewer than all.
    box_targets = tf.scatter_nd(positive, deltas, tf.constant([num_anchors, 4], tf.int64))
    unmatched = tf.fill([num_anchors], BACKGROUND)
    if ignore_iou_threshold < positive_iou_threshold:
        unmatched = tf.where(overlap >= ignore_iou_threshold, IGNORED, unmatched)
    class_targets = tf.tensor_scatter_nd_update(
        unmatched, positive, tf.gather(classes, box_of_positive)
    )
    return class_targets, box_targets, tf.cast(tf.shape(positive)[0], tf.float32)


def _ignore(
    class_targets: tf.Tensor,
    grid: AnchorGrid,
    boxes: tf.Tensor,
    classes: tf.Tensor,
    positive_iou_threshold: float,
) -> tf.Tensor:
    """Set background class targets on ignored boxes to `IGNORED`: int32 [N]."""
    threshold = positive_iou_threshold
    matched, *_ = _match(grid, boxes[classes == IGNORED], threshold, threshold)
    ignored = _inside_any(grid.boxes, boxes[classes == IGNORED_REGION])
    ignored = tf.tensor_scatter_nd_update(ignored, matched, tf.fill(tf.shape(matched)[:1], True))
    return tf.where(ignored & (class_targets == BACKGROUND), IGNORED, class_targets)


def _match(
    grid: AnchorGrid, boxes: tf.Tensor, threshold: float, least: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Match anchors to boxes.

    Args:
      grid: the N anchors.
      boxes: float32 [n, 4] in pixels.
      threshold: least IoU of a match.
      least: IoU from which on the result has that of each anchor, at most `threshold`.

    Returns:
      int64 [P, 1], indices of the matched anchors, ascending; int32 [P], their boxes; float32 [N],
      IoU of each anchor with its best box.
    """
    num_anchors, num_boxes = len(grid.boxes), tf.shape(boxes)[0]
    anchor, box = _pairs(grid, boxes, least)
    overlap = iou_with_box(
        tf.unstack(tf.gather(grid.boxes, anchor), axis=1), tf.unstack(tf.gather(boxes, box), axis=1)
    )
    # Anchors without a pair have the least float.
    best_overlap = tf.nn.relu(tf.math.unsorted_segment_max(overlap, anchor, num_anchors))
    is_match = (overlap >= threshold) & (overlap == tf.gather(best_overlap, anchor))
    match = tf.where(is_match & (overlap > 0))[:, 0]

    best_of_box = tf.math.unsorted_segment_max(overlap, box, num_boxes)
    best_anchor = tf.where(overlap == tf.gather(best_of_box, box), anchor, num_anchors)
    best_anchor = tf.math.unsorted_segment_min(best_anchor, box, num_boxes)
    # A box apart from all anchors has the first of them.
    best_anchor = tf.where(best_of_box > 0, best_anchor, 0)

    # An anchor gets the first box that forces it, else the first of its best. Without any, the
    # minimum is the largest integer.
    anchors = tf.concat([best_anchor, tf.gather(anchor, match)], axis=0)
    ranks = tf.concat([tf.range(num_boxes), num_boxes + tf.gather(box, match)], axis=0)
    first = tf.math.unsorted_segment_min(ranks, anchors, num_anchors)
    matched = tf.where(first < 2 * num_boxes)
    return matched, tf.gather_nd(first, matched) % num_boxes, best_overlap


def _pairs(grid: AnchorGrid, boxes: tf.Tensor, least: float) -> tuple[tf.Tensor, tf.Tensor]:
    """List the pairs of an anchor and a box that have to be compared.

    These are all of at least an IoU, and for each box all of its best IoU. The IoU with the anchors
    of a kind falls with the distance from the box in rows and in columns, so those are the ones in
    a range of rows and columns: a few hundred of tens of thousands.

    Returns:
      Indices of the anchors, and of the boxes: int32 [P].
    """
    size, center = sizes(boxes)[:, tf.newaxis], (boxes[:, :2] + boxes[:, 2:])[:, tf.newaxis] / 2
    apart = (size + grid.sizes) / 2
    # Of each kind of anchors, [n, K, 2]: row and column of the box, and of the nearest anchor.
    place = (center - grid.centers) / grid.strides
    nearest = tf.clip_by_value(tf.round(place), 0.0, tf.cast(grid.shapes - 1, tf.float32))
    distance = tf.abs(place - nearest) * grid.strides
    common = tf.nn.relu(tf.minimum(apart - distance, tf.minimum(size, grid.sizes)))
    intersection = tf.reduce_prod(common, axis=-1)
    areas = tf.reduce_prod(size, axis=-1) + tf.reduce_prod(grid.sizes, axis=-1)
    overlap = intersection / (areas - intersection)
    wanted = _SLACK * tf.minimum(tf.reduce_max(overlap, axis=1, keepdims=True), least)

    # The least common height where the common width is the largest, and vice versa.
    needed = tf.math.divide_no_nan(wanted / (1 + wanted) * areas, intersection)
    reach = apart - needed[..., tf.newaxis] * common + _SLACK_PIXELS
    reach = tf.nn.relu(reach) / grid.strides
    begin = tf.maximum(tf.cast(tf.math.ceil(place - reach), tf.int32), 0)
    end = tf.minimum(tf.cast(tf.floor(place + reach), tf.int32) + 1, grid.shapes)
    is_wanted = (overlap >= wanted) & (overlap > 0)
    counts = tf.where(is_wanted[..., tf.newaxis], tf.maximum(end - begin, 0), 0)
    return _anchors_in(grid, begin, counts)


def _anchors_in(
    grid: AnchorGrid, begin: tf.Tensor, counts: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """List the anchors in ranges of rows and columns; result as of `_pairs`.

    Args:
      grid: the anchors, of K kinds.
      begin: int32 [n, K, 2], first row and column of each box and kind.
      counts: int32 [n, K, 2], number of rows and columns.
    """
    num_kinds = len(grid.first)
    first = tf.reshape(grid.first + tf.reduce_sum(begin * grid.steps, axis=-1), [-1])
    num_columns = tf.reshape(counts[..., 1], [-1])
    num_pairs = tf.reshape(tf.reduce_prod(counts, axis=-1), [-1])
    ends = tf.cumsum(num_pairs)
    number = tf.range(tf.reduce_sum(num_pairs))
    # The range that each pair belongs to.
    index = tf.searchsorted(ends, number, side="right")
    about = tf.gather(tf.stack([first, num_columns, ends - num_pairs], axis=1), index)
    first, num_columns, earlier = tf.unstack(about, axis=1)
    number -= earlier
    row, column = number // num_columns, number % num_columns
    row_step, column_step = tf.unstack(tf.gather(grid.steps, index % num_kinds), axis=1)
    return first + row * row_step + column * column_step, index // num_kinds


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
