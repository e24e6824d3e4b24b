"""Search for images of the same content by their fingerprints."""

from collections.abc import Iterator, Sequence

import numpy as np

from efficientdet_tf.data.checks.image_properties import Fingerprint
from efficientdet_tf.data.image_groups import first_of_groups

# Most different bits of the codes of equal images, and mean difference in grey levels.
_BITS, _GREY_LEVELS = 5, 6.0
_CODE_BITS = 63
# With one band more than bits may differ, one band at least is equal.
_BANDS = _BITS + 1
# Pairs whose codes, and whose images, are compared at once.
_CHUNK, _COMPARED = 1 << 20, 1 << 13


def find_duplicates(fingerprints: Sequence[Fingerprint | None]) -> list[int]:
    """Find for each image the first image of the same content.

    Near duplicates are found as well: scaled or re-encoded copies, or the next frames of a
    still video. Images without a fingerprint are equal to none.

    Args:
      fingerprints: fingerprints of n images.

    Returns:
      n positions: of the first image of the same content, which may be the image itself.
    """
    return first_of_groups(len(fingerprints), _pairs(fingerprints))


def _pairs(fingerprints: Sequence[Fingerprint | None]) -> Iterator[tuple[int, int]]:
    """Yield positions of two images of equal content, of each such group enough to join it."""
    # Copies of a file are many pairs, so only the first of them is compared.
    distinct: dict[tuple[int, bytes], int] = {}
    for i, fingerprint in enumerate(fingerprints):
        if fingerprint:
            key = fingerprint.code, fingerprint.grey.tobytes()
            yield i, distinct.setdefault(key, i)
    known = list(distinct.values())
    found = [fingerprints[i] for i in known]
    codes = np.array([each.code for each in found if each], np.uint64)
    grey = np.array([each.grey for each in found if each], np.int16)
    for left, right in _candidates(codes):
        near = np.bitwise_count(codes[left] ^ codes[right]) <= _BITS
        for i, j in _equal_pairs(left[near], right[near], grey):
            yield known[i], known[j]


def _equal_pairs(
    left: np.ndarray, right: np.ndarray, grey: np.ndarray
) -> Iterator[tuple[int, int]]:
    """Yield the pairs of positions whose images are equal in grey."""
    for begin in range(0, len(left), _COMPARED):
        i, j = left[begin : begin + _COMPARED], right[begin : begin + _COMPARED]
        equal = np.abs(grey[i] - grey[j]).mean(axis=(1, 2)) <= _GREY_LEVELS
        yield from zip(i[equal].tolist(), j[equal].tolist())


def _candidates(codes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield positions of pairs whose codes are equal in a band, in chunks."""
    width = -(-_CODE_BITS // _BANDS)
    for band in range(_BANDS):
        values = (codes >> np.uint64(band * width)) & np.uint64(2**width - 1)
        order = np.argsort(values, kind="stable")
        bounds = np.flatnonzero(np.diff(values[order])) + 1
        pairs, count = [], 0
        for group in np.split(order, bounds):
            for i in range(len(group) - 1):
                pairs.append((np.full(len(group) - i - 1, group[i]), group[i + 1 :]))
                count += len(group) - i - 1
                if count > _CHUNK:
                    yield _joined(pairs)
                    pairs, count = [], 0
        if pairs:
            yield _joined(pairs)


def _joined(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    left, right = zip(*pairs)
    return np.concatenate(left), np.concatenate(right)
