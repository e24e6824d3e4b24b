"""Decimal numbers of written annotation files: short, and exact when read as float32."""

from typing import Any

import numpy as np

from efficientdet_tf.boxes import to_fractions


def shortest(values: np.ndarray | float) -> Any:
    """Convert to the decimals of fewest digits that round to the same float32.

    Args:
      values: numbers of any shape, e.g. float32 boxes, or one number.

    Returns:
      Numbers of Python in nested lists of the same shape, or one; whole numbers are int.
    """
    array = np.asarray(values, np.float32)
    flat = [_number(value) for value in array.ravel()]
    return np.array(flat, object).reshape(array.shape).tolist()


def fractions(boxes: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Convert float32 boxes in pixels, taken for their shortest decimals, to fractions.

    Args:
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels.
      image_size: (height, width) of the image in pixels.

    Returns:
      float64 [n, 4].
    """
    decimals = np.array(shortest(boxes), np.float64).reshape(-1, 4)
    return to_fractions(decimals, image_size)


def fraction_text(value: float) -> str:
    """Format a fraction of an image's size with eight decimals at most: "0.5", "0.33333333"."""
    text = f"{value:.8f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _number(value: np.float32) -> int | float:
    number = float(str(value))
    return int(number) if number.is_integer() else number
