"""A labelled image for measurements of exported files."""

import numpy as np
import pytest

from efficientdet_tf.boxes import areas
from efficientdet_tf.data.coco_writer import write_coco
from efficientdet_tf.data.records import DetectionData, Record
from efficientdet_tf.detector import Detector
from efficientdet_tf.run_directory import RunDirectory


@pytest.fixture(scope="module")
def data_path(tiny_run, photograph, tmp_path_factory) -> str:
    """The photograph, whose objects are the best detections of the run."""
    [found] = Detector.load(tiny_run).detect([photograph])
    boxes, sources = found.above(0.9), RunDirectory(tiny_run).label_map()
    record = Record(
        image_id=1,
        image=photograph.read_bytes(),
        height=427,
        width=640,
        boxes=boxes.boxes,
        classes=boxes.class_indices,
        is_crowd=np.zeros(len(boxes), bool),
        area=areas(boxes.boxes),
        name=str(photograph),
    )
    folder = tmp_path_factory.mktemp("labelled")
    write_coco(DetectionData([record], sources, source="made"), folder)
    return str(folder / "annotations.json")
