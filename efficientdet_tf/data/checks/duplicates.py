"""Search for images of the same content by their fingerprints."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from efficientdet_tf.data.checks.image_properties import Fingerprint
from efficientdet_tf.data.image_groups import ImageGroups

# Most different bits of the codes of equal images, and mean difference in grey levels.
_BITS, _GREY_LEVELS = 5, 6.0
_CODE_BITS = 63
# With one band more than bits may differ, one band at least is equal.
_BANDS = _BITS + 1
# Most images of a band of which all pairs are compared.
_SMALL_BAND = 256
# Images that are compared with another one at once.
_COMPARED = 1 << 13


class _Images(NamedTuple):
    """Distinct images.

    Attributes:
      positions: int [n], their positions among all images.
      codes: uint64 [n], see `Fingerprint`.
      grey: int16 [n, 32, 32], see `Fingerprint`.
    """

    positions: np.ndarray
    codes: np.ndarray
    grey: np.ndarray


def find_duplicates(fingerprints: Sequence[Fingerprint | None]) -> list[int]:
    """Find for each image the first image of the same content.

    Near duplicates are found as well: scaled or re-encoded copies, or the next frames of a
    still video. Images without a fingerprint are equal to none.

    Args:
      fingerprints: fingerprints of n images.

    Returns:
      n positions: of the first image of the same content, which may be the image itself.
    """
    groups = ImageGroups(len(fingerprints))
    images = _distinct(fingerprints, groups)
    for band in _bands(images.codes):
        _join_equal(images, band, groups)
    return groups.first_of_each()


def _distinct(fingerprints: Sequence[Fingerprint | None], groups: ImageGroups) -> _Images:
    """Join images of the same fingerprint, and return the first of each."""
    first: dict[tuple[int, bytes], int] = {}
    for i, fingerprint in enumerate(fingerprints):
        if fingerprint:
            key = fingerprint.code, fingerprint.grey.tobytes()
            groups.join(first.setdefault(key, i), i)
    found = [each for i in first.values() if (each := fingerprints[i])]
    return _Images(
        np.array(list(first.values()), int),
        np.array([each.code for each in found], np.uint64),
        np.array([each.grey for each in found], np.int16),
    )


def _bands(codes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the indices of each two or more images whose codes are equal in a band."""
    width = -(-_CODE_BITS // _BANDS)
    for band in range(_BANDS):
        values = (codes >> np.uint64(band * width)) & np.uint64(2**width - 1)
        order = np.argsort(values, kind="stable")
        bounds = np.flatnonzero(np.diff(values[order])) + 1
        yield from (same for same in np.split(order, bounds) if len(same) > 1)


def _join_equal(images: _Images, band: np.ndarray, groups: ImageGroups) -> None:
    """Join the equal images among those of a band.

    Pairs of one group need no comparison. The frames of a fixed camera are nearly all pairs, so
    in a large band an image that hardly differs from another one is not compared with all
    others in its turn. The others still are with it: chains of equal images, such as those of
    a slowly moving camera, stay together.

    Args:
      images: all distinct images.
      band: int [m], indices of those of the band.
      groups: the groups of equal images, which grow.
    """
    positions, codes = images.positions[band], images.codes[band]
    # Whether their turn is not needed.
    is_done = np.full(len(band), len(band) <= _SMALL_BAND)
    is_large = not is_done.any()
    for k, this in enumerate(positions.tolist()):
        if is_large and is_done[k]:
            continue
        is_apart = groups.labels[positions] != groups.labels[this]
        is_near = np.bitwise_count(codes ^ codes[k]) <= _BITS
        others = np.flatnonzero(is_near & (is_apart | ~is_done))
        differences = _differences(images.grey, int(band[k]), band[others])
        for other in positions[others[differences <= _GREY_LEVELS]].tolist():
            groups.join(this, other)
        is_done[others[differences <= _GREY_LEVELS / 2]] = True


def _differences(grey: np.ndarray, one: int, others: np.ndarray) -> np.ndarray:
    """Return the mean differences of an image from others, in grey levels: float [n].

    Args:
      grey: int16 [all, 32, 32], images in grey.
      one: index of the image.
      others: int [n], indices of the others.
    """
    if not len(others):
        return np.zeros(0)
    parts = [others[begin : begin + _COMPARED] for begin in range(0, len(others), _COMPARED)]
    return np.concatenate([np.abs(grey[part] - grey[one]).mean(axis=(1, 2)) for part in parts])
