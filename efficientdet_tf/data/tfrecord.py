"""TFRecord files with the feature keys of tf-models-official.

A record holds the encoded image, its boxes as fractions of its size, and the data
set's category ids as class labels. `label_map.json` beside the files holds all
category ids and class names; without it they are collected from the records.

Memory holds the annotations; images are read from the files on demand, see
`tfrecord_index`. Files may be at any address that TensorFlow reads, e.g. gs://.
"""

import bisect
import contextlib
import dataclasses
import io
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import overload

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps
from tqdm import tqdm

from efficientdet_tf.boxes import to_fractions
from efficientdet_tf.data.annotations import AnnotatedImage, Annotations, read_text
from efficientdet_tf.data.image_sources import FileRange, is_remote, read_encoded
from efficientdet_tf.data.orientation import exif_orientation
from efficientdet_tf.data.record_columns import offsets_of
from efficientdet_tf.data.records import DataError, DetectionData, LabelMap, Record
from efficientdet_tf.data.split_names import files_of_split, is_of_split
from efficientdet_tf.data.tfrecord_index import RecordFileIndex, index_file
from efficientdet_tf.files import replacing, write_atomically

LABEL_MAP_FILE = "label_map.json"
# Class label of an ignored object without a class: no category has this id.
NO_CLASS = -1

# Number of images that are encoded at once.
_BLOCK = 64
# Number of decimal digits that always fits 64 bits.
_MOST_DIGITS = 18


def recognises(path: str) -> bool:
    """Tell whether `path` names TFRecord files, or a folder with such files."""
    return ".tfrecord" in os.path.basename(path) or bool(_files_in(path))


def lacks_validation(path: str) -> str:
    """Explain why `path`, a training set, has no validation images; "" if it has some."""
    if not tf.io.gfile.isdir(path):
        return "TFRecord files given by name are a single split"
    found = any(is_of_split("val", file) for file in _files_in(path))
    return "" if found else "val*.tfrecord is missing"


def read(path: str, *, images: str, split: str) -> Annotations:
    """Read all records of a set of files.

    Args:
      path: a file, a pattern such as "train-*.tfrecord", or a folder. If a
        folder's files are named by splits ("train-00000-of-00004.tfrecord",
        "coco-validation.tfrecord"), those of `split` are read, else all files.
      images: unused: the images are in the records.
      split: name of the split, e.g. "train".

    Raises:
      DataError: if no file, or no file of the split, exists, or a file is no
        TFRecord file.
    """
    files = _files(path, split)
    indices = _indices(path, files)
    label_map = _label_map(os.path.dirname(files[0]), indices)
    return Annotations(
        images=_RecordImages(files, indices, _image_ids(indices)),
        label_map=label_map,
        class_indices={number: index for index, number in enumerate(label_map.ids)},
        source=path,
        object_word="object",
        box_field="image/object/bbox",
        label_field="image/object/class/label",
        fractions=True,
        problems=[
            f"{file}: record {number}: {problem}"
            for file, index in zip(files, indices)
            for number, problem in index.problems
        ],
    )


def _indices(path: str, files: list[str]) -> list[RecordFileIndex]:
    """Index files in threads: reading releases the lock."""
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        indexed = pool.map(index_file, files)
        # Shown only on a terminal.
        bar = tqdm(indexed, f"Indexing {path}", len(files), unit="file", disable=None)
        return list(bar)
    finally:
        pool.shutdown(cancel_futures=True)


@dataclasses.dataclass(frozen=True, eq=False)
class _RecordImages(Sequence[AnnotatedImage]):
    """The usable images of files with their objects, made from the indices on demand."""

    files: list[str]
    indices: list[RecordFileIndex]
    image_ids: list[np.ndarray]
    begins: np.ndarray = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        lengths = [len(index.numbers) for index in self.indices]
        object.__setattr__(self, "begins", offsets_of(lengths))

    def __len__(self) -> int:
        return int(self.begins[-1])

    @overload
    def __getitem__(self, index: int) -> AnnotatedImage: ...

    @overload
    def __getitem__(self, index: slice) -> list[AnnotatedImage]: ...

    def __getitem__(self, index: int | slice) -> AnnotatedImage | list[AnnotatedImage]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        part = bisect.bisect_right(self.begins, index) - 1
        return self._image(part, index - int(self.begins[part]))

    def _image(self, part: int, i: int) -> AnnotatedImage:
        file, records = self.files[part], self.indices[part]
        mine = slice(records.offsets[i], records.offsets[i + 1])
        number = int(records.numbers[i])
        height, width = records.sizes[i].tolist()
        name = f"{file}: record {number}"
        image = FileRange(
            file,
            int(records.image_offsets[i]),
            int(records.image_lengths[i]),
            int(records.record_offsets[i]),
            number,
            records.modified,
        )
        labels = records.labels[mine].tolist()
        return AnnotatedImage(
            image_id=int(self.image_ids[part][number - 1]),
            image=image,
            name=name,
            annotation_file=name,
            size=(height, width),
            boxes=records.boxes[mine],
            labels=labels,
            numbers=range(1, len(labels) + 1),
            is_crowd=records.is_crowd[mine].tolist(),
            area=records.area[mine].tolist(),
            is_difficult=records.is_difficult[mine].tolist(),
            unplaced=[f"{name}: {reason}" for reason in [records.unplaced.get(i)] if reason],
        )


def write_tfrecord(
    data: DetectionData, path: str, shards: int = 1, keep_existing: bool = False
) -> list[str]:
    """Write a data set that `read`, and tf-models-official, can read.

    JPEG files with an EXIF orientation are turned upright and re-encoded, because
    other readers ignore the tag. WebP is converted to PNG. An ignored object gets
    the class label `NO_CLASS`, which is an unknown category to `read`.

    Args:
      data: the data set.
      path: e.g. "folder/train.tfrecord", for more than one shard extended to
        "folder/train-00000-of-00004.tfrecord" and so on. The label map is
        written to the same folder.
      shards: number of files. Default 1.
      keep_existing: whether to keep files that exist, which are complete as each is written
        atomically, instead of replacing them. Default False.

    Returns:
      The paths of the written files.

    Raises:
      DataError: if the folder has a label map of other classes.
      WriteError: if a file cannot be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _write_label_map(data.label_map, target.parent / LABEL_MAP_FILE)
    files = shard_files(target, shards)
    # Only on a terminal.
    with tqdm(total=len(data), desc=f"Writing {path}", unit="image", disable=None) as progress:
        for shard, file in enumerate(files):
            records = data.records[shard::shards]
            if not (keep_existing and file.exists()):
                _write_shard(file, records, data.label_map, progress)
            else:
                progress.update(len(records))
    return [str(file) for file in files]


def shard_files(path: Path, shards: int) -> list[Path]:
    """Return the paths that `write_tfrecord` writes."""
    if shards == 1:
        return [path]
    names = (f"{path.stem}-{shard:05d}-of-{shards:05d}{path.suffix}" for shard in range(shards))
    return [path.with_name(name) for name in names]


def _write_shard(
    file: Path, records: Sequence[Record], label_map: LabelMap, progress: tqdm
) -> None:
    """Write a file; images are read and encoded in threads, in blocks that fit in memory."""
    with replacing(file) as partial, ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            with tf.io.TFRecordWriter(str(partial)) as writer:
                for start in range(0, len(records), _BLOCK):
                    block = records[start : start + _BLOCK]
                    for serialized in pool.map(lambda r: _serialized(r, label_map), block):
                        writer.write(serialized)
                        progress.update()
        except tf.errors.OpError as error:
            raise OSError(error.message) from error


def _serialized(record: Record, label_map: LabelMap) -> bytes:
    try:
        return _example(record, label_map).SerializeToString()
    # Of Pillow, where the image is encoded again.
    except (OSError, SyntaxError, ValueError) as error:
        reason = f"cannot be decoded: {error}; correct it or remove it from the data set"
        raise DataError(f"{record.name}: {reason}") from error


def _files(path: str, split: str) -> list[str]:
    with _explaining(path):
        if tf.io.gfile.isdir(path):
            files = _files_of_split(path, split)
        else:
            files = [path] if tf.io.gfile.exists(path) else sorted(tf.io.gfile.glob(path))
    if not files:
        raise DataError(f"{path}: no such TFRecord file")
    return files


@contextlib.contextmanager
def _explaining(path: str) -> Iterator[None]:
    """Name the path in errors of TensorFlow's file systems."""
    try:
        yield
    except tf.errors.UnimplementedError as error:
        scheme = path.partition("://")[0]
        raise DataError(
            f"{path}: TensorFlow cannot read {scheme}:// by itself; mount it as a folder, or copy "
            "the files to a disk or to gs://"
        ) from error
    except tf.errors.OpError as error:
        reason = " ".join(error.message.split())[:200]
        raise DataError(f"{path}: cannot be read: {reason}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _files_in(folder: str) -> list[str]:
    """List the TFRecord files in a folder; none if it is no folder."""
    with _explaining(folder):
        if not tf.io.gfile.isdir(folder):
            return []
        # TensorFlow cannot list a folder that holds a name that is not UTF-8.
        every = tf.io.gfile.listdir(folder) if is_remote(folder) else os.listdir(folder)
        names = sorted(name for name in every if ".tfrecord" in name)
    return [os.path.join(folder, name) for name in names]


def _files_of_split(folder: str, split: str) -> list[str]:
    """List the files of a split, or all files if none is named by a split."""
    every = _files_in(folder)
    files = files_of_split(split, every)
    if every and not files:
        first = os.path.basename(every[0])
        raise DataError(
            f"{folder}: no {split}*.tfrecord in it, only files such as {first}; name the "
            f"files themselves: {_flags(split)}"
        )
    return files


def _flags(split: str) -> str:
    return "--train_data=FILES" if split == "train" else "--val_data=FILES, or --data for eval.py"


def _image_ids(indices: list[RecordFileIndex]) -> list[np.ndarray]:
    """Return the source ids of each file if all are distinct numbers, else ids counted from 1."""
    sources = [source for index in indices for source in index.source_ids]
    ids = np.arange(1, len(sources) + 1)
    if all(source.isdecimal() and len(source) <= _MOST_DIGITS for source in sources):
        given = np.array([int(source) for source in sources], np.int64)
        ids = given if len(np.unique(given)) == len(given) else ids
    return np.split(ids, np.cumsum([len(index.source_ids) for index in indices[:-1]]))


def _label_map(folder: str, indices: list[RecordFileIndex]) -> LabelMap:
    file = os.path.join(folder, LABEL_MAP_FILE)
    if tf.io.gfile.exists(file):
        text = read_encoded(file).decode() if is_remote(file) else read_text(Path(file))
        try:
            return LabelMap.from_json(text)
        except DataError as error:
            raise DataError(f"{file}: {error}") from error
    names: dict[int, str] = {}
    for index in indices:
        names = index.names | names
    names.pop(NO_CLASS, None)
    if not names:
        raise DataError(f"{file}: no such file, and no record has a labelled object")
    return LabelMap(tuple(sorted(names)), tuple(names[number] for number in sorted(names)))


def _write_label_map(label_map: LabelMap, file: Path) -> None:
    if file.is_file() and LabelMap.from_json(file.read_text(encoding="utf-8")) != label_map:
        raise DataError(f"{file}: holds other classes; write to another folder")
    write_atomically(file, label_map.to_json() + "\n")


def _example(record: Record, label_map: LabelMap) -> tf.train.Example:
    # Imported here: it takes seconds, and only writing needs it.
    from official.vision.data import tf_example_builder

    encoded, image_format = _upright_file(record)
    ymin, xmin, ymax, xmax = to_fractions(record.boxes, (record.height, record.width)).T.tolist()
    builder = tf_example_builder.TfExampleBuilder()
    builder.add_encoded_image_feature(
        encoded,
        image_format,
        record.height,
        record.width,
        num_channels=3,
        image_source_id=str(record.image_id).encode(),
    )
    # An object ignored for another reason than being difficult would be used after reading:
    # without a class it stays ignored.
    no_class = record.is_ignored & ~record.is_difficult | (record.classes < 0)
    classes = np.where(no_class, -1, record.classes)
    ids = [label_map.ids[index] if index >= 0 else NO_CLASS for index in classes]
    names = [label_map.names[index].encode() if index >= 0 else b"" for index in classes]
    builder.add_boxes_feature(xmin, xmax, ymin, ymax, ids)
    builder.add_bytes_feature("image/object/class/text", names)
    builder.add_ints_feature("image/object/is_crowd", record.is_crowd.astype(int).tolist())
    builder.add_ints_feature("image/object/difficult", record.is_difficult.astype(int).tolist())
    builder.add_floats_feature("image/object/area", record.area.tolist())
    return builder.example


def _upright_file(record: Record) -> tuple[bytes, str]:
    """Return the encoded image, upright if its record's `apply_exif` is set, and its format."""
    encoded = read_encoded(record.image)
    with Image.open(io.BytesIO(encoded)) as image:
        file = io.BytesIO()
        if image.format in ("WEBP", "GIF"):
            # Not every reader supports them, and PNG is lossless.
            image.convert("RGB").save(file, "PNG")
            return file.getvalue(), "PNG"
        # MPO is JPEG with further images after the first.
        image_format = "JPEG" if image.format == "MPO" else str(image.format)
        turned = exif_orientation(image) != 1
        if not (turned and record.apply_exif):
            return encoded, image_format
        ImageOps.exif_transpose(image).save(file, "JPEG", quality=95)
        return file.getvalue(), "JPEG"
