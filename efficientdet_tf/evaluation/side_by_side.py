"""Ground truth and predictions of an image, drawn side by side."""

import numpy as np
import PIL.Image

from efficientdet_tf.data.record_images import read_record
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.evaluation.confusion import ImageOutcome
from efficientdet_tf.visualization import drawing

# Distinguishable with colour blindness (Okabe and Ito 2008): bluish green, vermilion, grey.
CORRECT = (0, 158, 115)
WRONG = (213, 94, 0)
NOT_COUNTED = drawing.IGNORED_COLOR


def side_by_side(
    outcome: ImageOutcome, label_map: LabelMap, longest_side: int
) -> tuple[PIL.Image.Image, PIL.Image.Image]:
    """Draw ground truth and predictions of an image.

    Ground truth: detected objects green, false negatives orange, crowd regions and
    ignored objects grey. Predictions: true positives green, false positives orange,
    those matched to grey objects grey.

    Args:
      outcome: matched detections of the image.
      label_map: classes.
      longest_side: longest side in pixels; larger images are scaled down to it.

    Returns:
      Two RGB images: ground truth, predictions.

    Raises:
      DataError: when the image cannot be read.
    """
    record = outcome.record
    image, scale = drawing.shrink(PIL.Image.fromarray(read_record(record)), longest_side)
    truth = drawing.draw_detections(
        image,
        record.boxes * scale,
        drawing.class_names(label_map.names, record.classes),
        colors=_colors(outcome.is_detected, ~record.is_counted),
    )
    predicted = drawing.draw_detections(
        image,
        outcome.boxes * scale,
        [label_map.names[i] for i in outcome.classes],
        outcome.scores,
        colors=_colors(outcome.is_true_positive, outcome.is_ignored),
    )
    return truth, predicted


def _colors(is_correct: np.ndarray, is_not_counted: np.ndarray) -> list[tuple[int, int, int]]:
    return [
        NOT_COUNTED if excused else CORRECT if correct else WRONG
        for correct, excused in zip(is_correct, is_not_counted)
    ]
