"""Anchor generation (focal-loss paper, section 4).

Boxes are float32 [ymin, xmin, ymax, xmax] in pixels of the network's input.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from efficientdet_tf.config import Config


class AnchorGrid(NamedTuple):
    """Anchors, and the grid that each kind of them is on.

    A kind are the anchors of a level, octave and aspect ratio: all of a size, one at each position
    of the level's feature map. Of K kinds:

    Attributes:
      boxes: float32 [N, 4], the anchors, ymin, xmin, ymax, xmax in pixels.
      sizes: float32 [K, 2], height and width in pixels.
      centers: float32 [K, 2], centre (y, x) of the first anchor in pixels.
      strides: float32 [K, 2], pixels from row to row and from column to column.
      shapes: int32 [K, 2], rows and columns.
      first: int32 [K], index of the first anchor.
      steps: int32 [K, 2], number of anchors from row to row and from column to column.
    """

    boxes: np.ndarray
    sizes: np.ndarray
    centers: np.ndarray
    strides: np.ndarray
    shapes: np.ndarray
    first: np.ndarray
    steps: np.ndarray


def feature_sizes(image_size: tuple[int, int], max_level: int) -> dict[int, tuple[int, int]]:
    """Compute the height and width of each level's feature map.

    Each level has half the size of the previous one, rounded up, as after strided
    convolutions with SAME padding; level 0 is the image itself.

    Args:
      image_size: (height, width) of the network's input in pixels.
      max_level: the coarsest level.

    Returns:
      `{level: (height, width)}` for the levels 0 to `max_level`.
    """
    height, width = image_size
    return {
        level: (-(-height // 2**level), -(-width // 2**level)) for level in range(max_level + 1)
    }


def from_config(config: Config) -> np.ndarray:
    """Generate the anchors of a config: float32 [N, 4] in pixels of the network's input."""
    return grid_from_config(config).boxes


def grid_from_config(config: Config) -> AnchorGrid:
    """Generate the anchors of a config with their grids."""
    return generate(
        config.model.image_size,
        config.model.min_level,
        config.model.max_level,
        config.anchors.num_scales,
        config.anchors.aspect_ratios,
        config.anchors.scale,
    )


def generate(
    image_size: tuple[int, int],
    min_level: int,
    max_level: int,
    num_scales: int,
    aspect_ratios: Sequence[float | Sequence[float]],
    scale: float | Sequence[float],
) -> AnchorGrid:
    """Generate all anchors of an image, ordered by level, row, column, octave, aspect.

    The stride of a level is image size / feature size, a fraction for odd sizes.
    Anchors are centred in the cells; at the border they extend beyond the image.

    Args:
      image_size: (height, width) of the network's input in pixels.
      min_level: the finest level.
      max_level: the coarsest level.
      num_scales: octave steps; sizes are scale * 2 ** (i / num_scales) strides.
      aspect_ratios: width / height of each anchor at equal area, or a pair (x, y) of
        factors of width and height.
      scale: size of the smallest anchor in strides; one number, or one per level from
        `min_level`.

    Returns:
      The anchors with their grids, read-only, because calls with equal arguments share them.

    Raises:
      ValueError: when `scale` does not have one number for each level.
    """
    levels = range(min_level, max_level + 1)
    scales = tuple(scale) if isinstance(scale, Sequence) else (scale,) * len(levels)
    if len(scales) != len(levels):
        raise ValueError(
            f"scale: {len(scales)} numbers for the {len(levels)} levels {min_level} to {max_level}"
        )
    return _generate(tuple(image_size), levels, num_scales, _factors(aspect_ratios), scales)


def _factors(aspect_ratios: Sequence[float | Sequence[float]]) -> tuple[tuple[float, float], ...]:
    """Return width and height factors of each anchor relative to a square of its scale."""
    return tuple(
        (ratio[0], ratio[1]) if isinstance(ratio, Sequence) else (ratio**0.5, ratio**-0.5)
        for ratio in aspect_ratios
    )


def shapes(num_scales: int, aspect_ratios: Sequence[float | Sequence[float]]) -> np.ndarray:
    """Return height and width of a position's anchors, in strides at a scale of 1.

    Args:
      num_scales, aspect_ratios: see `generate`.

    Returns:
      float64 [num_scales, aspect ratios, 2].
    """
    octaves = 2.0 ** (np.arange(num_scales) / num_scales)
    return octaves[:, None, None] * np.array(_factors(aspect_ratios))[None, :, ::-1]


@functools.lru_cache(maxsize=16)
def _generate(
    image_size: tuple[int, int],
    levels: range,
    num_scales: int,
    factors: tuple[tuple[float, float], ...],
    scales: tuple[float, ...],
) -> AnchorGrid:
    maps = feature_sizes(image_size, levels[-1])
    half_shapes = shapes(num_scales, factors) / 2
    grids, num_anchors = [], 0
    for level, scale in zip(levels, scales, strict=True):
        stride = np.array(image_size) / np.array(maps[level])
        extents = (scale * stride * half_shapes).reshape(-1, 2)
        grids.append(_level_grid(maps[level], stride, extents, num_anchors))
        num_anchors += len(grids[-1].boxes)
    grid = AnchorGrid(*map(np.concatenate, zip(*grids)))
    for array in grid:
        array.setflags(write=False)
    return grid


def _level_grid(
    map_size: tuple[int, int], stride: np.ndarray, extents: np.ndarray, first: int
) -> AnchorGrid:
    """Build the anchors of a level from half of their heights and widths, float64 [A, 2]."""
    rows, columns = (np.arange(n) + 0.5 for n in map_size)
    positions = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1) * stride
    centers = positions.reshape(-1, 1, 2)
    boxes = np.concatenate([centers - extents, centers + extents], axis=-1).reshape(-1, 4)
    count = len(extents)

    def repeated(values: ArrayLike, dtype: type) -> np.ndarray:
        return np.tile(np.array(values, dtype), [count, 1])

    return AnchorGrid(
        boxes.astype(np.float32),
        sizes=(2 * extents).astype(np.float32),
        centers=repeated(stride / 2, np.float32),
        strides=repeated(stride, np.float32),
        shapes=repeated(map_size, np.int32),
        first=np.arange(first, first + count, dtype=np.int32),
        steps=repeated([map_size[1] * count, count], np.int32),
    )
