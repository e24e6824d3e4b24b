"""A data set as files in COCO's format."""

import json
import pathlib

from efficientdet_tf.data.records import DetectionData
from efficientdet_tf.files import write_atomically


def write_coco(data: DetectionData, folder: pathlib.Path) -> None:
    """Writes records as JPEG files with `annotations.json`.

    Args:
      data: its records hold their images' JPEG bytes, as those of `digits.load` do.
      folder: made where it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for record in data.records:
        name = f"{record.image_id:05}.jpg"
        (folder / name).write_bytes(record.image)
        size = {"height": record.height, "width": record.width}
        images.append({"id": record.image_id, "file_name": name, **size})
        annotations += [
            {
                "id": len(annotations) + index + 1,
                "image_id": record.image_id,
                "category_id": data.label_map.ids[record.classes[index]],
                "bbox": [float(value) for value in (xmin, ymin, xmax - xmin, ymax - ymin)],
                "area": float(record.area[index]),
                "iscrowd": 0,
            }
            for index, (ymin, xmin, ymax, xmax) in enumerate(record.boxes)
        ]
    names = zip(data.label_map.ids, data.label_map.names)
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": id_, "name": name} for id_, name in names],
    }
    write_atomically(folder / "annotations.json", json.dumps(content))
