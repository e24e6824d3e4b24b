"""Raw outputs of a small network, and the detections of the graph's postprocessing in them."""

import numpy as np
import tensorflow as tf

from efficientdet_tf import anchors
from efficientdet_tf.config import Config
from efficientdet_tf.inference.detection_function import build_postprocessing

CONFIG = Config.for_model("efficientdet-lite0").override(
    {
        "model.image_size": 64,
        "model.num_classes": 3,
        "model.max_level": 5,
        "detection.nms": "hard",
        "detection.max_detections": 30,
    }
)
ANCHORS = anchors.from_config(CONFIG)


def random_outputs(size: int, mean: float, num_classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Random box deltas and class logits for a batch."""
    # Seeds that draw no two equal scores, whose order is not defined.
    random = np.random.default_rng(size + 4)
    deltas = random.normal(0, 0.5, (size, len(ANCHORS), 4)).astype(np.float32)
    # One that is too large for an exponential.
    deltas[:, :5, 2:] = 100.0
    logits = random.normal(mean, 2, (size, len(ANCHORS), num_classes)).astype(np.float32)
    return deltas, logits


def detections(config: Config, deltas: np.ndarray, logits: np.ndarray) -> dict[str, np.ndarray]:
    """Postprocess as the graphs do, with boxes in pixels of the network's input."""
    # Like a single level, whose cells have one anchor each.
    maps = {"cls_0": tf.constant(logits[:, :, None]), "box_0": tf.constant(deltas[:, :, None])}
    found = build_postprocessing(config)(maps, ANCHORS, tf.ones([len(deltas), 2]))
    return {name: value.numpy() for name, value in found.items()}
