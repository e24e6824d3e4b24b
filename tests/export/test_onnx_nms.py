"""NMS of ONNX files: that of Keras, for any outputs of the network."""

import numpy as np
import onnx
import onnxruntime
import pytest
from raw_outputs import ANCHORS, CONFIG, detections, random_outputs

from export.onnx_nms import append_nms


def network(num_classes):
    """Model that puts out what it is given."""
    return onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 18]>
        network (
            float[batch, {len(ANCHORS)}, 4] deltas,
            float[batch, {len(ANCHORS)}, {num_classes}] logits
        ) => (
            float[batch, {len(ANCHORS)}, 4] box_deltas,
            float[batch, {len(ANCHORS)}, {num_classes}] class_logits
        ) {{ box_deltas = Identity (deltas) class_logits = Identity (logits) }}
    """)


def detect(config, deltas, logits):
    """Detections of the ONNX graph, by name."""
    model = append_nms(network(config.model.num_classes), config)
    onnx.checker.check_model(model, full_check=True)
    used = {name for node in model.graph.node for name in node.input}
    assert {tensor.name for tensor in model.graph.initializer} <= used
    session = onnxruntime.InferenceSession(model.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"deltas": deltas, "logits": logits})))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"detection.nms_scope": "global"},
        {"detection.pre_nms_top_k": 0, "detection.nms_scope": "global"},
        # The best class of each anchor only; a score of 0 is above no threshold.
        {"detection.pre_nms_top_k": 0, "detection.score_threshold": 0},
        {"detection.iou_threshold": 0.2, "detection.score_threshold": 0.5},
        {"detection.max_detections": 2000},
    ],
)
@pytest.mark.parametrize(("size", "mean"), [(1, -4), (3, -1)])
def test_detections_are_those_of_keras(settings, size, mean):
    config, (deltas, logits) = CONFIG.override(settings), random_outputs(size, mean)
    found = detect(config, deltas, logits)
    expected = detections(config, deltas, logits)
    if config.detection.nms_scope == "global":
        found["boxes"] = np.clip(found["boxes"], 0, 64)
    np.testing.assert_array_equal(found["num_detections"], expected["num_detections"])
    assert (expected["num_detections"] > 20).all()
    np.testing.assert_array_equal(found["class_indices"], expected["classes"])
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-6)
    np.testing.assert_allclose(found["boxes"], expected["boxes"], rtol=1e-5, atol=1e-3)


def test_images_without_detections_have_zeros():
    deltas, logits = random_outputs(2, -4)
    logits[0] = -30
    found = detect(CONFIG, deltas, logits)
    assert found["num_detections"].tolist() == [0, 30]
    for values in found.values():
        assert not np.any(values[0]) and np.any(values[1])


def test_only_the_best_anchors_are_candidates():
    deltas, logits = random_outputs(1, -1)
    config = CONFIG.override({"detection.pre_nms_top_k": 2, "detection.iou_threshold": 1.0})
    found = detect(config, deltas, logits)
    # Two anchors, each with all classes.
    best = np.argsort(logits[0].max(axis=1))[-2:]
    expected = np.sort(1 / (1 + np.exp(-logits[0, best].ravel())))[::-1]
    assert found["num_detections"] == 6
    np.testing.assert_allclose(found["scores"][0, :6], expected, atol=1e-6)


def test_a_single_class():
    config = CONFIG.override({"model.num_classes": 1})
    found = detect(config, *random_outputs(2, -1, num_classes=1))
    assert (found["num_detections"] == 30).all() and not np.any(found["class_indices"])
