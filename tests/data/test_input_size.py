"""`model.image_size=auto`: the input size from the training set."""

import numpy as np
import pytest

from efficientdet_tf.boxes import areas
from efficientdet_tf.config import Config
from efficientdet_tf.data.input_size import InputSize, choose_input_size, describe, resolve
from efficientdet_tf.data.records import Record


def record_with_squares(height, width, side) -> Record:
    """Image with squares at positions of all kinds between those of the anchors."""
    corners = np.arange(0.0, 50, 1.7)[:, None].repeat(2, axis=1)
    boxes = np.concatenate([corners, corners + side], axis=1).astype(np.float32)
    zeros = np.zeros(len(boxes), bool)
    return Record(1, "", height, width, boxes, zeros.astype(np.int32), zeros, areas(boxes), "")


@pytest.mark.parametrize(
    ("height", "width", "side", "expected"),
    [
        (480, 640, 100, (288, 384)),
        # Covered at no size that is tried: not larger in vain.
        (480, 640, 2, (288, 384)),
        # At 320 pixels 12 wide, half of the smallest anchor's side.
        (640, 640, 24, (480, 480)),
        (100, 3000, 50, (192, 544)),
    ],
)
def test_the_input_has_the_shape_of_the_images_and_is_larger_for_small_objects(
    height, width, side, expected
):
    config = Config.for_model("efficientdet-lite0")
    chosen = choose_input_size(config, [record_with_squares(height, width, side)])
    assert chosen.size == expected and 0 <= chosen.recall <= 1
    scale = min(expected[0] / height, expected[1] / width)
    assert chosen.small == (1 if side * scale < 32 else 0)


def test_the_line_of_the_input_size_says_gain_and_cost():
    before, chosen = InputSize((320, 320), 0.9314, 0.204), InputSize((384, 512), 0.984, 0.05)
    assert describe(before, before) == (
        "input: 320x320 pixels; best possible recall 0.931, 20% of the objects below 32 pixels"
    )
    assert describe(chosen, before) == (
        "input: 384x512 pixels, in the shape of the images, instead of 320x320; best possible "
        "recall 0.984 instead of 0.931, 5% of the objects below 32 pixels instead of 20%, 1.9 "
        "times the computation; for the other, --set model.image_size=320x320"
    )


def test_only_a_size_that_is_auto_is_chosen():
    config, records = Config.for_model("efficientdet-lite0"), [record_with_squares(480, 640, 100)]
    assert resolve(config, records) == (config, "")
    auto = config.override({"model.image_size": "auto"})
    # A set without images has no shape.
    assert resolve(auto, []) == (auto, "")
    chosen, line = resolve(auto, records)
    assert chosen == auto.override({"model.image_size": [288, 384], "model.auto_image_size": True})
    assert line.startswith("input: 288x384 pixels, in the shape of the images, instead of 320x320;")
