"""One image, six input paths: training, evaluation, Detector, SavedModel, TFLite, ONNX.

The network is a probe whose class logits are pixels of its input, so that the
scores of the detections tell what the network was given, and their boxes where it was.
"""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from efficientdet_tf import anchors
from efficientdet_tf.boxes import pairwise_overlaps
from efficientdet_tf.config import Config
from efficientdet_tf.data import augmenting, pipeline
from efficientdet_tf.data.image_files import read_image
from efficientdet_tf.data.records import DetectionData, LabelMap, Record
from efficientdet_tf.detector import Detector
from export import onnx_model, saved_model, tflite

SIZE = (64, 96)
LABELS = LabelMap((1, 2, 3), ("red", "green", "blue"))
CONFIG = Config.for_model(
    "efficientdet-d0",
    **{
        "model.image_size": f"{SIZE[0]}x{SIZE[1]}",
        "model.num_classes": 3,
        "model.max_level": 5,
        "anchors.num_scales": 1,
        "anchors.aspect_ratios": [1.0],
        "augmentation.horizontal_flip": False,
        "augmentation.scale_min": 1.0,
        "augmentation.scale_max": 1.0,
        "detection.nms": "hard",
        "detection.iou_threshold": 1.0,
        "detection.score_threshold": 0.0,
        "detection.max_detections": 378,
    },
)

EXPORTS = {
    "saved_model": (saved_model.export, "model"),
    "tflite": (tflite.export, "model.tflite"),
    "onnx": (onnx_model.export, "model.onnx"),
}


@pytest.fixture(scope="module", params=["pad", "stretch"])
def config(request):
    return CONFIG.override({"model.resize": request.param})


def probe():
    """Logits of class c are channel c of the input at the corners of the cells."""
    images = keras.Input((*SIZE, 3))
    outputs = {}
    for level in (3, 4, 5):
        pixels = images[:, :: 2**level, :: 2**level, :]
        outputs[f"cls_{level}"] = pixels / 32.0 - 4.0
        zeros = tf.zeros_like(pixels[..., :1])
        outputs[f"box_{level}"] = tf.concat([zeros] * 4, axis=-1)
    return keras.Model(images, outputs)


def expected_scores(network_input):
    """Return the sorted scores of each class of the probe for an input."""
    cells = [network_input[:: 2**level, :: 2**level].reshape(-1, 3) for level in (3, 4, 5)]
    return np.sort(1 / (1 + np.exp(4 - np.concatenate(cells) / 32)), axis=0)


@pytest.fixture(scope="module")
def evaluation_input(photograph, config):
    [(images, _)] = pipeline.evaluation_dataset(data(photograph), config, 1)
    return images[0].numpy()


def data(photograph):
    record = Record(
        image_id=1,
        image=str(photograph),
        height=427,
        width=640,
        boxes=np.zeros((0, 4), np.float32),
        classes=np.zeros(0, np.int32),
        is_crowd=np.zeros(0, bool),
        area=np.zeros(0, np.float32),
    )
    return DetectionData([record], LABELS, source="test")


def test_training_and_evaluation_agree(photograph, config, evaluation_input):
    pixels = tf.constant(read_image(photograph))
    image, _, _ = augmenting.augment(pixels, tf.zeros([0, 4]), config, tf.constant([0, 0]))
    assert evaluation_input.shape == (*SIZE, 3)
    # Padding is the mean colour, outside the image.
    is_padded = np.allclose(evaluation_input[:, -1], config.model.pixel_mean, atol=1e-3)
    assert is_padded == (config.model.resize == "pad")
    np.testing.assert_allclose(image, evaluation_input, atol=1e-2)


@pytest.mark.parametrize("kind", ["detector", "saved_model", "tflite", "onnx"])
def test_exported_models_agree_with_evaluation(
    kind, photograph, config, evaluation_input, tmp_path
):
    model = probe()
    if kind == "detector":
        detector = Detector.from_model(model, config, LABELS)
    else:
        export, name = EXPORTS[kind]
        detector = Detector.load(export(model, config, LABELS, tmp_path / name))
    [found] = detector.detect([photograph])
    scores = np.sort(
        np.stack([found.scores[found.class_indices == i] for i in range(3)], axis=1), axis=0
    )
    assert len(scores) == 126
    expected = expected_scores(evaluation_input)
    assert len(np.unique(expected.round(3))) > 100
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    overlaps, _ = pairwise_overlaps(found.boxes, boxes_in_photograph(config))
    assert overlaps.max(axis=1).min() > 0.999


def boxes_in_photograph(config):
    """Return the anchors, which are the boxes of the probe, in pixels of the photograph."""
    scale = np.array([427 / SIZE[0], 640 / SIZE[1]])
    if config.model.resize == "pad":
        scale = np.full(2, scale.max())
    return np.clip(anchors.from_config(config) * np.tile(scale, 2), 0, [427, 640] * 2)
