"""COCO writer: writes and replaces its own files, but no others."""

import json

import pytest

from efficientdet_tf import data
from efficientdet_tf.data import digits
from efficientdet_tf.data.coco_writer import write_coco
from efficientdet_tf.output_files import OutputError


@pytest.fixture(scope="module")
def three():
    return digits.load("val", num_images=3)


def test_what_was_written_before_is_replaced(three, tmp_path):
    for _ in range(2):
        write_coco(three, tmp_path)
    assert len(data.load(str(tmp_path / "annotations.json")).records) == 3


@pytest.mark.parametrize("name", ["annotations.json", "00002.jpg"])
def test_a_file_of_somebody_else_is_not_overwritten(three, tmp_path, name):
    (tmp_path / name).write_text(json.dumps({"images": [{"file_name": "00002.jpg"}]}))
    before = (tmp_path / name).read_bytes()
    with pytest.raises(OutputError) as error:
        write_coco(three, tmp_path)
    assert str(error.value) == (
        f"--output: {tmp_path / name} exists and was not written by this command; "
        "choose another name or folder, or move it away"
    )
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before
