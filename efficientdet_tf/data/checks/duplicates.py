"""Search for images of the same content by their fingerprints."""

from collections.abc import Iterator, Sequence

import numpy as np

from efficientdet_tf.data.checks.image_properties import Fingerprint

# Most different bits of the codes of equal images, and mean difference in grey levels.
_BITS, _GREY_LEVELS = 5, 6.0
_CODE_BITS = 63
# With one band more than bits may differ, one band at least is equal.
_BANDS = _BITS + 1
# Pairs compared at once.
_CHUNK = 1 << 20


def find_duplicates(fingerprints: Sequence[Fingerprint | None]) -> list[int]:
    """Find for each image the first image of the same content.

    Near duplicates are found as well: scaled or re-encoded copies, or the next frames of a
    still video. Images without a fingerprint are equal to none.

    Args:
      fingerprints: fingerprints of n images.

    Returns:
      n positions: of the first image of the same content, which may be the image itself.
    """
    known = [i for i, fingerprint in enumerate(fingerprints) if fingerprint]
    found = [fingerprints[i] for i in known]
    codes = np.array([each.code for each in found if each], np.uint64)
    grey = np.array([each.grey for each in found if each], np.int16)
    first = list(range(len(fingerprints)))

    def root(position: int) -> int:
        while first[position] != position:
            position = first[position]
        return position

    for left, right in _candidates(codes):
        near = np.bitwise_count(codes[left] ^ codes[right]) <= _BITS
        left, right = left[near], right[near]
        difference = np.abs(grey[left] - grey[right]).mean(axis=(1, 2))
        equal = difference <= _GREY_LEVELS
        for i, j in zip(left[equal].tolist(), right[equal].tolist()):
            low, high = sorted((root(known[i]), root(known[j])))
            first[high] = low
    return [root(position) for position in range(len(first))]


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
