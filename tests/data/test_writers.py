"""Texts of annotation files: exact, and exact when read again."""

import numpy as np

from efficientdet_tf.data import coco_writer, open_images_writer, voc_writer, yolo_writer
from efficientdet_tf.data.decimals import fraction_text, shortest

SIZE = 100, 200
BOXES = np.array([[10, 20, 30, 60.1], [0, 0, 100, 200]], np.float32)


def test_decimals_are_the_shortest_that_keep_the_number():
    assert shortest(np.float32(0.1)) == 0.1
    assert shortest(BOXES) == [[10, 20, 30, 60.1], [0, 0, 100, 200]]
    assert shortest(np.zeros((0, 4))) == []
    random = np.random.default_rng(0).uniform(0, 4000, 1000).astype(np.float32)
    np.testing.assert_array_equal(np.array(shortest(random), np.float32), random)
    assert [fraction_text(x) for x in (0.5, 1 / 3, 1, -1e-12)] == ["0.5", "0.33333333", "1", "0"]


def test_voc_xml():
    text = voc_writer.annotation_xml("a&b.jpg", SIZE, BOXES, ["cat", "<dog>"], [False, True])
    assert text.startswith(
        "<annotation>\n  <!-- written by efficientdet_tf -->\n  <filename>a&amp;b.jpg</filename>\n"
        "  <size>\n    <width>200</width>\n    <height>100</height>\n    <depth>3</depth>\n"
    )
    assert (
        "  <object>\n    <name>&lt;dog&gt;</name>\n    <difficult>1</difficult>\n    <bndbox>\n"
        "      <xmin>0</xmin>\n      <ymin>0</ymin>\n      <xmax>200</xmax>\n"
        "      <ymax>100</ymax>\n    </bndbox>\n  </object>\n" in text
    )
    assert "<xmax>60.1</xmax>" in text and "confidence" not in text
    text = voc_writer.annotation_xml("a.jpg", SIZE, BOXES[:1], ["cat"], scores=[np.float32(0.9)])
    assert "<difficult>0</difficult>\n    <confidence>0.9</confidence>" in text


def test_yolo_lines():
    lines = yolo_writer.label_lines(SIZE, BOXES, [3, 0])
    assert lines == "3 0.20025 0.2 0.2005 0.2\n0 0.5 0.5 1 1\n"
    scored = yolo_writer.label_lines(SIZE, BOXES[1:], np.array([2]), np.array([0.25], np.float32))
    assert scored == "2 0.5 0.5 1 1 0.25\n"
    assert yolo_writer.label_lines(SIZE, BOXES[:0], []) == ""
    assert yolo_writer.data_yaml(["cat", "Kuh ä"], {"train": "images/train"}) == (
        "# written by efficientdet_tf\ntrain: images/train\nnames:\n  0: cat\n  1: Kuh ä\n"
    )


def test_open_images_rows():
    rows = open_images_writer.box_rows("a", SIZE, BOXES, ["cat", "a,b"], is_crowd=[False, True])
    assert open_images_writer.csv_text([open_images_writer.BOX_COLUMNS, *rows]) == (
        "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,"
        "IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
        "a,efficientdet_tf,cat,1,0.1,0.3005,0.1,0.3,-1,-1,0,-1,-1\n"
        'a,efficientdet_tf,"a,b",1,0,1,0,1,-1,-1,1,-1,-1\n'
    )
    [row] = open_images_writer.box_rows("a", SIZE, BOXES[:1], ["cat"], scores=[0.75])
    assert row[3] == "0.75"


def test_coco_entries_keep_float32_corners():
    random = np.random.default_rng(0).uniform(0, 2000, (500, 2, 2)).astype(np.float32)
    boxes = np.sort(random, axis=1).reshape(-1, 4)
    flags = np.arange(500) % 2 == 1
    entries = coco_writer.annotation_entries(
        7, boxes, [5] * 500, np.full(500, 0.1, np.float32), flags, ~flags, first_id=11
    )
    x, y, width, height = np.array([entry["bbox"] for entry in entries]).T
    read = np.stack([y, x, y + height, x + width], axis=1).astype(np.float32)
    np.testing.assert_array_equal(read, boxes)
    bbox = entries[0].pop("bbox")
    assert all(len(str(number)) < 14 for number in bbox)
    assert entries[0] == {
        **{"id": 11, "image_id": 7, "category_id": 5, "area": 0.1, "iscrowd": 0, "ignore": 1}
    }
    assert entries[1]["iscrowd"] == 1 and "ignore" not in entries[1]
