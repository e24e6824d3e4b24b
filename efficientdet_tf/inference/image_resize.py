"""Resizing of an image to the network's input, without TensorFlow."""

import dataclasses
import functools
from typing import Self

import numpy as np

from efficientdet_tf.config import Config


@dataclasses.dataclass(frozen=True)
class Resizing:
    """How images of any size are resized to the network's input.

    Attributes:
      image_size: (height, width) of the network's input in pixels.
      method: "pad" or "stretch", see `efficientdet_tf.data.preprocessing.resize`.
      pad_value: RGB of the padding at the bottom or right, 0..255.
    """

    image_size: tuple[int, int]
    method: str
    pad_value: tuple[float, float, float]

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Build the resizing of a config, as in training."""
        return cls(config.model.image_size, config.model.resize, config.model.pixel_mean)


class ImageResize(Resizing):
    """Resizing of arrays; the result is that of `efficientdet_tf.data.preprocessing.resize`."""

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Resize one image.

        Args:
          image: uint8 [h, w, 3], RGB.

        Returns:
          Network input, float32 [H, W, 3], 0..255; scale_to_original, float32 [2],
          original pixels per network pixel, vertically and horizontally; original
          (height, width), int32 [2].
        """
        size = np.array(image.shape[:2], np.int32)
        scale = np.array(self.image_size, np.float32) / size.astype(np.float32)
        scaled_size = self.image_size
        if self.method == "pad":
            scale[:] = scale.min()
            # Truncated as in the published models, but never zero.
            height, width = np.maximum((size.astype(np.float32) * scale).astype(np.int32), 1)
            scaled_size = (int(height), int(width))
        return self._padded(_interpolate(image, scaled_size)), 1 / scale, size

    def _padded(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        if (height, width) == self.image_size:
            return image
        padded = np.empty((*self.image_size, 3), np.float32)
        padded[:height, :width] = image
        padded[:height, width:] = padded[height:] = self.pad_value
        return padded


def _interpolate(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize by bilinear interpolation without antialiasing: float32 [*size, 3].

    In the order of the operations of `tf.image.resize`, for the same bits.
    """
    rows, top, bottom, vertical = _needed_rows(image.shape[0], size[0])
    left, right, horizontal = _neighbours(image.shape[1], size[1])
    # Each row that is needed is interpolated once.
    image = image.take(rows, axis=0) if len(rows) < image.shape[0] else image
    # `take` is faster than indexing.
    lines = _mix(image.take(left, axis=1), image.take(right, axis=1), horizontal[:, None])
    return _mix(lines.take(top, axis=0), lines.take(bottom, axis=0), vertical[:, None, None])


def _mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return `first + (second - first) * share`."""
    first = first.astype(np.float32, copy=False)
    mixed = np.subtract(second, first, dtype=np.float32)
    mixed *= share
    mixed += first
    return mixed


@functools.lru_cache(maxsize=64)
def _needed_rows(length: int, new_length: int) -> tuple[np.ndarray, ...]:
    """Return the rows that are needed, and `_neighbours` with positions among them."""
    first, second, share = _neighbours(length, new_length)
    rows, places = np.unique(np.concatenate([first, second]), return_inverse=True)
    return rows, *np.split(places, 2), share


@functools.lru_cache(maxsize=64)
def _neighbours(length: int, new_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the positions to interpolate between, int [n] twice, and the share of the second."""
    step = np.float32(length) / np.float32(new_length)
    positions = (np.arange(new_length, dtype=np.float32) + np.float32(0.5)) * step
    positions -= np.float32(0.5)
    below = np.floor(positions)
    first = np.maximum(below, 0).astype(np.intp)
    second = np.minimum(np.ceil(positions), length - 1).astype(np.intp)
    return first, second, (positions - below).astype(np.float32)
