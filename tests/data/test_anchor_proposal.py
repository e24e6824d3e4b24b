"""Coverage by size, class and input size, and anchors fitted to boxes."""

import numpy as np
import pytest

from efficientdet_tf import anchors
from efficientdet_tf.boxes import from_center
from efficientdet_tf.config import Config
from efficientdet_tf.data import anchor_proposal
from efficientdet_tf.data.anchor_proposal import Coverage, propose
from efficientdet_tf.data.anchor_recall import NetworkBoxes, best_ious
from efficientdet_tf.data.records import LabelMap

CONFIG = Config().override({"model.image_size": 256})


def random_boxes(ratio: float, side: float, spread: float = 0.1, count: int = 300) -> np.ndarray:
    """Boxes about a ratio of width to height and a mean side, somewhere in 256 x 256 pixels."""
    random = np.random.default_rng(0)
    x, y = random.uniform(60, 196, (2, count))
    ratios = ratio * np.exp(random.normal(0, spread, count))
    return np.stack(from_center(x, y, side * ratios**0.5, side / ratios**0.5), axis=-1)


def recall(boxes, config) -> float:
    return anchor_proposal.coverage("", best_ious(boxes, config), config).recall


def test_anchors_are_fitted_to_long_and_small_boxes():
    boxes = random_boxes(ratio=5, side=26)
    overrides = propose(boxes, CONFIG)
    ratios = overrides["anchors.aspect_ratios"]
    # As many, around five, in the order of size of 1, 2, 1/2.
    assert len(ratios) == 3 and ratios[2] < ratios[0] < ratios[1]
    assert all(4 < ratio < 6.5 for ratio in ratios)
    assert overrides["anchors.scale"] < 4
    assert recall(boxes, CONFIG) < 0.1
    assert recall(boxes, CONFIG.override(overrides)) > 0.9


def test_aspect_ratios_may_be_kept():
    overrides = propose(random_boxes(ratio=1, side=12), CONFIG, fit_ratios=False)
    assert overrides["anchors.aspect_ratios"] == (1.0, 2.0, 0.5)
    assert 1 <= overrides["anchors.scale"] <= 2.5


def test_few_distinct_ratios_are_no_clusters():
    boxes = random_boxes(ratio=1, side=12, spread=0)
    assert propose(boxes, CONFIG)["anchors.aspect_ratios"] == (1.0, 2.0, 0.5)


def test_there_is_no_proposal_without_a_gain():
    inner = anchors.from_config(CONFIG)
    inner = inner[(inner.min(axis=1) > 0) & (inner.max(axis=1) < 256)]
    assert propose(inner, CONFIG) == {}
    assert propose(np.zeros((0, 4)), CONFIG) == {}


def test_coverage_by_size_and_class():
    areas = np.array([10.0, 32**2, 96**2 - 1, 96**2, 1e6])
    boxes = NetworkBoxes(np.zeros((5, 4)), np.array([1, 1, 0, 0, 0]), areas)
    ious = np.array([0.1, 0.7, 0.5, 0.49, 0.9])
    assert anchor_proposal.by_size(boxes, ious, CONFIG) == [
        Coverage("small", 1, 0.0, 0.1),
        Coverage("medium", 2, 1.0, 0.6),
        Coverage("large", 2, 0.5, pytest.approx(0.695)),
    ]
    label_map = LabelMap((1, 2, 3), ("cat", "dog", "cow"))
    by_class = anchor_proposal.by_class(boxes, ious, label_map, CONFIG)
    assert [(each.name, each.count, each.recall) for each in by_class] == [
        ("dog", 2, 0.5),
        ("cat", 3, pytest.approx(2 / 3)),
    ]


def test_the_smallest_input_that_covers_about_as_much_as_the_best():
    recalls = {128: 0.5, 256: 0.8, 384: 0.9, 512: 0.951, 640: 0.954, 768: 0.95}
    tried = [((side, side), Coverage("", 1, value, 0.5)) for side, value in recalls.items()]

    def better(side):
        found = anchor_proposal.better_input_size(tried, (side, side))
        return found and found[0]

    assert better(256) == (512, 512)
    assert better(640) is None
