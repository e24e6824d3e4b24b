"""Writer of data sets in COCO's format."""

import json
import pathlib

from efficientdet_tf.boxes import to_xywh
from efficientdet_tf.data.records import DetectionData, Record
from efficientdet_tf.files import write_atomically
from efficientdet_tf.output_files import MARK, check_replaceable


def write_coco(data: DetectionData, folder: pathlib.Path) -> None:
    """Write records as JPEG files with `annotations.json`.

    Args:
      data: a data set whose records hold JPEG bytes, as those of `digits.load`.
      folder: the output folder; created if missing.

    Raises:
      OutputError: if a file exists that no earlier call wrote.
      OSError: if the folder cannot be written to.
    """
    own = _own_files(folder)
    for name in ("annotations.json", *map(_file_name, data.records)):
        check_replaceable(folder / name, lambda path: path.name in own)
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict] = []
    annotations: list[dict] = []
    for record in data.records:
        name = _file_name(record)
        assert isinstance(record.image, bytes), name
        (folder / name).write_bytes(record.image)
        size = {"height": record.height, "width": record.width}
        images.append({"id": record.image_id, "file_name": name, **size})
        annotations += [
            {
                "id": len(annotations) + index + 1,
                "image_id": record.image_id,
                "category_id": data.label_map.ids[record.classes[index]],
                "bbox": box,
                "area": float(record.area[index]),
                "iscrowd": 0,
            }
            for index, box in enumerate(to_xywh(record.boxes).tolist())
        ]
    names = zip(data.label_map.ids, data.label_map.names)
    content = {
        "info": {"description": MARK},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": id_, "name": name} for id_, name in names],
    }
    write_atomically(folder / "annotations.json", json.dumps(content))


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
