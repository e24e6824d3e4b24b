"""Exported models with each feature network give the detections of Keras."""

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert.interpreter import Interpreter

from cases import few
from efficientdet_tf import anchors
from efficientdet_tf import model as model_lib
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.inference.frozen_network import freeze_network
from export import onnx_model, saved_model, tflite
from keras_layers import pre_nms
from keras_layers.feature_network import NETWORKS

# One name of each class.
NAMES = list({place: name for name, place in reversed(NETWORKS.items())}.values())[::-1]
ATTENTION = ["attention_fpn", "fpt"]
# Nodes, other levels, a second backbone, attention.
KEPT = ("bifpn", "nasfpn", "rfp", "fpt")
LABELS = LabelMap((3, 7), ("ant", "bee"))
NUM_DETECTIONS = 20


@pytest.fixture(scope="module")
def detector(request, network_config):
    """A model with random weights, its config, an image, and its best boxes and scores."""
    name = request.param
    config = network_config(
        name,
        **{
            # The published cell is of five levels; conversion of others is faster with three.
            "model.max_level": 7 if name == "nasfpn" else 5,
            "detection.nms": "hard",
            # NMS keeps all.
            "detection.iou_threshold": 1.0,
            "detection.max_detections": NUM_DETECTIONS,
        },
    )
    keras.utils.set_random_seed(1)
    model = model_lib.build(config)
    random = np.random.default_rng(0)
    for weight in model.weights:
        # Weights initialised to zero would hide a part of the network.
        if not np.any(weight) and "moving_mean" not in weight.name:
            weight.assign(random.normal(size=weight.shape) * 0.1)
    image = random.integers(0, 256, (64, 64, 3), np.uint8)
    outputs = model(image[None].astype(np.float32), training=False)
    best = pre_nms.select(outputs, anchors.from_config(config), NUM_DETECTIONS)
    return model, config, image, best["boxes"], tf.sigmoid(best["logits"])


@pytest.mark.parametrize("detector", few(NAMES, KEPT.__contains__), indirect=True)
def test_tflite(detector, tmp_path):
    model, config, image, boxes, scores = detector
    path = tflite.export(model, config, LABELS, tmp_path / "model.tflite")
    interpreter = Interpreter(model_path=str(path))
    interpreter.allocate_tensors()
    found = interpreter.get_signature_runner()(images=image[None].astype(np.float32))
    np.testing.assert_allclose(found["scores"], scores, atol=1e-4)
    np.testing.assert_allclose(64 * found["boxes"], boxes, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("detector", few(NAMES, KEPT.__contains__), indirect=True)
def test_frozen_network(detector):
    """As it is in a SavedModel: TFLite folds BatchNorm in its own way."""
    model, _, image, _, _ = detector
    expected = model(image[None].astype(np.float32), training=False)
    found = freeze_network(model, image.shape[:2])(tf.constant(image[None], tf.float32))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-4, rtol=1e-4, err_msg=name)


# Of the rest of a SavedModel nothing depends on the feature network.
@pytest.mark.parametrize("detector", ["bifpn", *ATTENTION], indirect=True)
def test_saved_model(detector, tmp_path):
    model, config, image, boxes, scores = detector
    path = saved_model.export(model, config, LABELS, tmp_path / "saved_model")
    found = tf.saved_model.load(str(path)).signatures["serve_images"](images=image[None])
    np.testing.assert_allclose(found["scores"], scores, atol=1e-4)
    np.testing.assert_allclose(found["boxes"], np.clip(boxes, 0, 64), rtol=1e-3, atol=1e-2)


# Those with attention only, as the conversion of all takes a minute.
@pytest.mark.parametrize("detector", ATTENTION, indirect=True)
def test_onnx(detector, tmp_path):
    model, config, image, boxes, scores = detector
    path = onnx_model.export(model, config, LABELS, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(path)
    found = session.run(["scores", "boxes"], {"images": image[None].astype(np.float32)})
    np.testing.assert_allclose(found[0], scores, atol=1e-4)
    np.testing.assert_allclose(found[1], boxes, rtol=1e-3, atol=1e-2)
