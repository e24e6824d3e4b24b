"""`model.image_size=auto`: the input size from the training set."""

import numpy as np
import pytest

from efficientdet_tf.boxes import areas
from efficientdet_tf.config import Config
from efficientdet_tf.data.input_size import InputSize, choose_input_size, describe, resolve
from efficientdet_tf.data.records import Record


def record_with_squares(height, width, *sides) -> Record:
    """Image with a class of squares per side, at positions of all kinds between the anchors."""
    corners = np.arange(0.0, 50, 1.7)[:, None].repeat(2, axis=1)
    boxes = [np.concatenate([corners, corners + side], axis=1) for side in sides]
    boxes = np.concatenate([np.zeros((0, 4)), *boxes]).astype(np.float32)
    classes = np.arange(len(sides), dtype=np.int32).repeat(len(corners))
    return Record(1, "", height, width, boxes, classes, np.zeros(len(boxes), bool), areas(boxes))


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


@pytest.mark.parametrize(
    ("sides", "expected", "small"),
    [
        # At 288x384 pixels 28 wide, at 352x448 33.
        ((47,), (352, 448), 0),
        # The same as one class of three, as platelets among blood cells.
        ((100, 200, 47), (352, 448), 0),
        # 24, 28 and 34.
        ((100, 40), (416, 544), 0),
        # One class of eleven: less than a tenth of AP.
        ((*range(100, 110), 47), (288, 384), 1 / 11),
        # As small at all sizes.
        ((100, 36), (288, 384), 1 / 2),
    ],
)
@pytest.mark.parametrize("auto_anchors", [False, True])
def test_the_input_is_larger_where_a_class_is_then_no_longer_small(
    sides, expected, small, auto_anchors
):
    config = Config.for_model("efficientdet-lite0", **{"anchors.auto": auto_anchors})
    chosen = choose_input_size(config, [record_with_squares(480, 640, *sides)])
    assert (chosen.size, chosen.small) == (expected, small)


def test_the_line_of_the_input_size_says_gain_and_cost():
    before, chosen = InputSize((320, 320), 0.9314, 0.204), InputSize((384, 512), 0.984, 0.05)
    assert describe(before, before) == (
        "input: 320x320 pixels; best possible recall 0.931; objects below 32 pixels 20%, mean of "
        "the classes"
    )
    assert describe(chosen, before) == (
        "input: 384x512 pixels, in the shape of the images, instead of 320x320; best possible "
        "recall 0.984 instead of 0.931; objects below 32 pixels 5% instead of 20%, mean of the "
        "classes; 1.9 times the computation; for the other, --set model.image_size=320x320"
    )


def test_of_a_set_without_objects_the_line_says_the_shape():
    config = Config.for_model("efficientdet-lite0").override({"model.image_size": "auto"})
    assert resolve(config, [record_with_squares(480, 640)])[1] == (
        "input: 288x384 pixels, in the shape of the images, instead of 320x320; 1.1 times the "
        "computation; for the other, --set model.image_size=320x320"
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
