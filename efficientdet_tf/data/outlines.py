"""Boxes and areas of outlines: polygons, circles, ellipses and rotated boxes."""

import math
from collections.abc import Sequence

import numpy as np

Points = Sequence[Sequence[float]] | np.ndarray


def box_of_points(points: Points) -> tuple[float, float, float, float]:
    """Return the box (ymin, xmin, ymax, xmax) of points [n, 2], x and y.

    Raises:
      ValueError: if they are not pairs of numbers, or none.
    """
    array = np.array(points, np.float64).reshape(-1, 2)
    (xmin, ymin), (xmax, ymax) = array.min(axis=0), array.max(axis=0)
    return float(ymin), float(xmin), float(ymax), float(xmax)


def area_of_polygon(points: Points) -> float:
    """Return the area that a polygon without crossings encloses."""
    x, y = np.array(points, np.float64).reshape(-1, 2).T
    # Infinite corners have no area; their objects are found by their boxes.
    with np.errstate(invalid="ignore", over="ignore"):
        return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def box_of_ellipse(
    x: float, y: float, x_radius: float, y_radius: float, degrees: float = 0.0
) -> tuple[float, float, float, float]:
    """Return the box (ymin, xmin, ymax, xmax) of an ellipse turned around its centre."""
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    width = math.hypot(x_radius * cosine, y_radius * sine)
    height = math.hypot(x_radius * sine, y_radius * cosine)
    return y - height, x - width, y + height, x + width


def box_of_turned_box(
    xmin: float, ymin: float, xmax: float, ymax: float, degrees: float
) -> tuple[float, float, float, float]:
    """Return the box (ymin, xmin, ymax, xmax) of a box turned around its centre."""
    sine, cosine = abs(math.sin(math.radians(degrees))), abs(math.cos(math.radians(degrees)))
    x, y, width, height = (xmin + xmax) / 2, (ymin + ymax) / 2, xmax - xmin, ymax - ymin
    half_width = (width * cosine + height * sine) / 2
    half_height = (width * sine + height * cosine) / 2
    return y - half_height, x - half_width, y + half_height, x + half_width
