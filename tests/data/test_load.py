"""Inference of the format from a path, and messages if there is none."""

import pytest

from efficientdet_tf import data
from efficientdet_tf.data import DataError


def test_digits_are_built_in():
    loaded = data.load("digits", split="val")
    assert len(loaded) == 160
    assert loaded.label_map.names == tuple("0123456789")


def test_an_unknown_format_is_an_error(tmp_path):
    with pytest.raises(DataError) as error:
        data.load(str(tmp_path), format="coc")
    assert str(error.value) == (
        "data.format: 'coc' is unknown; use one of auto, digits, tfds, voc, yolo, tfrecord, "
        "tf_csv, csv, cvat, coco, labelme"
    )


def test_a_path_of_no_format_is_an_error(tmp_path):
    with pytest.raises(DataError) as error:
        data.load(str(tmp_path))
    assert str(error.value) == (
        f"{tmp_path}: not recognised as tfds, voc, yolo, tfrecord, tf_csv, csv, cvat, coco, "
        "labelme; a COCO .json file, or folder with annotations/instances_*.json, a Pascal VOC "
        "folder with Annotations, a YOLO data.yaml, obj.data or classes.txt, .tfrecord files, a "
        ".csv of boxes in pixels or Open Images', CVAT's .xml, a folder of LabelMe's .json files, "
        "or tfds:NAME are"
    )
    with pytest.raises(DataError) as error:
        data.load(str(tmp_path / "missing"))
    assert str(error.value) == f"{tmp_path / 'missing'}: no such file or folder"
    with pytest.raises(DataError) as error:
        data.load("digit")
    assert str(error.value) == "digit: no such file or folder; did you mean 'digits'?"
