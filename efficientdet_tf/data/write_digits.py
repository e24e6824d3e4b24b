"""Command line: the built-in pictures as files, to look at or to try other tools on."""

import json
import pathlib

from absl import flags

from efficientdet_tf import command_line
from efficientdet_tf.errors import UserError

FLAGS = flags.FLAGS

flags.DEFINE_string("output", None, "Folder to write to.")
flags.DEFINE_enum("split", "val", ["train", "val"], "Which part.")
flags.DEFINE_integer("images", 16, "How many pictures.", lower_bound=1)


def main():
    """Writes the pictures and `annotations.json`, in COCO's format."""
    if not FLAGS.output:
        raise UserError("--output is missing: the folder to write to")
    from efficientdet_tf.data import digits

    data = digits.load(FLAGS.split, num_images=FLAGS.images)
    folder = pathlib.Path(FLAGS.output)
    try:
        write(data, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from error
    print(f"{len(data)} pictures and annotations.json are in {folder}")


def write(data, folder: pathlib.Path) -> None:
    """Writes built-in records as JPEG files with a COCO file.

    Args:
      data: of `digits.load`.
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
    (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")


if __name__ == "__main__":
    command_line.run("write_digits", main)
