"""Runs a detector over a data set and measures what it finds."""

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tqdm import tqdm

from efficientdet_tf.config import Config
from efficientdet_tf.data import pipeline
from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.evaluation.coco import CocoEvaluator
from efficientdet_tf.evaluation.result import EvaluationResult
from keras_layers.detections import Detections


class Evaluation:
    """A model, a data set and their compiled detection function, to be run again and again.

    Example:
      evaluation = Evaluation(model, data, config)
      for _ in range(epochs):
          train(model)
          print(evaluation.run().metrics["AP"])

    Args:
      model: of `efficientdet_tf.model.build(config)`; its weights are read when
        a run starts, so one object serves a whole training.
      data: images and objects, with the classes of the model in its order.
      config: `model`, `anchors`, `detection`, `data.strict` and
        `training.eval_batch_size` are read.
    """

    def __init__(self, model: keras.Model, data: DetectionData, config: Config):
        self._data = data
        self._dataset = pipeline.evaluation_dataset(data, config, config.training.eval_batch_size)
        self._batches = -(-len(data) // config.training.eval_batch_size)
        self._detect_batch = _detect_function(model, config)

    def run(self) -> EvaluationResult:
        """COCO metrics of the model as it is now."""
        return self.detect().result()

    def detect(self) -> CocoEvaluator:
        """All detections of the model as it is now, ready to be measured or written."""
        evaluator = CocoEvaluator(self._data)
        for images, about in progress(self._dataset, self._batches, "batch"):
            size = tf.stack([about["height"], about["width"]], axis=1)
            found = self._detect_batch(images, about["image_scale"], size)
            found = {name: value.numpy() for name, value in found.items()}
            for i, image_id in enumerate(about["image_id"].numpy()):
                count = found["num_detections"][i]
                evaluator.add(
                    int(image_id),
                    found["boxes"][i, :count],
                    found["scores"][i, :count],
                    found["classes"][i, :count],
                )
        return evaluator


def evaluate(model: keras.Model, data: DetectionData, config: Config) -> EvaluationResult:
    """COCO metrics of a model, once; see `Evaluation`."""
    return Evaluation(model, data, config).run()


def progress(items, total: int, unit: str) -> tqdm:
    """A bar with the time left, while somebody watches."""
    return tqdm(
        items, "evaluating", total, unit=unit, leave=False, dynamic_ncols=True, disable=None
    )


def _detect_function(model: keras.Model, config: Config):
    """Images, scales and sizes of a batch -> detections, traced once for any batch size."""
    detection = config.detection
    layer = Detections(
        config.model.image_size,
        method=detection.nms,
        scope=detection.nms_scope,
        iou_threshold=detection.iou_threshold,
        sigma=detection.sigma,
        score_threshold=detection.score_threshold,
        pre_nms_top_k=detection.pre_nms_top_k,
        max_detections=detection.max_detections,
    )
    anchors = np.asarray(pipeline.anchor_boxes(config))

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, *config.model.image_size, 3], tf.float32),
            tf.TensorSpec([None], tf.float32),
            tf.TensorSpec([None, 2], tf.int32),
        ]
    )
    def detect(images, image_scale, original_size):
        return layer(model(images, training=False), anchors, image_scale, original_size)

    return detect
