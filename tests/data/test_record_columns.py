"""Records as columns: the same records, made on demand."""

import dataclasses

import numpy as np
import pytest

from efficientdet_tf.data import digits
from efficientdet_tf.data.record_columns import RecordColumns


@pytest.fixture(scope="module")
def records():
    some = list(digits.load("train", num_images=5).records)
    nothing = {
        field.name: getattr(some[1], field.name)[:0]
        for field in dataclasses.fields(some[1])
        if isinstance(getattr(some[1], field.name), np.ndarray)
    }
    some[1] = dataclasses.replace(some[1], **nothing)
    ignored = np.arange(len(some[2].boxes)) == 0
    some[2] = dataclasses.replace(some[2], is_ignored=ignored, is_crowd=~ignored, image="a/b.jpg")
    return some


def assert_equal(one, other):
    for field in dataclasses.fields(one):
        expected, found = getattr(one, field.name), getattr(other, field.name)
        assert type(found) is type(expected), field.name
        np.testing.assert_array_equal(found, expected)
        assert getattr(found, "dtype", None) == getattr(expected, "dtype", None)


def test_they_give_the_records_they_were_built_from(records):
    columns = RecordColumns.build(records)
    assert len(columns) == len(records) == 5
    for one, other in zip(records, columns, strict=True):
        assert_equal(one, other)
    assert_equal(records[-1], columns[-1])
    assert [record.image_id for record in columns[1::2]] == [
        record.image_id for record in records[1::2]
    ]
    with pytest.raises(IndexError):
        columns[5]
    assert RecordColumns.build(columns) is columns
    counted = np.concatenate([record.is_counted for record in records])
    np.testing.assert_array_equal(columns.is_counted, counted)
    lengths = np.bincount(columns.owners, minlength=5)
    assert lengths.tolist() == [len(record.boxes) for record in records] and lengths[1] == 0


def test_blocks_are_joined_in_order(records):
    parts = [RecordColumns.build(part) for part in (records[:2], [], records[2:])]
    joined = RecordColumns.concatenate(parts)
    for one, other in zip(records, joined, strict=True):
        assert_equal(one, other)
    empty = RecordColumns.concatenate([])
    assert len(empty) == 0 and list(empty) == [] and empty.boxes.shape == (0, 4)
