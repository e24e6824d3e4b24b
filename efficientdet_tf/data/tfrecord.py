"""TFRecord files with the feature keys of tf-models-official.

A record holds the encoded image, its boxes as fractions of its size, and as
class labels the data set's own category ids. `label_map.json` beside the files
gives all ids and names; without it they are collected from the records.

The encoded images are kept in memory, because TFRecord files have no index: for
data sets larger than that use the original files.
"""

import glob
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from PIL import Image, ImageOps

from efficientdet_tf.data.annotations import AnnotatedImage, Annotations, boxes_array
from efficientdet_tf.data.records import DataError, DetectionData, LabelMap, Record
from efficientdet_tf.files import replacing, write_atomically

LABEL_MAP_FILE = "label_map.json"

_ORIENTATION_TAG = 0x0112
_CORNERS = ("ymin", "xmin", "ymax", "xmax")


def recognises(path: str) -> bool:
    """Whether `path` names TFRecord files, or a folder that holds some."""
    return ".tfrecord" in Path(path).name or any(Path(path).glob("*.tfrecord*"))


def read(path: str, *, images: str, split: str) -> Annotations:
    """Reads all records of a set of files.

    Args:
      path: a file, a pattern such as "train-*.tfrecord", or a folder. Of a
        folder with files called like the split ("train-00000-of-00004.tfrecord",
        "train.tfrecord") these are read, else all of them.
      images: not used: the images are in the records.
      split: see `path`.

    Raises:
      DataError: when there is no such file, or one is no TFRecord file.
    """
    examples = [
        (f"{file}: record {number}", example)
        for file in _files(path, split)
        for number, example in enumerate(_examples(file), 1)
    ]
    label_map = _label_map(Path(_files(path, split)[0]).parent, [e for _, e in examples])
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


def write_tfrecord(data: DetectionData, path: str, shards: int = 1) -> list[str]:
    """Writes a data set that `read`, and tf-models-official, can read.

    JPEG files that are stored turned are turned upright and encoded again,
    because other readers do not heed the orientation tag.

    Args:
      data: the data set.
      path: e.g. "folder/train.tfrecord", which for more than one shard becomes
        "folder/train-00000-of-00004.tfrecord" and so on. The label map is
        written to the same folder.
      shards: the number of files that share the records evenly.

    Returns:
      The files written.

    Raises:
      DataError: when the folder has a label map of other classes.
      WriteError: when a file cannot be written.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _write_label_map(data.label_map, target.parent / LABEL_MAP_FILE)
    files = []
    for shard in range(shards):
        numbered = f"{target.stem}-{shard:05d}-of-{shards:05d}{target.suffix}"
        files.append(str(target.with_name(numbered) if shards > 1 else target))
        _write_shard(files[-1], data.records[shard::shards], data.label_map)
    return files


def _write_shard(file: str, records: Sequence[Record], label_map: LabelMap) -> None:
    with replacing(file) as partial:
        try:
            with tf.io.TFRecordWriter(str(partial)) as writer:
                for record in records:
                    writer.write(_example(record, label_map).SerializeToString())
        except tf.errors.OpError as error:
            raise OSError(error.message) from error


def _files(path: str, split: str) -> list[str]:
    if Path(path).is_dir():
        every = sorted(str(file) for file in Path(path).glob("*.tfrecord*"))
        files = [file for file in every if Path(file).name.startswith(split)] or every
    else:
        files = [path] if Path(path).is_file() else sorted(glob.glob(path))
    if not files:
        raise DataError(f"{path}: no such TFRecord file")
    return files


def _examples(file: str) -> list[dict]:
    """The feature lists of every record of a file, by key."""
    try:
        serialized = list(tf.data.TFRecordDataset(file).as_numpy_iterator())
        parsed = [tf.train.Example.FromString(item) for item in serialized]
    except (tf.errors.OpError, DecodeError) as error:
        raise DataError(f"{file}: damaged, or not a TFRecord file of tf.train.Example") from error
    return [
        {
            key: list(getattr(feature, feature.WhichOneof("kind") or "int64_list").value)
            for key, feature in example.features.feature.items()
        }
        for example in parsed
    ]


def _annotated_image(
    image_id: int, name: str, example: dict, problems: list[str]
) -> AnnotatedImage | None:
    corners = [example.get(f"image/object/bbox/{corner}", []) for corner in _CORNERS]
    labels = example.get("image/object/class/label", [])
    if not example.get("image/encoded"):
        problems.append(f"{name}: image/encoded: is missing")
        return None
    if any(len(values) != len(labels) for values in corners):
        problems.append(f"{name}: image/object/bbox: needs one box for each class label")
        return None
    size = (example.get("image/height"), example.get("image/width"))
    return AnnotatedImage(
        image_id=image_id,
        image=example["image/encoded"][0],
        name=name,
        annotation_file=name,
        size=(int(size[0][0]), int(size[1][0])) if all(size) else None,
        boxes=boxes_array(np.transpose(corners)),
        labels=labels,
        numbers=range(1, len(labels) + 1),
        is_crowd=_if_complete(example.get("image/object/is_crowd"), labels),
        area=_if_complete(example.get("image/object/area"), labels),
    )


def _if_complete(values: list | None, labels: list) -> list:
    return values if values and len(values) == len(labels) else []


def _image_ids(examples: list[dict]) -> list[int]:
    """The source ids where all are distinct numbers, else counted from 1."""
    sources = [(e.get("image/source_id") or [b""])[0].decode(errors="replace") for e in examples]
    if all(source.isdecimal() for source in sources):
        ids = [int(source) for source in sources]
        if len(set(ids)) == len(ids):
            return ids
    return list(range(1, len(examples) + 1))


def _label_map(folder: Path, examples: list[dict]) -> LabelMap:
    file = folder / LABEL_MAP_FILE
    if file.is_file():
        try:
            return LabelMap.from_json(file.read_text(encoding="utf-8"))
        except (DataError, UnicodeDecodeError) as error:
            raise DataError(f"{file}: {error}") from error
    names: dict[int, str] = {}
    for example in examples:
        labels = example.get("image/object/class/label", [])
        texts = example.get("image/object/class/text") or [str(n).encode() for n in labels]
        for label, text in zip(labels, texts, strict=False):
            names.setdefault(label, text.decode(errors="replace"))
    if not names:
        raise DataError(f"{file}: no such file, and no record has a labelled object")
    return LabelMap(tuple(sorted(names)), tuple(names[number] for number in sorted(names)))


def _write_label_map(label_map: LabelMap, file: Path) -> None:
    if file.is_file() and LabelMap.from_json(file.read_text(encoding="utf-8")) != label_map:
        raise DataError(f"{file}: holds other classes; write to another folder")
    write_atomically(file, label_map.to_json() + "\n")


def _example(record: Record, label_map: LabelMap) -> tf.train.Example:
    # Takes seconds to import, and only writing needs it.
    from official.vision.data import tf_example_builder

    encoded, image_format = _upright_file(record)
    ymin, xmin, ymax, xmax = (record.boxes / ([record.height, record.width] * 2)).T.tolist()
    builder = tf_example_builder.TfExampleBuilder()
    builder.add_encoded_image_feature(
        encoded,
        image_format,
        record.height,
        record.width,
        num_channels=3,
        image_source_id=str(record.image_id).encode(),
    )
    ids = [label_map.ids[index] for index in record.classes]
    names = [label_map.names[index].encode() for index in record.classes]
    builder.add_boxes_feature(xmin, xmax, ymin, ymax, ids)
    builder.add_bytes_feature("image/object/class/text", names)
    builder.add_ints_feature("image/object/is_crowd", record.is_crowd.astype(int).tolist())
    builder.add_floats_feature("image/object/area", record.area.tolist())
    return builder.example


def _upright_file(record: Record) -> tuple[bytes, str]:
    """The encoded image, turned where its record says so, and its format."""
    encoded = record.image
    if isinstance(encoded, str):
        encoded = Path(encoded).read_bytes()
    with Image.open(io.BytesIO(encoded)) as image:
        # MPO is JPEG with more pictures behind the first.
        image_format = "JPEG" if image.format == "MPO" else image.format
        turned = image_format == "JPEG" and image.getexif().get(_ORIENTATION_TAG, 1) != 1
        if not (turned and record.apply_exif):
            return encoded, image_format
        file = io.BytesIO()
        ImageOps.exif_transpose(image).save(file, "JPEG", quality=95)
        return file.getvalue(), "JPEG"
