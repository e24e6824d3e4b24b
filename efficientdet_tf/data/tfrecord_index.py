"""Index of a TFRecord file: all of its annotations, and where its images are.

The images stay in the file and are read one by one when training asks for them. So the order
of a training is a shuffle of all images, the same after any restart, and mosaic finds its
partners, while memory holds the annotations only. The price are small reads at random places:
the disk's cache serves them as fast as sequential ones (docs/results.md), but of an object store
each is a request. There, `shard_order` reads runs of records at once.

Making an index reads the file once. It is kept in the cache folder, and made again when the
file's size or modification time has changed.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from efficientdet_tf.cache_directory import cache_directory
from efficientdet_tf.data.annotations import boxes_array, pixels_among_fractions
from efficientdet_tf.data.image_sources import is_remote
from efficientdet_tf.data.record_columns import offsets_of
from efficientdet_tf.data.records import DataError
from efficientdet_tf.files import WriteError, replacing

# Part of the cached file's name; increment it when an index holds something else.
_VERSION = 2
# Bytes of a record before and after its content: length and checksums.
_HEAD, _TAIL = 12, 4
_RECORDS_AT_ONCE = 64
_READ_BYTES = 4 << 20

_CORNERS = ("ymin", "xmin", "ymax", "xmax")
# The features read from a record, and their kinds; numbers may have either kind.
_NUMBERS = ("int64_list", "float_list")
_KINDS = {
    "image/encoded": ("bytes_list",),
    "image/source_id": ("bytes_list",),
    "image/height": ("int64_list",),
    "image/width": ("int64_list",),
    **{f"image/object/bbox/{corner}": _NUMBERS for corner in _CORNERS},
    "image/object/class/label": ("int64_list",),
    "image/object/class/text": ("bytes_list",),
    "image/object/is_crowd": ("int64_list",),
    "image/object/difficult": ("int64_list",),
    "image/object/area": _NUMBERS,
}
_ARRAYS = {
    "numbers": np.int64,
    "record_offsets": np.int64,
    "image_offsets": np.int64,
    "image_lengths": np.int64,
    "sizes": np.int64,
    "offsets": np.int64,
    "boxes": np.float32,
    "labels": np.int64,
    "is_crowd": bool,
    "is_difficult": bool,
    "area": np.float32,
}


@dataclasses.dataclass(frozen=True, eq=False)
class RecordFileIndex:
    """Annotations of a TFRecord file, and where its images are.

    Attributes:
      modified: modification time of the file in nanoseconds.
      source_ids: the source id of every record, "" if missing.
      problems: for each record that cannot be used, its number from 1 and the reason.
      names: the first class text of each class label, "" if it has none.
      unplaced: index of an image -> the reason why its boxes cannot be read.
      numbers: int64 [n], the number of each usable record, from 1.
      record_offsets: int64 [n], where the usable records begin, in bytes.
      image_offsets, image_lengths: int64 [n], where the encoded images are, in bytes.
      sizes: int64 [n, 2], annotated height and width, 0 if missing.
      offsets: int64 [n + 1]; the objects of image i are offsets[i] to offsets[i + 1].
      boxes: float32 [m, 4], ymin, xmin, ymax, xmax as fractions of the image's size.
      labels: int64 [m], class labels.
      is_crowd, is_difficult: bool [m].
      area: float32 [m] in pixels, 0 if missing.
    """

    modified: int
    source_ids: list[str]
    problems: list[tuple[int, str]]
    names: dict[int, str]
    unplaced: dict[int, str]
    numbers: np.ndarray
    record_offsets: np.ndarray
    image_offsets: np.ndarray
    image_lengths: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    is_crowd: np.ndarray
    is_difficult: np.ndarray
    area: np.ndarray


def index_file(file: str) -> RecordFileIndex:
    """Return the index of a file, from the cache if the file is unchanged.

    Raises:
      DataError: if it cannot be read, or is no TFRecord file of tf.train.Example.
    """
    key = _key(file)
    digest = hashlib.blake2b(key[0].encode(errors="surrogateescape"), digest_size=16).hexdigest()
    cached = cache_directory() / "tfrecord_indices" / f"{digest}-{_VERSION}.npz"
    index = _load(cached, key)
    if index is None:
        index = _build(file, key[2])
        _save(index, cached, key)
    return index


def _key(file: str) -> list:
    """Return what identifies a file in its current state: path, size, and time in nanoseconds."""
    try:
        if is_remote(file):
            remote = tf.io.gfile.stat(file)
            return [file, remote.length, remote.mtime_nsec]
        # TensorFlow rounds the time to seconds.
        local = os.stat(file)
        return [os.path.abspath(file), local.st_size, local.st_mtime_ns]
    except (OSError, tf.errors.OpError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


def _load(cached: Path, key: list) -> RecordFileIndex | None:
    """Load an index; return None if there is none of the file in its current state."""
    try:
        with np.load(cached, allow_pickle=False) as content:
            about = json.loads(content["about"].tobytes())
            if about.pop("key") != key:
                return None
            arrays = {name: content[name] for name in _ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    for name in ("names", "unplaced"):
        # Keys of JSON objects are texts.
        about[name] = {int(number): text for number, text in about[name].items()}
    about["problems"] = [tuple(problem) for problem in about["problems"]]
    return RecordFileIndex(modified=key[2], **about, **arrays)


def _save(index: RecordFileIndex, cached: Path, key: list) -> None:
    about = {
        "key": key,
        "source_ids": index.source_ids,
        "problems": index.problems,
        "names": index.names,
        "unplaced": index.unplaced,
    }
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    # The cache only saves time.
    with contextlib.suppress(OSError, WriteError):
        cached.parent.mkdir(parents=True, exist_ok=True)
        with replacing(cached) as partial:
            np.savez(partial, about=text, **{name: getattr(index, name) for name in _ARRAYS})


def _build(file: str, modified: int) -> RecordFileIndex:
    columns: dict[str, list] = {name: [] for name in _ARRAYS if name != "offsets"}
    index: dict[str, Any] = {"source_ids": [], "problems": [], "names": {}, "unplaced": {}}
    position = 0
    try:
        for number, serialized in enumerate(_serialized(file), 1):
            example: dict[str, Any] = _features(tf.train.Example.FromString(serialized))
            index["source_ids"].append(_source_id(example))
            _add_names(example, index["names"])
            problem = _problem(example)
            if problem:
                index["problems"].append((number, problem))
            else:
                begin = position + _HEAD + serialized.find(example["image/encoded"][0])
                columns["record_offsets"].append(position)
                unplaced = _add(columns, number, begin, example)
                if unplaced:
                    index["unplaced"][len(columns["numbers"]) - 1] = unplaced
            position += _HEAD + len(serialized) + _TAIL
    except (tf.errors.OpError, DecodeError) as error:
        raise DataError(f"{file}: {_damage(file)}") from error
    lengths = [len(labels) for labels in columns["labels"]]
    index |= {name: _array(name, values) for name, values in columns.items()}
    return RecordFileIndex(modified=modified, offsets=offsets_of(lengths), **index)


def _array(name: str, values: list) -> np.ndarray:
    if name in ("numbers", "record_offsets", "image_offsets", "image_lengths"):
        return np.array(values, _ARRAYS[name])
    width = {"boxes": 4, "sizes": 2}.get(name)
    empty = np.zeros((0, width) if width else 0)
    return np.concatenate([empty, *values]).astype(_ARRAYS[name])


def _serialized(file: str) -> Iterator[bytes]:
    """Read the records of a file; TensorFlow checks their checksums."""
    records = tf.data.TFRecordDataset(file, buffer_size=_READ_BYTES)
    for batch in records.batch(_RECORDS_AT_ONCE).as_numpy_iterator():
        yield from batch


def _damage(file: str) -> str:
    """Describe a damaged file by the number of its whole records."""
    count = 0
    with contextlib.suppress(tf.errors.OpError, DecodeError):
        for serialized in tf.data.TFRecordDataset(file).as_numpy_iterator():
            tf.train.Example.FromString(serialized)
            count += 1
    if count:
        return f"damaged after record {count}; copy or write it again"
    return "damaged, or not a TFRecord file of tf.train.Example"


def _features(example: tf.train.Example) -> dict[str, list | None]:
    """Return the used features of a record by key; None for one of the wrong kind."""
    features = {}
    for key, kinds in _KINDS.items():
        feature = example.features.feature.get(key)
        kind = feature.WhichOneof("kind") if feature is not None else None
        # Empty lists may have any kind.
        if kind is not None and getattr(feature, kind).value:
            features[key] = list(getattr(feature, kind).value) if kind in kinds else None
    return features


def _source_id(example: dict) -> str:
    return (example.get("image/source_id") or [b""])[0].decode(errors="replace")


def _add_names(example: dict, names: dict[int, str]) -> None:
    """Add the class texts of a record, or its labels as texts, unless they have one."""
    labels = example.get("image/object/class/label") or []
    texts = example.get("image/object/class/text") or [str(label).encode() for label in labels]
    for label, text in zip(labels, texts):
        if label not in names:
            names[label] = text.decode(errors="replace")


def _problem(example: dict) -> str:
    """Describe why a record is unusable; "" if it is usable."""
    wrong = [key for key, values in example.items() if values is None]
    if wrong:
        return f"{wrong[0]}: must be of kind {' or '.join(_KINDS[wrong[0]])}; image excluded"
    images = len(example.get("image/encoded") or [])
    return {0: "image/encoded: is missing", 1: ""}.get(
        images, f"image/encoded: has {images} values"
    )


def _add(columns: dict[str, list], number: int, begin: int, example: dict) -> str:
    """Add a usable record to the columns; return why its boxes cannot be read, or ""."""
    corners = [example.get(f"image/object/bbox/{corner}", []) for corner in _CORNERS]
    labels = example.get("image/object/class/label", [])
    unplaced = ""
    if any(len(values) != len(labels) for values in corners):
        unplaced = "image/object/bbox: needs one box for each class label"
    elif pixels := pixels_among_fractions(np.ravel(corners)):
        unplaced = f"image/object/bbox: {pixels}"
    if unplaced:
        corners, labels = [[]] * len(_CORNERS), []
    height, width = example.get("image/height"), example.get("image/width")
    columns["numbers"].append(number)
    columns["image_offsets"].append(begin)
    columns["image_lengths"].append(len(example["image/encoded"][0]))
    columns["sizes"].append([[height[0], width[0]] if height and width else [0, 0]])
    columns["boxes"].append(boxes_array(np.transpose(corners)).astype(np.float32))
    columns["labels"].append(np.array(labels, np.int64))
    for column, key in (("is_crowd", "is_crowd"), ("is_difficult", "difficult"), ("area", "area")):
        values = example.get(f"image/object/{key}") or []
        complete = values if len(values) == len(labels) else [0] * len(labels)
        columns[column].append(np.array(complete, _ARRAYS[column]))
    return unplaced
