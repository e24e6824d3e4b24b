"""Anchors and input sizes that cover the boxes of a data set better.

The aspect ratios are the centres of k-means clusters of the boxes' logarithmic aspect ratios,
as many as the config has, so that the network keeps its shape; the scale is the best of a
range. A proposal never covers less than the config's anchors.
"""

import dataclasses
import itertools
import warnings
from collections.abc import Sequence

import numpy as np

from efficientdet_tf.boxes import sizes
from efficientdet_tf.config import Config
from efficientdet_tf.data.anchor_recall import NetworkBoxes, best_ious, network_boxes
from efficientdet_tf.data.records import LabelMap, Record
from efficientdet_tf.data.statistics import SIZE_LIMITS, SIZES

# COCO's sizes by area in pixels of the original image.
_AREAS = (0, *(side**2 for side in SIZE_LIMITS), np.inf)
COCO_SIZES = dict(zip(SIZES, itertools.pairwise(_AREAS)))
# Factors of the config's scale and of its input size that are tried.
_SCALES = np.geomspace(1 / 4, 2, 25)
_INPUT_SIZES = (0.5, 0.625, 0.75, 0.875, 1, 1.25, 1.5, 1.75, 2, 2.5, 3)
_INPUT_STEP = 64
# Boxes that scales are tried with, and that are left to k-means.
_MOST_TRIED, _MOST_CLUSTERED = 4_000, 100_000
# Least gain of recall or mean IoU that is worth another setting.
_GAIN = 0.005


@dataclasses.dataclass(frozen=True)
class Coverage:
    """Coverage of boxes by anchors.

    Attributes:
      name: name of the boxes, or of the input size.
      count: number of boxes.
      recall: best possible recall: share of the boxes with an anchor of at least
        `anchors.positive_iou_threshold`, 0..1; NaN without boxes.
      mean_iou: mean over the boxes of the best IoU with an anchor, 0..1; NaN without boxes.
    """

    name: str
    count: int
    recall: float
    mean_iou: float


def coverage(name: str, ious: np.ndarray, config: Config) -> Coverage:
    """Summarise the best IoUs of boxes, float [n]."""
    if not len(ious):
        return Coverage(name, 0, np.nan, np.nan)
    covered = float((ious >= config.anchors.positive_iou_threshold).mean())
    return Coverage(name, len(ious), covered, float(ious.mean()))


def by_size(boxes: NetworkBoxes, ious: np.ndarray, config: Config) -> list[Coverage]:
    """Return the coverage of small, medium and large boxes, by COCO's areas."""
    return [
        coverage(name, ious[(boxes.areas >= low) & (boxes.areas < high)], config)
        for name, (low, high) in COCO_SIZES.items()
    ]


def by_class(
    boxes: NetworkBoxes, ious: np.ndarray, label_map: LabelMap, config: Config
) -> list[Coverage]:
    """Return the coverage of each class with boxes, lowest recall first."""
    every = [
        coverage(name, ious[boxes.classes == index], config)
        for index, name in enumerate(label_map.names)
    ]
    return sorted((each for each in every if each.count), key=lambda c: (c.recall, c.mean_iou))


def by_input_size(
    records: Sequence[Record], config: Config
) -> list[tuple[tuple[int, int], Coverage]]:
    """Return the coverage at the config's and at other input sizes, in ascending order.

    Args:
      records: records of the data set.
      config: config with the anchors.

    Returns:
      (height, width) of the network's input in pixels, and the coverage.
    """
    chosen = config.model.image_size
    tried = {tuple(_rounded(side * factor) for side in chosen) for factor in _INPUT_SIZES}
    found = []
    for size in sorted({(height, width) for height, width in tried} | {chosen}):
        boxes = network_boxes(records, size, config.model.resize).boxes
        name = f"{size[0]} x {size[1]}{' (chosen)' if size == chosen else ''}"
        found.append((size, coverage(name, best_ious(boxes, config, size), config)))
    return found


def better_input_size(
    sizes_tried: Sequence[tuple[tuple[int, int], Coverage]], chosen: tuple[int, int]
) -> tuple[tuple[int, int], Coverage] | None:
    """Return the smallest larger input that covers about as much as the best one.

    Args:
      sizes_tried: result of `by_input_size`.
      chosen: the config's input size.

    Returns:
      An item of `sizes_tried`; None if no larger input covers more.
    """
    now = next(found.recall for size, found in sizes_tried if size == chosen)
    larger = [(size, found) for size, found in sizes_tried if size > chosen]
    best = max((found.recall for _, found in larger), default=0.0)
    if not best >= now + _GAIN:
        return None
    return next(pair for pair in larger if pair[1].recall >= max(best - _GAIN, now + _GAIN))


def propose(boxes: np.ndarray, config: Config, fit_ratios: bool = True) -> dict[str, object]:
    """Fit the anchors to boxes.

    Args:
      boxes: float [n, 4], ymin, xmin, ymax, xmax in pixels of the network's input.
      config: config whose number of anchors is kept.
      fit_ratios: whether the aspect ratios may change; published detectors keep theirs.
        Default True.

    Returns:
      Overrides of `anchors.scale` and `anchors.aspect_ratios`; {} if the gain is too small.
    """
    random = np.random.default_rng(0)
    known = boxes[(sizes(boxes) > 0).all(axis=1)]
    if not len(known):
        return {}
    tried = known[random.permutation(len(known))[:_MOST_TRIED]]
    ratios = [config.anchors.aspect_ratios]
    if fit_ratios and (fitted := _cluster(known, config.anchors.aspect_ratios, random)):
        ratios.append(fitted)
    scales = [float(f"{config.anchors.scale * factor:.3g}") for factor in _SCALES]
    candidates = [
        {"anchors.scale": scale, "anchors.aspect_ratios": each}
        for each in ratios
        for scale in scales
        if scale >= 0.01
    ]
    best = max(candidates, key=lambda overrides: _score(tried, config.override(overrides)))
    # All boxes, as the comparison of candidates was with some of them.
    before, after = (
        coverage("", best_ious(boxes, each), each) for each in (config, config.override(best))
    )
    gain = max(after.recall - before.recall, after.mean_iou - before.mean_iou)
    return best if after.recall >= before.recall and gain >= _GAIN else {}


def _score(boxes: np.ndarray, config: Config) -> tuple[float, float]:
    """Return what a proposal maximises: recall, and mean IoU between equal recalls."""
    found = coverage("", best_ious(boxes, config), config)
    return found.recall, found.mean_iou


def _cluster(
    boxes: np.ndarray, ratios: Sequence[float], random: np.random.Generator
) -> tuple[float, ...]:
    """Cluster aspect ratios: as many as `ratios` and in their order; () if there are fewer."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    height, width = sizes(boxes[random.permutation(len(boxes))[:_MOST_CLUSTERED]]).T
    logarithms = np.log(width / height)[:, None]
    if len(np.unique(logarithms)) < len(ratios):
        return ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        clusters = KMeans(len(ratios), n_init=5, random_state=0).fit(logarithms)
    centers = np.sort(np.exp(clusters.cluster_centers_[:, 0]))
    # The position of a ratio among the others decides which outputs of the heads are its own.
    ranks = np.argsort(np.argsort(ratios))
    return tuple(float(f"{centers[rank]:.3g}") for rank in ranks)


def _rounded(side: float) -> int:
    return max(_INPUT_STEP, round(side / _INPUT_STEP) * _INPUT_STEP)
