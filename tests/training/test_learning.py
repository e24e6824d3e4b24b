"""Overfitting a handful of images, and accuracy of the exported models."""

import dataclasses

import pytest

from efficientdet_tf import data as data_lib
from efficientdet_tf.config import Config
from efficientdet_tf.data import digits
from efficientdet_tf.data.coco_writer import write_coco
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.detector import Detector
from efficientdet_tf.evaluation.runner import run_detector
from efficientdet_tf.run_directory import RunDirectory
from efficientdet_tf.training import train as run_lib
from export import formats
from export.calibration import representative_images

# Hundreds of steps.
pytestmark = [pytest.mark.optimized_graphs, pytest.mark.thorough]


@pytest.fixture(scope="module")
def coco_file(tmp_path_factory):
    """Four images of digits as a COCO file, with category ids that have gaps."""
    folder = tmp_path_factory.mktemp("coco")
    data = digits.load("train", num_images=4)
    label_map = LabelMap(tuple(range(10, 40, 3)), data.label_map.names)
    write_coco(dataclasses.replace(data, label_map=label_map), folder)
    return str(folder / "annotations.json")


@pytest.fixture(scope="module")
def trained(coco_file, tmp_path_factory):
    """A run on these images, and its last evaluation."""
    config = Config.for_model("efficientdet-lite0").override(
        {
            "model.image_size": 96,
            "model.max_level": 5,
            "model.backbone_width": 0.5,
            "model.backbone_depth": 0.1,
            "model.backbone_survival_prob": 1.0,
            "neck.num_filters": 32,
            "neck.num_repeats": 1,
            "model.head_repeats": 1,
            "anchors.scale": 2,
            "data.train": coco_file,
            "data.val": coco_file,
            "data.cache": True,
            "augmentation.horizontal_flip": False,
            "augmentation.scale_min": 1,
            "augmentation.scale_max": 1,
            "optimizer.name": "adam",
            "optimizer.learning_rate": 0.004,
            "optimizer.reference_batch_size": 4,
            "optimizer.warmup_epochs": 0.1,
            # With few steps, a slower average would still hold the initial weights.
            "optimizer.ema_decay": 0.95,
            "training.batch_size": 4,
            "training.epochs": 1,
            "training.steps_per_epoch": 200,
            # Statistics of the published 0.99 follow weights that change this fast too late: AP
            # is lower after three times as many steps.
            "training.batch_norm_momentum": 0.9,
            # The TFLite operator has no soft-NMS.
            "detection.nms": "hard",
        }
    )
    folder = tmp_path_factory.mktemp("run")
    return RunDirectory(folder), run_lib.train(config, str(folder))


def test_the_objects_of_a_handful_of_images_are_detected(trained):
    _, result = trained
    assert result.metrics["AP50"] > 0.9 and result.metrics["AP"] > 0.7
    assert result.num_images == 4


@pytest.fixture(scope="module")
def exporter(trained, coco_file, tmp_path_factory):
    run, _ = trained
    model, config = run.load_model("last"), run.config()
    images = representative_images(data_lib.load(coco_file), config, 4)
    folder = tmp_path_factory.mktemp("export")
    return formats.Exporter(model, config, run.label_map(), folder, images)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        ("saved_model", 1e-6),
        *(("tflite", 0.01), ("tflite_float16", 0.01)),
        *(("tflite_dynamic", 0.05), ("tflite_int8", 0.05)),
        *(("tflite_raw", 0.01), ("tflite_raw_float16", 0.01)),
        *(("tflite_raw_dynamic", 0.05), ("tflite_raw_int8", 0.05)),
    ],
)
def test_an_exported_model_has_the_ap_of_the_run(trained, exporter, coco_file, name, tolerance):
    _, result = trained
    detector = Detector.load(exporter.write(name))
    deployed = run_detector(detector, data_lib.load(coco_file)).result()
    for metric in ("AP", "AP50", "AP75"):
        assert abs(deployed.metrics[metric] - result.metrics[metric]) <= tolerance, metric
