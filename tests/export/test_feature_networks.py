"""Exports of models with each of the feature networks detect what Keras does."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert.interpreter import Interpreter

from efficientdet_tf import model as model_lib
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.inference.detection_function import detection_function
from export import saved_model, tflite
from keras_layers.feature_network import NETWORKS

# One name of each class.
NAMES = list({place: name for name, place in reversed(NETWORKS.items())}.values())[::-1]
LABELS = LabelMap((3, 7), ("ant", "bee"))


@pytest.fixture(scope="module", params=NAMES)
def detector(request, network_config):
    """A model that is sure of some of what it sees, its config, an image and the detections."""
    config = network_config(
        request.param, **{"detection.nms": "hard", "detection.max_detections": 20}
    )
    keras.utils.set_random_seed(1)
    model = model_lib.build(config)
    random = np.random.default_rng(0)
    for weight in model.weights:
        # What starts at zero would hide a part of the network.
        if np.size(weight) and not np.any(weight) and "moving_mean" not in weight.name:
            weight.assign(random.normal(size=weight.shape) * 0.1)
        if "class_head/predict/bias" in weight.name:
            weight.assign(tf.zeros_like(weight) - 1.0)
    image = random.integers(0, 256, (64, 64, 3), np.uint8)
    found = detection_function(model, config)(
        tf.constant(image[None], tf.float32), tf.ones([1]), tf.constant([[64, 64]])
    )
    assert found["num_detections"][0] == 20
    return model, config, image, {name: value.numpy() for name, value in found.items()}


def test_saved_model(detector, tmp_path):
    model, config, image, expected = detector
    path = saved_model.export(model, config, LABELS, tmp_path / "saved_model")
    found = tf.saved_model.load(str(path)).signatures["serve_images"](images=image[None])
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-2)


def test_tflite(detector, tmp_path):
    model, config, image, expected = detector
    path = tflite.export(model, config, LABELS, tmp_path / "model.tflite")
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    found = interpreter.get_signature_runner()(images=image[None].astype(np.float32))
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-3)
