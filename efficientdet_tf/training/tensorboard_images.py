"""Ground truth and predictions on some validation images in TensorBoard, by epoch."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import PIL.Image
import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.data.records import DataError, DetectionData, Record
from efficientdet_tf.evaluation.cached_evaluation import CachedEvaluation, Measured
from efficientdet_tf.evaluation.confusion import confusion
from efficientdet_tf.evaluation.detection_arrays import DetectionArrays
from efficientdet_tf.evaluation.side_by_side import side_by_side

_IMAGES, _COLUMNS = 8, 2
_LONGEST_SIDE = 320
_GAP = 4
# The same in all epochs, so that rising scores are visible.
_SCORE_THRESHOLD = 0.3


class TensorBoardImages(keras.callbacks.Callback):
    """Writes an image grid after each evaluation, with ground truth and predictions.

    Left: ground truth, right: predictions, in the colours of
    `side_by_side`. The step is the epoch counted from 0, as for Keras' scalars.

    Args:
      evaluation: evaluation whose latest result is shown, if it is new.
      data: validation set.
      folder: TensorBoard folder of the run; its subfolder `validation` is written to.
    """

    def __init__(
        self, evaluation: CachedEvaluation, data: DetectionData, folder: pathlib.Path
    ) -> None:
        super().__init__()
        self._evaluation = evaluation
        self._data = dataclasses.replace(data, records=_some(data.records))
        self._folder = folder / "validation"
        self._shown: Measured | None = None
        self._writer: Any = None

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        latest = self._evaluation.latest
        if latest is None or latest is self._shown:
            return
        self._shown = latest
        image = draw(self._data, latest.detections)
        if image is None:
            return
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self._folder))
        with self._writer.as_default(), tf.summary.record_if(True):
            tf.summary.image("detections", np.asarray(image)[None], step=epoch)
        self._writer.flush()

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def draw(data: DetectionData, detections: DetectionArrays) -> PIL.Image.Image | None:
    """Draw ground truth and predictions of each image side by side, two images per row.

    Args:
      data: the images.
      detections: predictions; those of other images are ignored.

    Returns:
      An RGB image; None when no image can be read.
    """
    wanted = [record.image_id for record in data.records]
    detections = detections.taken(np.isin(detections.image_ids, wanted))
    pairs = []
    for outcome in confusion(data, detections, _SCORE_THRESHOLD).outcomes:
        try:
            pairs.append(side_by_side(outcome, data.label_map, _LONGEST_SIDE))
        except DataError:
            # The evaluation has already warned.
            continue
    return _grid(pairs) if pairs else None


def _grid(pairs: list[tuple[PIL.Image.Image, PIL.Image.Image]]) -> PIL.Image.Image:
    """Arrange pairs of images in a grid with cells of the largest pair's size."""
    width = 2 * max(image.width for image, _ in pairs) + _GAP
    height = max(image.height for image, _ in pairs)
    columns = min(_COLUMNS, len(pairs))
    rows = -(-len(pairs) // columns)
    size = columns * (width + 3 * _GAP) - 3 * _GAP, rows * (height + _GAP) - _GAP
    grid = PIL.Image.new("RGB", size, "white")
    for i, (left, right) in enumerate(pairs):
        row, column = divmod(i, columns)
        x, y = column * (width + 3 * _GAP), row * (height + _GAP)
        grid.paste(left, (x, y))
        grid.paste(right, (x + left.width + _GAP, y))
    return grid


def _some(records: Sequence[Record]) -> list[Record]:
    """Select records spread over the data set, those with objects if there are any."""
    records = [record for record in records if record.is_counted.any()] or list(records)
    if len(records) <= _IMAGES:
        return records
    return [records[i * len(records) // _IMAGES] for i in range(_IMAGES)]
