"""Input size from the training set: the shape of its images, larger where objects need it."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from efficientdet_tf.boxes import areas
from efficientdet_tf.config import Config
from efficientdet_tf.data.anchor_proposal import coverage
from efficientdet_tf.data.anchor_recall import NetworkBoxes, best_ious, network_boxes
from efficientdet_tf.data.record_columns import RecordColumns
from efficientdet_tf.data.records import Record
from efficientdet_tf.data.statistics import SIZE_LIMITS

# Sides of input sizes are multiples of this; factors of a size that objects may need.
_INPUT_STEP, _FACTORS = 32, (1.0, 1.25, 1.5)
# What is worth a larger one: the least gain of best possible recall, and of the share of objects
# that are not small.
_RECALL_GAIN, _SIZE_GAIN = 0.005, 0.1
_MOST_ASPECT = 3.0
_SMALL = SIZE_LIMITS[0]


@dataclasses.dataclass(frozen=True)
class InputSize:
    """Input size and what anchors find of the training set there.

    Attributes:
      size: height and width in pixels.
      recall: best possible recall, 0..1.
      small: share of the objects that are small as COCO defines it, in pixels of the input: whose
        area is below 32 x 32 pixels. Mean over the classes that have objects, as AP is.
    """

    size: tuple[int, int]
    recall: float
    small: float


def choose_input_size(config: Config, records: Sequence[Record]) -> InputSize:
    """Choose the input size: the images' shape at the config's number of pixels, or larger.

    It is larger, by 1.25 or 1.5 in each direction, if anchors then cover more objects (not with
    `anchors.auto`, whose anchors may cover them at the smaller size), or if fewer are then small.

    Args:
      config: config with anchors and input size.
      records: records of the training set.

    Returns:
      The input size; its sides are multiples of 32.
    """
    size = config.model.image_size
    sizes = RecordColumns.build(records).sizes
    aspect = float(np.median(sizes[:, 1] / sizes[:, 0]))
    aspect = min(_MOST_ASPECT, max(1 / _MOST_ASPECT, aspect))
    height = math.sqrt(size[0] * size[1] / aspect)
    tried = [
        measure(config, records, (_rounded(factor * height), _rounded(factor * height * aspect)))
        for factor in _FACTORS
    ]
    recalls = [0.0 if config.anchors.auto else each.recall for each in tried]
    not_small = [1 - each.small for each in tried]
    return tried[max(_needed(recalls, _RECALL_GAIN), _needed(not_small, _SIZE_GAIN))]


def _needed(values: Sequence[float], gain: float) -> int:
    """Return the index of the first value nearly as good as the best, or 0 if little is gained."""
    enough = max(values[0] + gain, max(values) - gain)
    return next((index for index, value in enumerate(values) if value >= enough), 0)


def resolve(config: Config, records: Sequence[Record]) -> tuple[Config, str]:
    """Choose the input size if it is `auto`, see `choose_input_size`.

    Args:
      config: config with anchors and input size.
      records: records of the training set.

    Returns:
      The config with the chosen size, and a line about it; or the config as it is and "", if the
      size is given or there are no images.
    """
    if not (config.model.auto_image_size and records):
        return config, ""
    before = measure(config, records, config.model.image_size)
    chosen = choose_input_size(config, records)
    settings = {"model.image_size": chosen.size, "model.auto_image_size": True}
    return config.override(settings), describe(chosen, before)


def measure(config: Config, records: Sequence[Record], size: tuple[int, int]) -> InputSize:
    """Measure the objects of a training set and the coverage of anchors at an input size."""
    objects = network_boxes(records, size, config.model.resize)
    recall = coverage("", best_ious(objects.boxes, config, size), config).recall
    return InputSize(size, recall, _share_of_small(objects))


def _share_of_small(objects: NetworkBoxes) -> float:
    counts = np.bincount(objects.classes)
    small = np.bincount(objects.classes, weights=areas(objects.boxes) < _SMALL**2)
    return float(np.mean(small[counts > 0] / counts[counts > 0])) if len(objects) else 0.0


def describe(chosen: InputSize, before: InputSize) -> str:
    """Describe a choice in one line: its gain and its cost.

    Args:
      chosen: chosen input size.
      before: input size of the config.
    """
    is_same = chosen.size == before.size

    def compared(value: Callable[[InputSize], str]) -> str:
        return value(chosen) if is_same else f"{value(chosen)} instead of {value(before)}"

    size = f"input: {_text(chosen.size)} pixels"
    parts = [
        size if is_same else f"{size}, in the shape of the images, instead of {_text(before.size)}"
    ]
    if not math.isnan(chosen.recall):
        parts.append("best possible recall " + compared(lambda each: f"{each.recall:.3f}"))
        shares = compared(lambda each: f"{each.small:.0%}")
        parts.append(f"objects below {_SMALL} pixels {shares}, mean of the classes")
    if not is_same:
        parts.append(f"{math.prod(chosen.size) / math.prod(before.size):.1f} times the computation")
        parts.append(f"for the other, --set model.image_size={_text(before.size)}")
    return "; ".join(parts)


def _text(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))


def _rounded(side: float) -> int:
    return max(2 * _INPUT_STEP, round(side / _INPUT_STEP) * _INPUT_STEP)
