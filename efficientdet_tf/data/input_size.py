"""Input size from the training set: the shape of its images, larger where objects need it."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from efficientdet_tf.boxes import areas
from efficientdet_tf.config import Config
from efficientdet_tf.data.anchor_proposal import coverage
from efficientdet_tf.data.anchor_recall import best_ious, network_boxes
from efficientdet_tf.data.record_columns import RecordColumns
from efficientdet_tf.data.records import Record
from efficientdet_tf.data.statistics import SIZE_LIMITS

# Sides of input sizes are multiples of this; factors of a size that objects may need; and the
# least gain of best possible recall that is worth a larger one.
_INPUT_STEP, _FACTORS, _GAIN = 32, (1.0, 1.25, 1.5), 0.005
_MOST_ASPECT = 3.0
_SMALL = SIZE_LIMITS[0]


@dataclasses.dataclass(frozen=True)
class InputSize:
    """Input size and what anchors find of the training set there.

    Attributes:
      size: height and width in pixels.
      recall: best possible recall, 0..1.
      small: share of the objects that are small as COCO defines it, in pixels of the input: whose
        area is below 32 x 32 pixels.
    """

    size: tuple[int, int]
    recall: float
    small: float


def choose_input_size(config: Config, records: Sequence[Record]) -> InputSize:
    """Choose the input size: the images' shape at the config's number of pixels, or larger.

    It is larger, by 1.25 or 1.5 in each direction, if anchors then cover more objects; not with
    `anchors.auto`, whose anchors may cover them at the smaller size.

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
    factors = _FACTORS[:1] if config.anchors.auto else _FACTORS
    tried = [
        measure(config, records, (_rounded(factor * height), _rounded(factor * height * aspect)))
        for factor in factors
    ]
    needed = max(tried[0].recall + _GAIN, max(each.recall for each in tried) - _GAIN)
    return next((each for each in tried if each.recall >= needed), tried[0])


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
    boxes = network_boxes(records, size, config.model.resize).boxes
    recall = coverage("", best_ious(boxes, config, size), config).recall
    return InputSize(size, recall, float(np.mean(areas(boxes) < _SMALL**2)) if len(boxes) else 0.0)


def describe(chosen: InputSize, before: InputSize) -> str:
    """Describe a choice in one line: its gain and its cost.

    Args:
      chosen: chosen input size.
      before: input size of the config.
    """
    line = f"input: {_text(chosen.size)} pixels"
    if chosen.size == before.size:
        return (
            f"{line}; best possible recall {chosen.recall:.3f}, {chosen.small:.0%} of the objects "
            f"below {_SMALL} pixels"
        )
    cost = math.prod(chosen.size) / math.prod(before.size)
    return (
        f"{line}, in the shape of the images, instead of {_text(before.size)}; best possible "
        f"recall {chosen.recall:.3f} instead of {before.recall:.3f}, {chosen.small:.0%} of the "
        f"objects below {_SMALL} pixels instead of {before.small:.0%}, {cost:.1f} times the "
        f"computation; for the other, --set model.image_size={_text(before.size)}"
    )


def _text(size: tuple[int, int]) -> str:
    return "x".join(map(str, size))


def _rounded(side: float) -> int:
    return max(2 * _INPUT_STEP, round(side / _INPUT_STEP) * _INPUT_STEP)
