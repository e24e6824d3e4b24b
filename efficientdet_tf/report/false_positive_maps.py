"""Heat maps of the false positives in the worst images."""

from collections.abc import Iterable

import numpy as np
import PIL.Image
import tf_keras as keras

from efficientdet_tf.config import Config
from efficientdet_tf.data.record_images import read_record
from efficientdet_tf.data.records import DataError, LabelMap, Record
from efficientdet_tf.evaluation.confusion import ImageOutcome
from efficientdet_tf.evaluation.side_by_side import WRONG
from efficientdet_tf.inference.explanation import Explainer, Explanation
from efficientdet_tf.visualization.drawing import draw_detections, shrink
from efficientdet_tf.visualization.heat_maps import overlay_heat_map

# Of a detection that anyone would show; the scores of an untrained network are lower.
LEAST_SCORE = 0.05


def explain_false_positives(
    model: keras.Model, config: Config, label_map: LabelMap, outcomes: Iterable[ImageOutcome]
) -> dict[int, Explanation]:
    """Explain the false positive with the highest score in each image, if it is 0.05 or more.

    Args:
      model: network that made the detections.
      config: its config.
      label_map: its classes.
      outcomes: images with their matched detections.

    Returns:
      Explanation by image id, without images that have no such detection or cannot be read, and
      those whose false positive the network does not make again, e.g. in another precision.
    """
    explained = {}
    explainer = None
    for outcome in outcomes:
        wrong = np.flatnonzero(~outcome.is_true_positive & ~outcome.is_ignored)
        if not len(wrong) or outcome.scores[wrong[0]] < LEAST_SCORE:
            continue
        # Made only where it is needed, because it takes seconds.
        explainer = explainer or Explainer(model, config, label_map)
        try:
            pixels = read_record(outcome.record)
        except DataError:
            # The section says so.
            continue
        best = wrong[0]
        found = explainer.explain_box(pixels, outcome.boxes[best], int(outcome.classes[best]))
        if found is not None:
            explained[outcome.record.image_id] = found
    return explained


def draw_false_positive(
    record: Record, explanation: Explanation, label_map: LabelMap, longest_side: int
) -> PIL.Image.Image:
    """Draw the heat map of a false positive over its image, with its box, class and score.

    Args:
      record: image.
      explanation: explanation of the false positive.
      label_map: classes.
      longest_side: longest side in pixels; larger images are scaled down to it.

    Returns:
      An RGB image.

    Raises:
      DataError: when the image cannot be read.
    """
    image, scale = shrink(PIL.Image.fromarray(read_record(record)), longest_side)
    width, height = image.size
    return draw_detections(
        overlay_heat_map(image, explanation.heat_map((height, width))),
        explanation.box[None] * scale,
        [label_map.names[explanation.class_index]],
        np.array([explanation.score]),
        [WRONG],
    )
