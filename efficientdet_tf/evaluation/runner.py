"""Evaluation of a detector on a data set."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from absl import logging
from tqdm import tqdm

from efficientdet_tf.config import Config
from efficientdet_tf.data import pipeline
from efficientdet_tf.data.class_matching import match_classes
from efficientdet_tf.data.record_images import read_record, why_unreadable
from efficientdet_tf.data.records import DataError, DetectionData, LabelMap, Record
from efficientdet_tf.detector import Detector
from efficientdet_tf.evaluation.coco import CocoEvaluator
from efficientdet_tf.evaluation.result import EvaluationResult
from efficientdet_tf.inference.detection_function import (
    build_postprocessing,
    compiled_candidates,
    detection_function,
)


class Evaluation:
    """Repeatable evaluation of a model on a data set, with a compiled detection function.

    Examples:
      evaluation = Evaluation(model, data, config)
      for _ in range(epochs):
          train(model)
          print(evaluation.run().metrics["AP"])

    Args:
      model: model of `efficientdet_tf.model.build(config)`; its weights are read when
        a run starts, so one object serves a whole training.
      data: images and ground truth.
      config: `model`, `anchors`, `detection`, `data.strict`, `training.eval_batch_size` and
        `training.xla` are read.
      label_map: classes of the model. Default: those of the data.

    Raises:
      DataError: when the model lacks a class of the data.
    """

    def __init__(
        self,
        model: keras.Model,
        data: DetectionData,
        config: Config,
        label_map: LabelMap | None = None,
    ) -> None:
        batch_size = config.training.eval_batch_size
        self._data = data
        self._is_strict = config.data.strict
        self._index_in_data = match_classes(label_map or data.label_map, data)
        self._strategy = model.distribute_strategy
        self._rounds = -(-len(data) // (batch_size * self._strategy.num_replicas_in_sync))
        self._dataset = self._strategy.distribute_datasets_from_function(
            lambda worker: pipeline.evaluation_dataset(data, config, batch_size, worker)
        )
        compiled = config.training.xla or isinstance(self._strategy, tf.distribute.TPUStrategy)
        steps = _compiled_steps if compiled else _plain_steps
        self._detect_round = _build_detect_round(self._strategy, *steps(model, config))

    def run(self) -> EvaluationResult:
        """Compute the COCO metrics of the model with its current weights."""
        return self.detect().result()

    def detect(self) -> CocoEvaluator:
        """Detect in all images with the current weights.

        The images are divided among the replicas of the model's strategy; every process gets
        all detections.

        Returns:
          The detections, ready to be measured or written.

        Raises:
          DataError: with `data.strict`, for an image that cannot be read.
        """
        unread = dict(enumerate(self._data.records))
        try:
            evaluator = self._detect(unread)
        except tf.errors.OpError as failure:
            error = _unreadable(unread.values()) if self._is_strict else None
            if error is None:
                raise
            raise error from failure
        _warn_of_unread(self._data, list(unread.values()))
        return evaluator

    def _detect(self, unread: dict[int, Record]) -> CocoEvaluator:
        """Detect in all records, and remove them from `unread` by position."""
        evaluator = CocoEvaluator(self._data)
        for batch in _progress(self._dataset, self._rounds, "batch"):
            found = {name: value.numpy() for name, value in self._detect_round(batch).items()}
            for i, position in enumerate(found["position"]):
                if position < 0:
                    continue
                record = unread.pop(int(position))
                count = found["num_detections"][i]
                detections = (found[name][i, :count] for name in ("boxes", "scores", "classes"))
                _add(evaluator, record.image_id, self._index_in_data, *detections)
        return evaluator


def _plain_steps(model: keras.Model, config: Config) -> tuple[Callable, Callable]:
    """Return the function of each replica's batch, and the one of the gathered results."""
    detect = detection_function(model, config)

    def detect_on_replica(images: tf.Tensor, about: dict[str, tf.Tensor]) -> Any:
        found = detect(images, about["scale_to_original"], about["size"])
        return found | {"position": about["position"]}

    return detect_on_replica, lambda found: found


def _compiled_steps(model: keras.Model, config: Config) -> tuple[Callable, Callable]:
    """Return the same for XLA: NMS, whose shapes depend on values, runs afterwards."""
    select_candidates, layer = compiled_candidates(model, config), build_postprocessing(config)

    def detect_on_replica(images: tf.Tensor, about: dict[str, tf.Tensor]) -> Any:
        return select_candidates(images) | about

    def finish(chosen: dict[str, tf.Tensor]) -> Any:
        found = layer.suppress_candidates(chosen, chosen["scale_to_original"], chosen["size"])
        return found | {"position": chosen["position"]}

    return detect_on_replica, finish


def _build_detect_round(
    strategy: tf.distribute.Strategy, detect_on_replica: Callable, finish: Callable
) -> Callable:
    """Make a function of one batch per replica that returns all their detections."""

    def detect_and_gather(images: tf.Tensor, about: dict[str, tf.Tensor]) -> Any:
        found = detect_on_replica(images, about)
        if strategy.num_replicas_in_sync == 1:
            return found
        gather = tf.distribute.get_replica_context().all_gather
        # Gathering needs tensors with a device; unlike an argument, the identity has one.
        return {name: gather(tf.identity(value), axis=0) for name, value in found.items()}

    @tf.function(autograph=False)
    def detect_on_all_replicas(batch: tuple) -> Any:
        found = strategy.run(detect_and_gather, args=batch)
        # After gathering, all replicas have the same.
        return finish(
            {name: strategy.experimental_local_results(value)[0] for name, value in found.items()}
        )

    return detect_on_all_replicas


def run_detector(detector: Detector, data: DetectionData, strict: bool = False) -> CocoEvaluator:
    """Detect in all images with a detector, image by image.

    Args:
      detector: any detector, e.g. of an exported artifact.
      data: images and ground truth.
      strict: raise when an image cannot be read; else warn, and its objects count as
        false negatives. Default False.

    Returns:
      The detections, ready to be measured or written.

    Raises:
      DataError: when the model lacks a class of the data; when an image cannot be
        read and `strict` is set.
    """
    evaluator = CocoEvaluator(data)
    index_in_data = match_classes(detector.label_map, data)
    unread = []
    for record in _progress(data.records, len(data), "image"):
        try:
            pixels = read_record(record)
        except DataError:
            if strict:
                raise
            unread.append(record)
            continue
        [found] = detector.detect([pixels])
        _add(
            evaluator,
            record.image_id,
            index_in_data,
            found.boxes,
            found.scores,
            found.class_indices,
        )
    _warn_of_unread(data, unread)
    return evaluator


def _unreadable(records: Iterable[Record]) -> DataError | None:
    """Return an error that names the first unreadable record, None if all are readable."""
    for record in records:
        reason = why_unreadable(record)
        if reason:
            return DataError(
                f"{record.name or record.image_id}: {reason}; data.strict ends the evaluation at "
                "the first image that cannot be read"
            )
    return None


def _warn_of_unread(data: DetectionData, records: list[Record]) -> None:
    if records:
        logging.warning(
            "%s: %d of %d images cannot be read, their objects are false negatives; first: %s",
            data.source,
            len(records),
            len(data),
            records[0].name or records[0].image_id,
        )


def _add(
    evaluator: CocoEvaluator,
    image_id: int,
    index_in_data: np.ndarray,
    boxes: np.ndarray,
    scores: np.ndarray,
    class_indices: np.ndarray,
) -> None:
    """Add detections, without those of classes that the data set lacks."""
    indices = index_in_data[class_indices]
    kept = indices >= 0
    evaluator.add(int(image_id), boxes[kept], scores[kept], indices[kept])


def _progress(items: Iterable, total: int, unit: str) -> tqdm:
    """Return a progress bar, shown on terminals only."""
    return tqdm(
        items, "evaluating", total, unit=unit, leave=False, dynamic_ncols=True, disable=None
    )
