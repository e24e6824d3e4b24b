"""Guess whether the numbers of boxes are in another order than the format demands."""

from collections.abc import Callable, Sequence

import numpy as np

from efficientdet_tf.boxes import from_center, from_xywh, to_center, to_xywh
from efficientdet_tf.data.annotations import Annotations
from efficientdet_tf.data.faults import Fault

# Name of an order, and the boxes of its four numbers.
_FORMS: dict[str, tuple[str, Callable]] = {
    "xyxy": ("[xmin, ymin, xmax, ymax]", lambda a, b, c, d: (b, a, d, c)),
    "xywh": ("[xmin, ymin, width, height]", from_xywh),
    "cxcywh": ("[x_center, y_center, width, height]", from_center),
    "yxyx": ("[ymin, xmin, ymax, xmax]", lambda *corners: corners),
}
# A few boxes fit, or not, by chance.
_LEAST_BOXES = 4
# Share of boxes that fit as read, at most, and in the other order, at least.
_FITS_AS_READ, _FITS_OTHERWISE = 0.75, 0.98
# Rounding puts boxes slightly outside.
_TOLERANCE_PIXELS = 1.5


def guess_box_order(
    annotations: Annotations, boxes: Sequence[np.ndarray], sizes: Sequence[tuple[int, int]]
) -> list[Fault]:
    """Guess from the boxes that leave their image whether all are in another order.

    Args:
      annotations: the data set.
      boxes: for each image float [n, 4], ymin, xmin, ymax, xmax in pixels as read.
      sizes: (height, width) of each image in pixels.

    Returns:
      One fault of the whole set, or none.
    """
    limits = np.concatenate(
        [np.tile([*size, *size], (len(each), 1)) for each, size in zip(boxes, sizes)]
        or [np.zeros((0, 4))]
    )
    read = np.concatenate([*boxes, np.zeros((0, 4))]).astype(np.float64)
    known = np.isfinite(read).all(axis=1)
    read, limits = read[known], limits[known]
    if len(read) < _LEAST_BOXES or annotations.box_form not in _FORMS:
        return []
    fitting = _fitting(read, limits)
    if fitting > _FITS_AS_READ * len(read):
        return []
    numbers = _numbers(read, annotations.box_form)
    others = {
        form: _fitting(np.stack(convert(*numbers.T), axis=-1), limits)
        for form, (_, convert) in _FORMS.items()
        if form != annotations.box_form
    }
    best = max(others, key=lambda form: others[form])
    if others[best] < _FITS_OTHERWISE * len(read):
        return []
    line = (
        f"{annotations.source}: {annotations.box_field}: {fitting} of {len(read)} boxes are inside "
        f"their image as {_FORMS[annotations.box_form][0]}, {others[best]} as {_FORMS[best][0]}; "
        "they are probably written in that order"
    )
    return [Fault("box_order", line, file=annotations.source, field=annotations.box_field)]


def _numbers(boxes: np.ndarray, form: str) -> np.ndarray:
    """Return the four numbers of boxes in the order that they were read in: [n, 4]."""
    if form == "xywh":
        return to_xywh(boxes)
    # Rows first.
    return to_center(boxes)[:, [1, 0, 3, 2]]


def _fitting(boxes: np.ndarray, limits: np.ndarray) -> int:
    """Count the boxes with ordered corners inside their image."""
    inside = (boxes >= -_TOLERANCE_PIXELS) & (boxes <= limits + _TOLERANCE_PIXELS)
    return int((inside.all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)).sum())
