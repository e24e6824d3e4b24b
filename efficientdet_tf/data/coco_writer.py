"""Writer of COCO's format: the parts of an annotation file, and small data sets."""

import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import IO

import numpy as np

from efficientdet_tf.data.decimals import shortest
from efficientdet_tf.data.records import DetectionData, LabelMap, Record
from efficientdet_tf.files import replacing
from efficientdet_tf.output_files import MARK, check_replaceable


def image_entry(image_id: int, file_name: str, image_size: tuple[int, int]) -> dict:
    """Make an entry of the list `images`; `image_size` is (height, width) in pixels."""
    height, width = image_size
    return {"id": image_id, "file_name": file_name, "height": height, "width": width}


def annotation_entries(
    image_id: int,
    boxes: np.ndarray,
    category_ids: Sequence[int],
    area: np.ndarray,
    is_crowd: np.ndarray,
    is_difficult: np.ndarray,
    first_id: int,
) -> list[dict]:
    """Make the entries of an image in the list `annotations`.

    Args:
      image_id: id of the image.
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels.
      category_ids: [n].
      area: float32 [n], in pixels.
      is_crowd: bool [n].
      is_difficult: bool [n], Pascal VOC's flag. COCO has none: such objects get
        `"ignore": 1`, which this program and MMDetection read.
      first_id: id of the first entry; those of the others follow.
    """
    entries = []
    for index, bbox in enumerate(_shortest_xywh(boxes)):
        entry = {
            "id": first_id + index,
            "image_id": image_id,
            "category_id": category_ids[index],
            "bbox": bbox,
            "area": shortest(area[index]),
            "iscrowd": int(is_crowd[index]),
        }
        entries.append(entry | {"ignore": 1} if is_difficult[index] else entry)
    return entries


def category_entries(label_map: LabelMap) -> list[dict]:
    """Make the list `categories`."""
    return [{"id": id_, "name": name} for id_, name in zip(label_map.ids, label_map.names)]


def _shortest_xywh(boxes: np.ndarray) -> list[list[float]]:
    """Convert to [x, y, width, height] in decimals from which the float32 corners are restored."""
    return [
        [xmin, ymin, round(xmax - xmin, 9), round(ymax - ymin, 9)]
        for ymin, xmin, ymax, xmax in shortest(boxes)
    ]


def write_annotation_file(
    file: pathlib.Path, label_map: LabelMap, images: Iterable[dict], objects: Iterable[Record]
) -> None:
    """Write an annotation file entry by entry: all of them take many times their text.

    Args:
      file: the file to write.
      label_map: the categories.
      images: entries of the images, see `image_entry`.
      objects: records whose objects are written; each has a category.

    Raises:
      WriteError: if the file cannot be written.
    """
    head = {"info": {"description": MARK}, "categories": category_entries(label_map)}
    with replacing(file) as partial, open(partial, "w", encoding="utf-8") as text:
        text.write(f'{json.dumps(head)[:-1]}, "images": [')
        _write_entries(text, images)
        text.write('], "annotations": [')
        _write_entries(text, _entries_of_all(objects, label_map))
        text.write("]}\n")


def _write_entries(text: IO[str], entries: Iterable[dict]) -> None:
    for index, entry in enumerate(entries):
        text.write(f"{',' if index else ''}\n{json.dumps(entry)}")


def _entries_of_all(records: Iterable[Record], label_map: LabelMap) -> Iterator[dict]:
    next_id = 1
    for record in records:
        entries = annotation_entries(
            record.image_id,
            record.boxes,
            [label_map.ids[index] for index in record.classes],
            record.area,
            record.is_crowd,
            record.is_difficult,
            next_id,
        )
        yield from entries
        next_id += len(entries)


def write_coco(data: DetectionData, folder: pathlib.Path) -> None:
    """Write records as JPEG files with `annotations.json`.

    Args:
      data: a data set whose records hold JPEG bytes, and whose objects have a category, as
        those of `digits.load`.
      folder: the output folder; created if missing.

    Raises:
      OutputError: if a file exists that no earlier call wrote.
      OSError: if the folder cannot be written to.
    """
    own = _own_files(folder)
    for name in ("annotations.json", *map(_file_name, data.records)):
        check_replaceable(folder / name, lambda path: path.name in own)
    folder.mkdir(parents=True, exist_ok=True)
    images = []
    for record in data.records:
        name = _file_name(record)
        assert isinstance(record.image, bytes), name
        (folder / name).write_bytes(record.image)
        images.append(image_entry(record.image_id, name, (record.height, record.width)))
    write_annotation_file(folder / "annotations.json", data.label_map, images, data.records)


def _file_name(record: Record) -> str:
    return f"{record.image_id:05}.jpg"


def _own_files(folder: pathlib.Path) -> set[str]:
    """List the names of the files that an earlier call wrote to a folder."""
    try:
        content = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
        if content["info"]["description"] != MARK:
            return set()
        return {"annotations.json", *(image["file_name"] for image in content["images"])}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
