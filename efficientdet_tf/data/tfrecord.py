"""TFRecord files with the feature keys of tf-models-official.

A record holds the encoded image, its boxes as fractions of its size, and the data
set's category ids as class labels. `label_map.json` beside the files holds all
category ids and class names; without it they are collected from the records.

The encoded images are kept in memory, because TFRecord files have no index: use
the original files for data sets larger than memory.
"""

import glob
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from PIL import Image, ImageOps
from tqdm import tqdm

from efficientdet_tf.boxes import to_fractions
from efficientdet_tf.data.annotations import (
    AnnotatedImage,
    Annotations,
    boxes_array,
    pixels_among_fractions,
    read_text,
)
from efficientdet_tf.data.orientation import exif_orientation
from efficientdet_tf.data.records import DataError, DetectionData, LabelMap, Record
from efficientdet_tf.data.split_names import files_of_split, is_of_split
from efficientdet_tf.files import replacing, write_atomically

LABEL_MAP_FILE = "label_map.json"
# Class label of an ignored object without a class: no category has this id.
NO_CLASS = -1

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
# Number of images that are encoded at once.
_BLOCK = 64
# Number of decimal digits that always fits 64 bits.
_MOST_DIGITS = 18


def recognises(path: str) -> bool:
    """Tell whether `path` names TFRecord files, or a folder with such files."""
    return ".tfrecord" in Path(path).name or any(Path(path).glob("*.tfrecord*"))


def lacks_validation(path: str) -> str:
    """Explain why `path`, a training set, has no validation images; "" if it has some."""
    if not Path(path).is_dir():
        return "TFRecord files given by name are a single split"
    found = any(is_of_split("val", file.name) for file in Path(path).glob("*.tfrecord*"))
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
    examples = [
        (f"{file}: record {number}", example)
        for file in files
        for number, example in enumerate(_examples(file), 1)
    ]
    label_map = _label_map(Path(files[0]).parent, [e for _, e in examples])
    ids = _image_ids([example for _, example in examples])
    problems: list[str] = []
    annotated = [
        _annotated_image(image_id, name, example, problems)
        for image_id, (name, example) in zip(ids, examples, strict=True)
    ]
    return Annotations(
        images=[image for image in annotated if image is not None],
        label_map=label_map,
        class_indices={number: index for index, number in enumerate(label_map.ids)},
        source=path,
        object_word="object",
        box_field="image/object/bbox",
        label_field="image/object/class/label",
        fractions=True,
        problems=problems,
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
    return _example(record, label_map).SerializeToString()


def _files(path: str, split: str) -> list[str]:
    if Path(path).is_dir():
        files = _files_of_split(path, split)
    else:
        files = [path] if Path(path).is_file() else sorted(glob.glob(path))
    if not files:
        raise DataError(f"{path}: no such TFRecord file")
    return files


def _files_of_split(folder: str, split: str) -> list[str]:
    """List the files of a split, or all files if none is named by a split."""
    every = sorted(Path(folder).glob("*.tfrecord*"))
    files = files_of_split(split, every)
    if every and not files:
        raise DataError(
            f"{folder}: no {split}*.tfrecord in it, only files such as {every[0].name}; name the "
            f"files themselves: {_flags(split)}"
        )
    return [str(file) for file in files]


def _flags(split: str) -> str:
    return "--train_data=FILES" if split == "train" else "--val_data=FILES, or --data for eval.py"


def _examples(file: str) -> list[dict]:
    """Parse all records of a file by `_features`."""
    examples = []
    try:
        for serialized in tf.data.TFRecordDataset(file).as_numpy_iterator():
            examples.append(_features(tf.train.Example.FromString(serialized)))
    except (tf.errors.OpError, DecodeError) as error:
        if examples:
            reason = f"damaged after record {len(examples)}; copy or write it again"
        else:
            reason = "damaged, or not a TFRecord file of tf.train.Example"
        raise DataError(f"{file}: {reason}") from error
    return examples


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


def _annotated_image(
    image_id: int, name: str, example: dict, problems: list[str]
) -> AnnotatedImage | None:
    wrong = [key for key, values in example.items() if values is None]
    if wrong:
        kinds = " or ".join(_KINDS[wrong[0]])
        problems.append(f"{name}: {wrong[0]}: must be of kind {kinds}; image excluded")
        return None
    corners = [example.get(f"image/object/bbox/{corner}", []) for corner in _CORNERS]
    labels = example.get("image/object/class/label", [])
    if not example.get("image/encoded"):
        problems.append(f"{name}: image/encoded: is missing")
        return None
    unplaced = []
    if any(len(values) != len(labels) for values in corners):
        unplaced = [f"{name}: image/object/bbox: needs one box for each class label"]
    elif pixels := pixels_among_fractions(np.ravel(corners)):
        unplaced = [f"{name}: image/object/bbox: {pixels}"]
    if unplaced:
        corners, labels = [[]] * len(_CORNERS), []
    height, width = example.get("image/height"), example.get("image/width")
    return AnnotatedImage(
        image_id=image_id,
        image=example["image/encoded"][0],
        name=name,
        annotation_file=name,
        size=(int(height[0]), int(width[0])) if height and width else None,
        boxes=boxes_array(np.transpose(corners)),
        labels=labels,
        numbers=range(1, len(labels) + 1),
        is_crowd=_if_complete(example.get("image/object/is_crowd"), labels),
        area=_if_complete(example.get("image/object/area"), labels),
        is_difficult=[bool(f) for f in _if_complete(example.get("image/object/difficult"), labels)],
        unplaced=unplaced,
    )


def _if_complete(values: list | None, labels: list) -> list:
    return values if values and len(values) == len(labels) else []


def _image_ids(examples: list[dict]) -> list[int]:
    """Return the source ids if all are distinct numbers, else ids counted from 1."""
    sources = [(e.get("image/source_id") or [b""])[0].decode(errors="replace") for e in examples]
    if all(source.isdecimal() and len(source) <= _MOST_DIGITS for source in sources):
        ids = [int(source) for source in sources]
        if len(set(ids)) == len(ids):
            return ids
    return list(range(1, len(examples) + 1))


def _label_map(folder: Path, examples: list[dict]) -> LabelMap:
    file = folder / LABEL_MAP_FILE
    if file.is_file():
        text = read_text(file)
        try:
            return LabelMap.from_json(text)
        except DataError as error:
            raise DataError(f"{file}: {error}") from error
    names: dict[int, str] = {}
    for example in examples:
        labels = example.get("image/object/class/label") or []
        texts = example.get("image/object/class/text") or [str(n).encode() for n in labels]
        for label, text in zip(labels, texts, strict=False):
            if label != NO_CLASS:
                names.setdefault(label, text.decode(errors="replace"))
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
    encoded = record.image
    if isinstance(encoded, str):
        encoded = Path(encoded).read_bytes()
    with Image.open(io.BytesIO(encoded)) as image:
        file = io.BytesIO()
        if image.format == "WEBP":
            # Not every reader supports WebP, and PNG is lossless.
            image.convert("RGB").save(file, "PNG")
            return file.getvalue(), "PNG"
        # MPO is JPEG with further images after the first.
        image_format = "JPEG" if image.format == "MPO" else str(image.format)
        turned = exif_orientation(image) != 1
        if not (turned and record.apply_exif):
            return encoded, image_format
        ImageOps.exif_transpose(image).save(file, "JPEG", quality=95)
        return file.getvalue(), "JPEG"
