"""Anchors against the published ones."""

import numpy as np
import pytest

from efficientdet_tf import anchors

RATIOS = (1.0, 2.0, 0.5)
PAIRS = [[1, 1], [1.4, 0.7], [0.7, 1.4]]
GRIDS = {
    "d0_512_scale4": ((512, 512), 3, 7, 3, RATIOS, 4.0),
    "lite0_320_scale3": ((320, 320), 3, 7, 3, RATIOS, 3.0),
    "rect_384x640_scale4": ((384, 640), 3, 7, 3, RATIOS, 4.0),
    "rect_384x640_scale3": ((384, 640), 3, 7, 3, RATIOS, 3.0),
    "odd_300x420_scale4": ((300, 420), 3, 7, 3, RATIOS, 4.0),
    "small_256_level3to8_scale4": ((256, 256), 3, 8, 3, RATIOS, 4.0),
    "pairs_128_perlevel": ((128, 128), 3, 7, 2, PAIRS, [4, 3, 2, 5, 1]),
}


@pytest.mark.parametrize("name", GRIDS)
def test_grid_equals_the_published_one(goldens, name):
    expected = np.load(goldens / "anchors.npz")[name]
    actual = anchors.generate(*GRIDS[name]).boxes
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", GRIDS)
def test_each_kind_of_anchor_is_on_its_grid(name):
    grid = anchors.generate(*GRIDS[name])
    found = []
    for kind, (num_rows, num_columns) in enumerate(grid.shapes):
        rows, columns = np.meshgrid(range(num_rows), range(num_columns), indexing="ij")
        places = np.stack([rows, columns], axis=-1)
        indices = grid.first[kind] + (places * grid.steps[kind]).sum(-1)
        boxes = grid.boxes[indices]
        centers = grid.centers[kind] + places * grid.strides[kind]
        np.testing.assert_allclose((boxes[..., :2] + boxes[..., 2:]) / 2, centers, atol=1e-3)
        sizes = np.broadcast_to(grid.sizes[kind], centers.shape)
        np.testing.assert_allclose(boxes[..., 2:] - boxes[..., :2], sizes, atol=1e-3)
        found.append(indices.ravel())
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.arange(len(grid.boxes)))


def test_every_golden_grid_is_tested(goldens):
    assert set(np.load(goldens / "anchors.npz").files) == set(GRIDS)


def test_feature_sizes_halve_and_round_up():
    assert anchors.feature_sizes((300, 420), 4) == {
        0: (300, 420),
        1: (150, 210),
        2: (75, 105),
        3: (38, 53),
        4: (19, 27),
    }


def test_one_anchor_row_for_each_place_and_shape():
    sizes = anchors.feature_sizes((200, 136), 7)
    places = sum(h * w for level, (h, w) in sizes.items() if level >= 3)
    assert anchors.generate((200, 136), 3, 7, 3, RATIOS, 4.0).boxes.shape == (places * 9, 4)


def test_equal_arguments_share_one_read_only_array():
    first = anchors.generate((128, 128), 3, 7, 3, RATIOS, 4.0).boxes
    assert anchors.generate([128, 128], 3, 7, 3, list(RATIOS), 4.0).boxes is first
    with pytest.raises(ValueError, match="read-only"):
        first[0, 0] = 1


def test_a_scale_is_needed_for_each_level():
    with pytest.raises(ValueError, match="scale: 2 numbers for the 5 levels 3 to 7"):
        anchors.generate((128, 128), 3, 7, 3, RATIOS, [4.0, 3.0])
