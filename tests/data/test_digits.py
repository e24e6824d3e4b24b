"""Built-in data set: sizes, positions, sources and seeds."""

import io

import numpy as np
import pytest
from PIL import Image

from efficientdet_tf.data import DataError, digits


@pytest.fixture(scope="module")
def train():
    return digits.load("train", num_images=60)


@pytest.fixture(scope="module")
def val():
    return digits.load("val", num_images=20)


def test_records_hold_what_their_images_show(train, val):
    for record in [*train.records, *val.records]:
        image = Image.open(io.BytesIO(record.image))
        assert (image.height, image.width) == (record.height, record.width)
        assert 224 <= record.height <= 288 and 224 <= record.width <= 288
        assert 1 <= len(record.boxes) <= 8
        assert record.boxes.dtype == np.float32 and record.classes.dtype == np.int32
        assert (record.boxes >= 0).all()
        assert (record.boxes[:, 2:] <= [record.height, record.width]).all()
        assert not record.is_crowd.any()


def test_labels_are_the_ten_digits(train):
    assert train.label_map.ids == tuple(range(10))
    assert train.label_map.names == tuple("0123456789")
    classes = np.concatenate([record.classes for record in train.records])
    assert set(classes) == set(range(10))


def test_sizes_spread_from_small_to_large(train):
    heights = np.concatenate([r.boxes[:, 2] - r.boxes[:, 0] for r in train.records])
    assert heights.min() >= 15 and heights.max() <= 170
    # Drawn uniformly, but a free place is more likely for small digits.
    assert 0.45 < np.mean(heights < (20 + 160) / 2) < 0.75


def test_boxes_hardly_overlap(train):
    for record in train.records:
        for i, box in enumerate(record.boxes):
            for other in record.boxes[:i]:
                sides = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
                shared = np.prod(np.maximum(sides, 0))
                assert shared <= 0.05 * min(np.prod(b[2:] - b[:2]) for b in (box, other)) + 1e-3


def test_boxes_are_tight_around_the_ink():
    source = digits.sources("val")
    for digit in source.digits[:20]:
        ink = digits._scaled_ink(digit, 64.0)
        inked = ink >= 0.5
        for border in (inked[0], inked[-1], inked[:, 0], inked[:, -1]):
            assert border.any()


def test_splits_share_no_digit_and_no_part_of_a_photograph():
    train, val = digits.sources("train"), digits.sources("val")
    assert len(train.classes) + len(val.classes) == 1797
    train_digits = {digit.tobytes() for digit in train.digits}
    assert not train_digits & {digit.tobytes() for digit in val.digits}
    for left, right in zip(train.photographs, val.photographs):
        assert left.shape[1] + right.shape[1] == 640


def test_equal_seeds_give_equal_images_and_others_do_not():
    one, again = digits.load("train", seed=3, num_images=4), digits.load("train", 3, 6)
    other = digits.load("train", seed=4, num_images=4)
    for record, same, different in zip(one.records, again.records, other.records):
        assert record.image == same.image
        np.testing.assert_array_equal(record.boxes, same.boxes)
        assert record.image != different.image


def test_another_split_is_an_error():
    with pytest.raises(DataError, match="^digits: unknown split 'test'; use 'train' or 'val'$"):
        digits.load("test")
