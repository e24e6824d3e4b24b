"""Detection of images shared by the training and the validation set, which inflate the metrics."""

import collections
import hashlib
import io
import os
from collections.abc import Callable, Hashable, Sequence
from typing import BinaryIO

from absl import logging

from efficientdet_tf.data.image_sources import FileRange, ImageSource, read_encoded
from efficientdet_tf.data.record_columns import RecordColumns
from efficientdet_tf.data.records import DetectionData, Record

_SAMPLE_BYTES = 4096

# Pairs of lists of positions: of training and of validation images.
_Groups = list[tuple[Sequence[int], Sequence[int]]]


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
    trained = RecordColumns.build(train.records).images
    measured = RecordColumns.build(val.records).images
    # The validation set is the smaller one.
    wanted = {image for image in measured if not isinstance(image, bytes)}
    by_path = {image: i for i, image in enumerate(trained) if image in wanted}
    found = {i: by_path[image] for i, image in enumerate(measured) if image in by_path}
    groups: _Groups = [(range(len(trained)), [i for i in range(len(measured)) if i not in found])]
    for key in (_size, _sample, content_digest):
        groups = [
            part
            for positions in groups
            for part in _with_equal_key(*positions, trained, measured, key)
        ]
    found |= {i: same[0] for same, others in groups for i in others}
    return [(train.records[found[i]], val.records[i]) for i in sorted(found)]


def _with_equal_key(
    train: Sequence[int],
    val: Sequence[int],
    trained: Sequence[ImageSource],
    measured: Sequence[ImageSource],
    key: Callable[[ImageSource], Hashable],
) -> _Groups:
    """Group positions in both sets by the key of their image, for keys in both; None is none."""
    of_val = collections.defaultdict(list)
    for i in val:
        of_val[key(measured[i])].append(i)
    of_val.pop(None, None)
    of_train = collections.defaultdict(list)
    for i in train if of_val else ():
        value = key(trained[i])
        if value in of_val:
            of_train[value].append(i)
    return [(positions, of_val[value]) for value, positions in of_train.items()]


def _size(image: ImageSource) -> int | None:
    """Return the size of an encoded image in bytes; None if it is missing."""
    if isinstance(image, bytes):
        return len(image)
    if isinstance(image, FileRange):
        return image.length
    try:
        return os.stat(image).st_size
    except OSError:
        return None


def _sample(image: ImageSource) -> bytes | None:
    """Return the first, middle and last bytes: cheaper than hashing all of a file."""
    try:
        if not isinstance(image, str):
            return _sample_of(io.BytesIO(read_encoded(image)))
        with open(image, "rb") as file:
            return _sample_of(file)
    except OSError:
        return None


def _sample_of(file: BinaryIO) -> bytes:
    size = file.seek(0, os.SEEK_END)
    parts = []
    for start in (0, size // 2, max(size - _SAMPLE_BYTES, 0)):
        file.seek(start)
        parts.append(file.read(_SAMPLE_BYTES))
    return b"".join(parts)


def content_digest(image: ImageSource) -> bytes | None:
    """Return a hash of the whole encoded image; None if it is missing."""
    try:
        return hashlib.sha256(read_encoded(image)).digest()
    except OSError:
        return None
