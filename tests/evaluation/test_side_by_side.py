"""Ground truth and predictions in colours."""

import dataclasses
import io

import numpy as np
import PIL.Image
import pytest

from efficientdet_tf.data.records import DataError, DetectionData, LabelMap, Record
from efficientdet_tf.evaluation.coco import CocoEvaluator
from efficientdet_tf.evaluation.confusion import confusion
from efficientdet_tf.evaluation.side_by_side import CORRECT, NOT_COUNTED, WRONG, side_by_side

LABELS = LabelMap((1, 2), ("cat", "dog"))
# Side by side, in the lower part, with room for the labels above.
PLACES = np.array([[60, 10, 90, 40], [60, 60, 90, 90], [60, 110, 90, 190]], np.float32)


def outcome(image):
    """A detected object, a false negative, a crowd region, with a detection on each."""
    record = Record(
        image_id=1,
        image=image,
        height=100,
        width=200,
        boxes=PLACES,
        classes=np.zeros(3, np.int32),
        is_crowd=np.array([False, False, True]),
        area=np.ones(3, np.float32),
        name="a.png",
    )
    data = DetectionData([record], LABELS)
    evaluator = CocoEvaluator(data)
    evaluator.add(1, PLACES, [0.9, 0.8, 0.7], [0, 1, 0])
    [made] = confusion(data, evaluator.arrays(), score_threshold=0.5).outcomes
    return made


@pytest.fixture(scope="module")
def png():
    encoded = io.BytesIO()
    PIL.Image.new("RGB", (200, 100)).save(encoded, "PNG")
    return encoded.getvalue()


@pytest.mark.parametrize("longest_side", [1000, 200, 100])
def test_colors_show_true_and_false_positives(png, longest_side):
    images = side_by_side(outcome(png), LABELS, longest_side)
    scale = min(1, longest_side / 200)
    for image in images:
        assert image.size == (200 * scale, 100 * scale)
        # Half down the left edge of each box.
        colors = [image.getpixel((int(x * scale), int(80 * scale))) for x in PLACES[:, 1]]
        assert colors == [CORRECT, WRONG, NOT_COUNTED]


def test_an_ignored_object_of_no_class_is_grey(png):
    made = outcome(png)
    marked = {
        **vars(made.record),
        "classes": np.array([0, 0, -1], np.int32),
        "is_crowd": np.zeros(3, bool),
        "is_ignored": np.array([False, False, True]),
    }
    made = dataclasses.replace(made, record=Record(**marked))
    truth, _ = side_by_side(made, LABELS, 200)
    assert [truth.getpixel((int(x), 80)) for x in PLACES[:, 1]] == [CORRECT, WRONG, NOT_COUNTED]


def test_an_image_that_cannot_be_read_is_named():
    with pytest.raises(DataError, match=r"^a\.png: image: "):
        side_by_side(outcome(b"no image"), LABELS, 100)
