"""Best IoU of boxes with the anchors, beside the comparison with all of them."""

import numpy as np
import pytest

from efficientdet_tf import anchors
from efficientdet_tf.boxes import pairwise_overlaps
from efficientdet_tf.config import Config
from efficientdet_tf.data import digits
from efficientdet_tf.data.anchor_recall import best_ious, network_boxes


@pytest.mark.parametrize("image_size", [(128, 128), (100, 150)])
def test_the_best_iou_is_that_of_all_anchors(image_size):
    config = Config().override(
        {"model.image_size": image_size, "anchors.scale": 3, "anchors.aspect_ratios": [1, 3, 0.4]}
    )
    random = np.random.default_rng(0)
    corners = np.sort(random.uniform(-5, 105, (300, 2, 2)), axis=1)
    boxes = np.concatenate([corners[:, 0], corners[:, 1]], axis=1)
    expected = pairwise_overlaps(boxes, anchors.from_config(config))[0].max(axis=1)
    np.testing.assert_allclose(best_ious(boxes, config), expected, atol=1e-6)


def test_boxes_are_scaled_as_their_images():
    data = digits.load("train", num_images=3)
    [record] = data.records[:1]
    padded = network_boxes([record], (512, 512), "pad")
    scale = 512 / max(record.height, record.width)
    np.testing.assert_allclose(padded.boxes, record.boxes * scale, rtol=1e-6)
    stretched = network_boxes([record], (512, 256), "stretch")
    factors = np.tile([512 / record.height, 256 / record.width], 2)
    np.testing.assert_allclose(stretched.boxes, record.boxes * factors, rtol=1e-6)
    assert len(network_boxes([], (64, 64), "pad")) == 0
