"""Best possible recall: how well the anchors of a config cover the boxes of a data set.

A box is covered if an anchor overlaps it with at least `anchors.positive_iou_threshold`.
Others are learned only from the one anchor that overlaps them most. The idea is that of
YOLO's check of anchors, with the true positions of the anchors.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from efficientdet_tf import anchors
from efficientdet_tf.boxes import areas, sizes
from efficientdet_tf.config import Config
from efficientdet_tf.data.record_columns import RecordColumns
from efficientdet_tf.data.records import Record
from efficientdet_tf.data.statistics import input_scales

# Boxes compared at once.
_CHUNK = 1 << 14


@dataclasses.dataclass(frozen=True)
class NetworkBoxes:
    """The counted boxes of a data set, as the network sees them.

    Attributes:
      boxes: float64 [n, 4], ymin, xmin, ymax, xmax in pixels of the network's input.
      classes: int64 [n], class indices.
      areas: float64 [n], annotated areas in pixels of the original images.
    """

    boxes: np.ndarray
    classes: np.ndarray
    areas: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)


def network_boxes(
    records: Sequence[Record], image_size: tuple[int, int], resize: str
) -> NetworkBoxes:
    """Scale the boxes of records as their images are, without augmentation.

    Args:
      records: records; crowd regions and ignored objects are left out.
      image_size: (height, width) of the network's input in pixels.
      resize: "pad" or "stretch", see `data.preprocessing.resize`.
    """
    columns = RecordColumns.build(records)
    counted = columns.is_counted
    scales = input_scales(columns, image_size, resize)[columns.owners[counted]]
    return NetworkBoxes(
        columns.boxes[counted] * np.tile(scales, (1, 2)),
        columns.classes[counted].astype(np.int64),
        columns.area[counted].astype(np.float64),
    )


def best_ious(
    boxes: np.ndarray, config: Config, image_size: tuple[int, int] | None = None
) -> np.ndarray:
    """Compute for each box its IoU with the anchor that overlaps it most.

    Of all anchors of a shape it is the one whose centre is nearest in each direction.

    Args:
      boxes: float [n, 4], ymin, xmin, ymax, xmax in pixels of the network's input.
      config: config with the anchors and the levels.
      image_size: (height, width) of the network's input; None is the config's. Default None.

    Returns:
      float64 [n], 0..1.
    """
    size = np.array(image_size or config.model.image_size)
    features = anchors.feature_sizes(tuple(size.tolist()), config.model.max_level)
    shapes = anchors.shapes(config.anchors.num_scales, config.anchors.aspect_ratios)
    shapes = config.anchors.scale * shapes.reshape(-1, 2)
    best = np.zeros(len(boxes))
    for start in range(0, len(boxes), _CHUNK):
        part = np.asarray(boxes[start : start + _CHUNK], np.float64)
        middle = (part[:, :2] + part[:, 2:]) / 2
        for level in range(config.model.min_level, config.model.max_level + 1):
            cells = np.array(features[level])
            stride = size / cells
            center = (np.clip(np.floor(middle / stride), 0, cells - 1) + 0.5) * stride
            ious = _ious(part, center, shapes * stride).max(axis=1)
            best[start : start + _CHUNK] = np.maximum(best[start : start + _CHUNK], ious)
    return best


def _ious(boxes: np.ndarray, centers: np.ndarray, extents: np.ndarray) -> np.ndarray:
    """Compute the IoU of n boxes with k anchors each, about centres [n, 2]: [n, k]."""
    low = centers[:, None] - extents / 2
    high = centers[:, None] + extents / 2
    common = np.minimum(boxes[:, None, 2:], high) - np.maximum(boxes[:, None, :2], low)
    common = common.clip(0).prod(axis=-1)
    union = areas(boxes)[:, None] + extents.prod(axis=-1) - common
    return common / np.maximum(union, 1e-12)


def is_small(boxes: np.ndarray, ious: np.ndarray, config: Config) -> np.ndarray:
    """Tell which boxes no anchor covers because they are smaller than the smallest anchor.

    Args:
      boxes: float [n, 4] in pixels of the network's input.
      ious: float [n], their `best_ious`.
      config: config with the anchors.

    Returns:
      bool [n].
    """
    smallest = config.anchors.scale * 2**config.model.min_level
    mean_side = np.sqrt(sizes(boxes).clip(0).prod(axis=-1))
    return (ious < config.anchors.positive_iou_threshold) & (mean_side < smallest)
