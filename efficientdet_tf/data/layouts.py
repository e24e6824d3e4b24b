"""Layouts of written data sets: annotations and images of a split, in each format.

    coco      train.json, train/*.jpg
    voc       Annotations/*.xml, JPEGImages/*.jpg, ImageSets/Main/train.txt, labels.txt
    yolo      data.yaml, labels/train/*.txt, images/train/*.jpg
    tfrecord  train.tfrecord, or train-00000-of-00010.tfrecord and so on; label_map.json
    csv       train-annotations-bbox.csv, train-images.csv, class-descriptions.csv, train/*.jpg

The readers of this package find everything in the folder. Every file is written
atomically; the one that lists the images of a split is the last, so that an incomplete
split is not taken for a complete one. Images that are there already are kept.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from efficientdet_tf.data.class_names import LABEL_FILE
from efficientdet_tf.data.coco_writer import image_entry, write_annotation_file
from efficientdet_tf.data.image_copies import image_names, in_threads, place_image
from efficientdet_tf.data.open_images_writer import BOX_COLUMNS, box_rows, csv_text
from efficientdet_tf.data.records import DataError, DetectionData, LabelMap, Record
from efficientdet_tf.data.tfrecord import write_tfrecord
from efficientdet_tf.data.voc_writer import annotation_xml
from efficientdet_tf.data.yolo_writer import data_yaml, label_lines
from efficientdet_tf.files import flush_all, replacing, write_atomically

# Splits in the names of Open Images' files.
OPEN_IMAGES_SPLITS = {"val": "validation"}


@dataclasses.dataclass(frozen=True)
class Written:
    """A split to write.

    Attributes:
      data: the images and objects of the split.
      split: name of the split, e.g. "train".
      folder: the folder to write to.
      splits: the splits that the folder holds afterwards, this one included.
      copy: whether to copy images instead of hard-linking them.
      num_shards: number of TFRecord files.
    """

    data: DetectionData
    split: str
    folder: Path
    splits: Sequence[str]
    copy: bool = False
    num_shards: int = 1


class Layout(NamedTuple):
    """How a format is written, and what it can hold.

    Attributes:
      write: function that writes a split.
      first_category_id: id of the first category, if they are numbered by position; None if
        the format has ids.
      image_ids: whether the format has image ids.
      crowd, difficult: whether it has these flags of an object.
      area: whether it has areas besides those of the boxes.
      unknown: whether it can hold an ignored object without a category.
      by_name: whether its categories are identified by name, see `check_names`.
    """

    write: Callable[[Written], None]
    first_category_id: int | None
    image_ids: bool
    crowd: bool
    difficult: bool
    area: bool
    unknown: bool = False
    by_name: bool = False


def objects_to_write(record: Record, layout: Layout) -> Record:
    """Return a record with the objects that a format can hold, and their flags in it.

    Where crowd regions have no flag of their own they are written as difficult, and so are
    objects that are ignored because of an error; both are left out where there is no such
    flag either, and so are objects of an unknown category.
    """
    # With a loaded `use_difficult`, an ignored object has an error.
    marked = record.is_ignored | (record.is_crowd if not layout.crowd else False)
    kept = (record.classes >= 0) & (layout.difficult | ~marked)
    return dataclasses.replace(
        record,
        boxes=record.boxes[kept],
        classes=record.classes[kept],
        area=record.area[kept],
        is_crowd=record.is_crowd[kept] & layout.crowd,
        is_difficult=(record.is_difficult | marked)[kept] & layout.difficult,
        is_ignored=record.is_ignored[kept],
    )


def _write_coco(written: Written) -> None:
    data, folder = written.data, written.folder / written.split
    folder.mkdir(parents=True, exist_ok=True)
    names = image_names(data.records)

    def place(index: int) -> None:
        place_image(data.records[index], folder / names[index], written.copy, without_size=False)

    in_threads(place, len(data), _title(written))
    flush_all()
    write_annotation_file(
        written.folder / f"{written.split}.json",
        data.label_map,
        (image_entry(r.image_id, name, _size(r)) for r, name in zip(data.records, names)),
        (objects_to_write(record, LAYOUTS["coco"]) for record in data.records),
    )


def _write_voc(written: Written) -> None:
    data, folder = written.data, written.folder
    images, annotations = folder / "JPEGImages", folder / "Annotations"
    lists = folder / "ImageSets" / "Main"
    for place in (images, annotations, lists):
        place.mkdir(parents=True, exist_ok=True)
    # All splits share the folders.
    others = [lists / f"{split}.txt" for split in written.splits if split != written.split]
    taken = [line for file in others if file.is_file() for line in _lines(file)]
    names = image_names(data.records, taken)

    def place_both(index: int) -> None:
        record, name = data.records[index], names[index]
        place_image(record, images / name, written.copy, without_size=False)
        objects = objects_to_write(record, LAYOUTS["voc"])
        classes = _names(objects, data.label_map)
        text = annotation_xml(name, _size(record), objects.boxes, classes, objects.is_difficult)
        _write_quickly(annotations / f"{Path(name).stem}.xml", text)

    in_threads(place_both, len(data), _title(written))
    flush_all()
    write_atomically(folder / LABEL_FILE, "".join(f"{name}\n" for name in data.label_map.names))
    text = "".join(f"{Path(name).stem}\n" for name in names)
    write_atomically(lists / f"{written.split}.txt", text)


def _write_yolo(written: Written) -> None:
    data, split = written.data, written.split
    images, labels = (written.folder / kind / split for kind in ("images", "labels"))
    for place in (images, labels):
        place.mkdir(parents=True, exist_ok=True)
    names = image_names(data.records)

    def place_both(index: int) -> None:
        record, name = data.records[index], names[index]
        place_image(record, images / name, written.copy, without_size=True)
        objects = objects_to_write(record, LAYOUTS["yolo"])
        text = label_lines(_size(record), objects.boxes, objects.classes)
        _write_quickly(labels / f"{Path(name).stem}.txt", text)

    in_threads(place_both, len(data), _title(written))
    flush_all()
    folders = {name: f"images/{name}" for name in written.splits}
    text = data_yaml(data.label_map.names, folders)
    write_atomically(written.folder / "data.yaml", text)


def _write_tfrecord(written: Written) -> None:
    written.folder.mkdir(parents=True, exist_ok=True)
    path = str(written.folder / f"{written.split}.tfrecord")
    write_tfrecord(written.data, path, written.num_shards, keep_existing=True)


def _write_csv(written: Written) -> None:
    data = written.data
    split = OPEN_IMAGES_SPLITS.get(written.split, written.split)
    folder = written.folder / split
    folder.mkdir(parents=True, exist_ok=True)
    names = image_names(data.records)

    def place(index: int) -> None:
        place_image(data.records[index], folder / names[index], written.copy, without_size=True)

    in_threads(place, len(data), _title(written))
    flush_all()
    classes = [(name, name) for name in data.label_map.names]
    images = (("ImageID",), *((Path(name).stem,) for name in names))
    for file, rows in (("class-descriptions.csv", classes), (f"{split}-images.csv", images)):
        write_atomically(written.folder / file, csv_text(rows))
    boxes = written.folder / f"{split}-annotations-bbox.csv"
    with replacing(boxes) as partial, open(partial, "w", encoding="utf-8") as text:
        text.write(csv_text([BOX_COLUMNS]))
        for record, name in zip(data.records, names):
            text.write(csv_text(_box_rows(record, name, data.label_map)))


def _box_rows(record: Record, name: str, label_map: LabelMap) -> list[list[str]]:
    objects = objects_to_write(record, LAYOUTS["csv"])
    classes = _names(objects, label_map)
    return box_rows(Path(name).stem, _size(record), objects.boxes, classes, objects.is_crowd)


def _title(written: Written) -> str:
    return f"Writing {written.folder} ({written.split})"


def _size(record: Record) -> tuple[int, int]:
    return record.height, record.width


def _names(objects: Record, label_map: LabelMap) -> list[str]:
    return [label_map.names[index] for index in objects.classes]


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def _write_quickly(file: Path, text: str) -> None:
    with replacing(file, flush=False) as partial:
        partial.write_text(text, encoding="utf-8")


def check_names(label_map: LabelMap) -> None:
    """Check class names for formats that tell categories by name.

    Raises:
      DataError: if two are equal, or one cannot be written.
    """
    for name in label_map.names:
        if label_map.names.count(name) > 1:
            raise DataError(f"class name {name!r}: two categories have it; rename one")
        if not name.strip() or name != name.strip() or re.search(r"[\x00-\x1f\x7f]", name):
            raise DataError(
                f"class name {name!r}: is empty, or has control characters or spaces around it; "
                "rename the category"
            )


LAYOUTS = {
    "coco": Layout(_write_coco, None, image_ids=True, crowd=True, difficult=True, area=True),
    "voc": Layout(
        _write_voc, 1, image_ids=False, crowd=False, difficult=True, area=False, by_name=True
    ),
    "yolo": Layout(_write_yolo, 0, image_ids=False, crowd=False, difficult=False, area=False),
    "tfrecord": Layout(
        _write_tfrecord, None, image_ids=True, crowd=True, difficult=True, area=True, unknown=True
    ),
    "csv": Layout(
        _write_csv, 1, image_ids=False, crowd=True, difficult=False, area=False, by_name=True
    ),
}
