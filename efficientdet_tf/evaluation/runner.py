"""Runs a detector over a data set and measures what it finds."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from absl import logging
from tqdm import tqdm

from efficientdet_tf.config import Config
from efficientdet_tf.data import pipeline
from efficientdet_tf.data.image_files import read_record, why_unreadable
from efficientdet_tf.data.records import DataError, DetectionData, LabelMap, Record
from efficientdet_tf.detector import Detector
from efficientdet_tf.evaluation.classes import match_classes
from efficientdet_tf.evaluation.coco import CocoEvaluator
from efficientdet_tf.evaluation.result import EvaluationResult
from efficientdet_tf.inference.detection_function import (
    build_postprocessing,
    compiled_candidates,
    detection_function,
)


class Evaluation:
    """A model, a data set and their compiled detection function, to be run again and again.

    Examples:
      evaluation = Evaluation(model, data, config)
      for _ in range(epochs):
          train(model)
          print(evaluation.run().metrics["AP"])

    Args:
      model: of `efficientdet_tf.model.build(config)`; its weights are read when
        a run starts, so one object serves a whole training.
      data: images and objects.
      config: `model`, `anchors`, `detection`, `data.strict` and
        `training.eval_batch_size` are read.
      label_map: the model's classes; None when they are those of the data.

    Raises:
      DataError: when the model does not know a class of the data.
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
        self._detect_round = _detect_round(self._strategy, *steps(model, config))

    def run(self) -> EvaluationResult:
        """COCO metrics of the model as it is now."""
        return self.detect().result()

    def detect(self) -> CocoEvaluator:
        """All detections of the model as it is now, ready to be measured or written.

        The images are shared out among the replicas of the model's strategy; each process gets
        the detections of all.

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
        """Detections of all records, which are taken out of `unread` by position."""
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
    """What each replica does with a batch, and what is done then with those of all."""
    detect = detection_function(model, config)

    def of_replica(images: tf.Tensor, about: dict[str, tf.Tensor]) -> Any:
        found = detect(images, about["scale_to_original"], about["size"])
        return found | {"position": about["position"]}

    return of_replica, lambda found: found


def _compiled_steps(model: keras.Model, config: Config) -> tuple[Callable, Callable]:
    """The same for XLA: NMS, whose shapes follow from the values, is done afterwards."""
    choose, layer = compiled_candidates(model, config), build_postprocessing(config)

    def of_replica(images: tf.Tensor, about: dict[str, tf.Tensor]) -> Any:
        return choose(images) | about

    def finish(chosen: dict[str, tf.Tensor]) -> Any:
        found = layer.suppress_candidates(chosen, chosen["scale_to_original"], chosen["size"])
        return found | {"position": chosen["position"]}

    return of_replica, finish


def _detect_round(
    strategy: tf.distribute.Strategy, of_replica: Callable, finish: Callable
) -> Callable:
    """A function of one batch for each replica that returns the detections of all."""

    def gathered(images: tf.Tensor, about: dict[str, tf.Tensor]) -> Any:
        found = of_replica(images, about)
        if strategy.num_replicas_in_sync == 1:
            return found
        gather = tf.distribute.get_replica_context().all_gather
        # The identity has a device, which an argument has not, and gathering needs one.
        return {name: gather(tf.identity(value), axis=0) for name, value in found.items()}

    @tf.function(autograph=False)
    def of_all(batch: tuple) -> Any:
        found = strategy.run(gathered, args=batch)
        # All replicas have the same.
        return finish(
            {name: strategy.experimental_local_results(value)[0] for name, value in found.items()}
        )

    return of_all


def run_detector(detector: Detector, data: DetectionData, strict: bool = False) -> CocoEvaluator:
    """All detections of an exported artifact, ready to be measured or written.

    Args:
      detector: of any kind; image by image.
      data: images and objects.
      strict: raise when an image cannot be read; else it counts as missed, with a
        warning.

    Raises:
      DataError: when the model does not know a class of the data; when an image
        cannot be read and `strict` is set.
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
    """An error that names the first record that cannot be read."""
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
            "%s: %d of %d images cannot be read and count as missed, the first is %s",
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
    """Takes detections, those of classes that the data set does not have left out."""
    indices = index_in_data[class_indices]
    kept = indices >= 0
    evaluator.add(int(image_id), boxes[kept], scores[kept], indices[kept])


def _progress(items: Iterable, total: int, unit: str) -> tqdm:
    """A bar with the time left, while somebody watches."""
    return tqdm(
        items, "evaluating", total, unit=unit, leave=False, dynamic_ncols=True, disable=None
    )
