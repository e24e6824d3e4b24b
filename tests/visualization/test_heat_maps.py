"""Heat maps over images, and panels of detections."""

import numpy as np
import PIL.Image

from efficientdet_tf.visualization.drawing import class_color
from efficientdet_tf.visualization.heat_maps import draw_heat_maps, overlay_heat_map

BLUE = PIL.Image.new("RGB", (80, 60), (0, 60, 240))


def test_the_highest_value_is_bright_and_zero_leaves_the_faded_image():
    heat_map = np.zeros((60, 80), np.float32)
    heat_map[20, 30] = 1e-3
    drawn = np.asarray(overlay_heat_map(BLUE, heat_map), int)
    assert drawn.shape == (60, 80, 3)
    # 30 % of the distance from its mean, 100.
    np.testing.assert_array_equal(drawn[0, 0], [70, 88, 142])
    assert (drawn.reshape(-1, 3) == [70, 88, 142]).all(axis=1).sum() == 60 * 80 - 1
    # A quarter of the image, three of inferno's lightest yellow, (252, 255, 164).
    np.testing.assert_array_equal(drawn[20, 30], [207, 213, 159])


def test_only_relative_values_count_and_none_is_no_error():
    heat_map = np.random.default_rng(0).random((60, 80), np.float32)
    one, other = (np.asarray(overlay_heat_map(BLUE, scale * heat_map)) for scale in (1, 1e4))
    assert np.abs(np.subtract(one, other, dtype=int)).max() <= 1
    nothing = np.asarray(overlay_heat_map(BLUE, np.zeros((60, 80), np.float32)))
    assert (nothing == [70, 88, 142]).all()


def test_each_detection_has_a_panel():
    maps = [np.zeros((60, 80), np.float32) for _ in range(3)]
    for number, heat_map in enumerate(maps):
        heat_map[50, 20 * number + 10] = 1.0
    boxes = np.tile(np.array([30, 5, 55, 75], np.float32), (3, 1))
    drawn = draw_heat_maps(BLUE, maps, boxes, ["cat", "dog", "cat"], [0.9, 0.8, 0.7])
    assert drawn.size == (2 * 80 + 4, 2 * 60 + 4)
    for number, (x, y) in enumerate(((0, 0), (84, 0), (0, 64))):
        assert drawn.getpixel((x + 5, y + 45)) == class_color(("cat", "dog", "cat")[number])
        assert drawn.getpixel((x + 20 * number + 10, y + 50)) == (207, 213, 159)
        assert drawn.getpixel((x + 20 * number + 12, y + 50)) == (70, 88, 142)
    # The fourth place is empty.
    assert drawn.getpixel((120, 100)) == (255, 255, 255)


def test_without_detections_it_is_the_image():
    drawn = draw_heat_maps(BLUE, [], np.zeros((0, 4)), [], [])
    assert drawn.size == (80, 60) and drawn.getpixel((40, 30)) == (0, 60, 240)
