"""Detection of images shared by the training and the validation set, which inflate the metrics."""

import collections
import hashlib
import os
from collections.abc import Callable, Hashable, Iterable, Sequence

from absl import logging

from efficientdet_tf.data.records import DetectionData, Record

_SAMPLE_BYTES = 4096

_Groups = list[tuple[Sequence[Record], Sequence[Record]]]


def warn_of_shared_images(train: DetectionData, val: DetectionData) -> None:
    """Log one warning if validation images are also training images."""
    shared = shared_images(train, val)
    if not shared:
        return
    trained, measured = shared[0]
    same = "" if trained.name == measured.name else f", which is {trained.name} there"
    logging.warning(
        "%s: %d of its %d images are also in the training set, e.g. %s%s; the metrics will be "
        "too good",
        *(val.source, len(shared), len(val), measured.name, same),
    )


def shared_images(train: DetectionData, val: DetectionData) -> list[tuple[Record, Record]]:
    """Find validation images whose file is byte-identical to one of the training set.

    Only files whose size occurs in both sets are read.

    Args:
      train: the training set.
      val: the validation set.

    Returns:
      Pairs (training record, validation record) of the same content, one for each
      shared validation image, in the order of the validation set.
    """
    by_path = {record.image: record for record in train.records if isinstance(record.image, str)}
    found = [(by_path[r.image], r) for r in val.records if r.image in by_path]
    others = [record for record in val.records if record.image not in by_path]
    groups: _Groups = [(train.records, others)]
    for key in (_size, _sample, _digest):
        groups = [part for group in groups for part in _with_equal_key(*group, key)]
    found += [(trained[0], record) for trained, measured in groups for record in measured]
    order = {id(record): position for position, record in enumerate(val.records)}
    return sorted(found, key=lambda pair: order[id(pair[1])])


def _with_equal_key(
    train: Iterable[Record], val: Iterable[Record], key: Callable[[Record], Hashable]
) -> _Groups:
    """Group the records of both sets by `key`, for keys in both; None is no key."""
    measured = collections.defaultdict(list)
    for record in val:
        measured[key(record)].append(record)
    measured.pop(None, None)
    trained = collections.defaultdict(list)
    for record in train if measured else ():
        value = key(record)
        if value in measured:
            trained[value].append(record)
    return [(records, measured[value]) for value, records in trained.items()]


def _size(record: Record) -> int | None:
    """Return the size of the image file in bytes; None if it is missing."""
    if isinstance(record.image, bytes):
        return len(record.image)
    try:
        return os.stat(record.image).st_size
    except OSError:
        return None


def _sample(record: Record) -> bytes | None:
    """Return the first, middle and last bytes of the file: cheaper than hashing all of it."""
    if isinstance(record.image, bytes):
        middle = len(record.image) // 2
        starts = (0, middle, max(len(record.image) - _SAMPLE_BYTES, 0))
        return b"".join(record.image[start : start + _SAMPLE_BYTES] for start in starts)
    try:
        with open(record.image, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            parts = []
            for start in (0, size // 2, max(size - _SAMPLE_BYTES, 0)):
                file.seek(start)
                parts.append(file.read(_SAMPLE_BYTES))
            return b"".join(parts)
    except OSError:
        return None


def _digest(record: Record) -> bytes | None:
    return content_digest(record.image)


def content_digest(image: str | bytes) -> bytes | None:
    """Return a hash of a whole image file, or of its encoded bytes; None if it is missing."""
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest()
    try:
        with open(image, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None
