"""An image twice: with what is in it, and with what was found."""

import numpy as np
import PIL.Image

from efficientdet_tf.data.image_files import read_record
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.evaluation.confusion import ImageOutcome
from efficientdet_tf.visualization import drawing

# To be told apart by everybody (Okabe and Ito 2008): bluish green, vermilion, grey.
RIGHT = (0, 158, 115)
WRONG = (213, 94, 0)
NOT_COUNTED = drawing.IGNORED_COLOR


def side_by_side(
    outcome: ImageOutcome, label_map: LabelMap, longest_side: int
) -> tuple[PIL.Image.Image, PIL.Image.Image]:
    """The two images.

    In the first, objects that were found are green, missed ones are orange, and
    crowd regions and ignored objects grey; in the second, right detections are
    green, false ones orange, and those on what is grey there are grey.

    Args:
      outcome: of the image.
      label_map: names the classes.
      longest_side: larger images are scaled to this many pixels.

    Raises:
      DataError: when the image cannot be read.
    """
    record = outcome.record
    picture = PIL.Image.fromarray(read_record(record))
    scale = min(1.0, longest_side / max(picture.size))
    size = [max(1, round(side * scale)) for side in picture.size]
    picture = picture.resize(size, PIL.Image.Resampling.LANCZOS)
    truth = drawing.draw_detections(
        picture,
        record.boxes * scale,
        drawing.class_names(label_map.names, record.classes),
        colors=_colors(outcome.found, ~record.is_counted),
    )
    found = drawing.draw_detections(
        picture,
        outcome.boxes * scale,
        [label_map.names[i] for i in outcome.classes],
        outcome.scores,
        colors=_colors(outcome.right, outcome.is_ignored),
    )
    return truth, found


def _colors(is_right: np.ndarray, is_not_counted: np.ndarray) -> list[tuple[int, int, int]]:
    return [
        NOT_COUNTED if excused else RIGHT if right else WRONG
        for right, excused in zip(is_right, is_not_counted)
    ]
