"""Views of an image: pixels, and the way of detections back."""

import numpy as np
import pytest

from efficientdet_tf.inference.detections import Detections
from efficientdet_tf.inference.views import View, ViewError, build_views

SIZE = (50, 80)
PIXELS = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


def detections(*boxes):
    """Make detections of class 0 with the scores 0.9, 0.8, ..."""
    scores = np.linspace(0.9, 0.1, 9)[: len(boxes)]
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        scores.astype(np.float32),
        np.zeros(len(boxes), np.int32),
    )


def test_views_by_name():
    assert build_views([]) == [View()]
    assert build_views(["flip"]) == [View(), View(is_mirrored=True)]
    assert [(view.scale, view.is_mirrored) for view in build_views(["scale"])] == [
        *((1, False), (5 / 6, False), (6 / 5, False)),
    ]
    both = build_views(["scale", "flip", "flip"])
    assert len(both) == len(set(both)) == 6 and both[0] == View()
    with pytest.raises(ViewError, match="^view 'scales': unknown; use flip or scale, or both$"):
        build_views(["flip", "scales"])


def test_the_plain_view_changes_nothing():
    [image] = View().images(PIXELS)
    np.testing.assert_array_equal(image, PIXELS)
    found = detections([1.1, 2.2, 30.3, 40.4], [0, 0, 50, 80])
    same = View().detections([found], SIZE)
    np.testing.assert_array_equal(same.boxes, found.boxes)
    np.testing.assert_array_equal(same.scores, found.scores)


def test_a_mirrored_view_and_back():
    view = View(is_mirrored=True)
    [image] = view.images(PIXELS)
    np.testing.assert_array_equal(image, PIXELS[:, ::-1])
    found = view.detections([detections([1, 10, 30, 25])], SIZE)
    assert found.boxes.tolist() == [[1, 55, 30, 70]]


def test_a_shrunk_view_is_a_larger_canvas():
    view = View(scale=5 / 6)
    [image] = view.images(PIXELS)
    assert image.shape == (60, 96, 3) and image.dtype == np.uint8
    np.testing.assert_array_equal(image[:50, :80], PIXELS)
    assert set(map(tuple, image[50:].reshape(-1, 3))) == {(124, 116, 104)}
    # The second box reaches into the padding, the third lies in it.
    found = view.detections([detections([1, 2, 3, 4], [40, 60, 59, 90], [52, 0, 58, 40])], SIZE)
    assert found.boxes.tolist() == [[1, 2, 3, 4], [40, 60, 50, 80]]
    np.testing.assert_allclose(found.scores, [0.9, 0.8], rtol=1e-6)


def test_an_enlarged_view_is_crops_of_the_corners():
    crops = View(scale=1.25).images(PIXELS)
    parts = [PIXELS[y : y + 40, x : x + 64] for y in (0, 10) for x in (0, 16)]
    assert len(crops) == 4
    for crop, part in zip(crops, parts):
        np.testing.assert_array_equal(crop, part)
        assert crop.flags.c_contiguous


def test_boxes_that_a_crop_cuts_are_left_out():
    in_crops = [
        # Cut by the right side; at the border of the image; cut by the lower side.
        detections([5, 40, 20, 64], [0, 0, 12, 12], [20, 30, 39, 40]),
        # The first whole, and another.
        detections([5, 24, 20, 60], [30, 50, 38, 64]),
        detections(),
        # That at the right border again, in pixels of the fourth crop.
        detections([20, 50, 28, 64]),
    ]
    found = View(scale=1.25).detections(in_crops, SIZE)
    rows = sorted(zip(found.boxes.tolist(), found.scores.tolist()))
    assert [box for box, _ in rows] == [[0, 0, 12, 12], [5, 40, 20, 76], [30, 66, 38, 80]]
    # The best score of an object that two crops have.
    np.testing.assert_allclose([score for _, score in rows], [0.8, 0.9, 0.9], rtol=1e-6)


@pytest.mark.parametrize("view", build_views(["flip", "scale"]), ids=str)
@pytest.mark.parametrize("size", [(50, 80), (1, 1), (20, 31), (7, 301)])
def test_a_box_returns_to_its_place(view, size):
    pixels = np.zeros((*size, 3), np.uint8)
    height, width = -(-size[0] // 2), -(-size[1] // 2)
    pixels[:height, :width] = 255
    found = view.detections([white_area(image) for image in view.images(pixels)], size)
    assert [0, 0, height, width] in found.boxes.tolist()
    assert (found.boxes >= 0).all() and (found.boxes <= [*size, *size]).all()


def white_area(image):
    rows, columns = np.nonzero((image == 255).all(axis=2))
    if not len(rows):
        return detections()
    return detections([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1])
