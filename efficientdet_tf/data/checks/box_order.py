"""Guess whether the numbers of boxes are in another order than the format demands."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from efficientdet_tf.boxes import from_center, from_xywh, to_center, to_xywh
from efficientdet_tf.data.annotations import Annotations, boxes_array
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
) -> tuple[str, list[Fault]]:
    """Guess from the boxes that leave their image whether all are in another order.

    Args:
      annotations: the data set.
      boxes: for each image float [n, 4], ymin, xmin, ymax, xmax in pixels as read.
      sizes: (height, width) of each image in pixels.

    Returns:
      The name of the other order, for `reordered`, and one fault of the whole set; "" and none
      if the boxes are in the format's order.
    """
    limits = np.concatenate(
        [np.tile([*size, *size], (len(each), 1)) for each, size in zip(boxes, sizes)]
        or [np.zeros((0, 4))]
    )
    read = np.concatenate([*boxes, np.zeros((0, 4))]).astype(np.float64)
    known = np.isfinite(read).all(axis=1)
    read, limits = read[known], limits[known]
    if len(read) < _LEAST_BOXES or annotations.box_form not in _FORMS:
        return "", []
    fitting = _fitting(read, limits)
    if fitting > _FITS_AS_READ * len(read):
        return "", []
    others = {
        form: _fitting(_in_order(read, annotations.box_form, form), limits)
        for form in _FORMS
        if form != annotations.box_form
    }
    best = max(others, key=lambda form: others[form])
    if others[best] < _FITS_OTHERWISE * len(read):
        return "", []
    line = (
        f"{annotations.source}: {annotations.box_field}: {fitting} of {len(read)} boxes are inside "
        f"their image as {_FORMS[annotations.box_form][0]}, {others[best]} as {_FORMS[best][0]}; "
        "they are probably written in that order"
    )
    return best, [Fault("box_order", line, file=annotations.source, field=annotations.box_field)]


def reordered(annotations: Annotations, form: str) -> Annotations:
    """Return annotations whose boxes are read in another order, guessed by `guess_box_order`."""
    images = [
        dataclasses.replace(
            image, boxes=boxes_array(_in_order(image.boxes, annotations.box_form, form)), area=()
        )
        for image in annotations.images
    ]
    return dataclasses.replace(annotations, images=images)


def _in_order(boxes: np.ndarray, given: str, form: str) -> np.ndarray:
    """Read the numbers of boxes, which were read in the order `given`, in another order."""
    return np.stack(_FORMS[form][1](*_numbers(boxes, given).T), axis=-1)


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
