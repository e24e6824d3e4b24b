"""Writer of Open Images' CSV: rows of boxes, of images, and of class names."""

import csv
import io
from collections.abc import Iterable, Sequence

import numpy as np

from efficientdet_tf.data.decimals import fraction_text, fractions, shortest

# Columns of the file of boxes, in Open Images' order.
BOX_COLUMNS = (
    *("ImageID", "Source", "LabelName", "Confidence", "XMin", "XMax", "YMin", "YMax"),
    *("IsOccluded", "IsTruncated", "IsGroupOf", "IsDepiction", "IsInside"),
)
# Open Images' value of a flag that nobody annotated.
_UNKNOWN = "-1"


def box_rows(
    image_id: str,
    image_size: tuple[int, int],
    boxes: np.ndarray,
    class_names: Sequence[str],
    is_crowd: Sequence[bool] | np.ndarray = (),
    scores: Sequence[float] | np.ndarray = (),
) -> list[list[str]]:
    """Format the rows of an image in `BOX_COLUMNS`.

    Args:
      image_id: name of the image file without its suffix.
      image_size: (height, width) of the image in pixels.
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels; written as fractions.
      class_names: [n], the column LabelName.
      is_crowd: bool [n], the column IsGroupOf; empty for none. Default empty.
      scores: float [n] in 0..1, the column Confidence; empty for 1, as ground truth has.
        Default empty.
    """
    rows = []
    for index, (ymin, xmin, ymax, xmax) in enumerate(fractions(boxes, image_size).tolist()):
        score = str(shortest(scores[index])) if len(scores) else "1"
        group = str(int(is_crowd[index])) if len(is_crowd) else "0"
        corners = map(fraction_text, (xmin, xmax, ymin, ymax))
        row = [image_id, "efficientdet_tf", class_names[index], score, *corners]
        rows.append([*row, _UNKNOWN, _UNKNOWN, group, _UNKNOWN, _UNKNOWN])
    return rows


def csv_text(rows: Iterable[Sequence[str]]) -> str:
    """Format rows as CSV, with quotes where a value needs them."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()
