"""COCO: one JSON file of annotations, and a folder of images.

Category ids may have gaps and are kept; class indices follow their order. Boxes
are [xmin, ymin, width, height] in pixels from the image's top left corner.
"""

import collections
import json
import math
from pathlib import Path
from typing import Any

from efficientdet_tf.data.annotations import AnnotatedImage, Annotations, boxes_array
from efficientdet_tf.data.records import DataError, LabelMap

# How many images are looked for to tell whether a folder is the right one.
_PROBED = 20


def recognises(path: str) -> bool:
    """Whether `path` looks like a COCO annotation file."""
    return path.lower().endswith(".json")


def read(path: str, *, images: str, split: str) -> Annotations:
    """Reads an annotation file.

    Args:
      path: the JSON file.
      images: the folder that file names are relative to; "" looks for it beside
        the JSON file, and in folders called images, JPEGImages or like the
        split there and one level up.
      split: not used: a file is one split.

    Raises:
      DataError: when the file is missing or no COCO annotation file, or no
        folder of its images is found.
    """
    content = _load(path)
    problems: list[str] = []
    label_map = _label_map(path, content["categories"])
    entries = _image_entries(path, content["images"], problems)
    objects, unplaced = _objects_of_images(path, content["annotations"], entries, problems)
    folder = _image_folder(path, images, list(entries.values()))
    annotated = [
        _annotated_image(path, folder, image_id, entry, objects[image_id], unplaced[image_id])
        for image_id, entry in entries.items()
    ]
    return Annotations(
        images=annotated,
        label_map=label_map,
        class_indices={category: index for index, category in enumerate(label_map.ids)},
        source=path,
        object_word="annotation",
        box_field="bbox",
        label_field="category_id",
        problems=problems,
    )


def _load(path: str) -> dict[str, list]:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno}: not valid JSON: {error.msg}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path}: {key}: no such list; is it a COCO annotation file?")
    return content


def _label_map(path: str, categories: list) -> LabelMap:
    try:
        named = sorted((int(category["id"]), str(category["name"])) for category in categories)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: categories: each needs an id, a number, and a name") from error
    ids = [category for category, _ in named]
    if not ids or len(set(ids)) != len(ids):
        raise DataError(f"{path}: categories: {'an id occurs twice' if ids else 'is empty'}")
    return LabelMap(tuple(ids), tuple(name for _, name in named))


def _image_entries(path: str, entries: list, problems: list[str]) -> dict[int, dict]:
    """The usable entries by image id, in the order of the file."""
    usable: dict[int, dict] = {}
    for number, entry in enumerate(entries, 1):
        where = f"{path}: image {number} of the list"
        image_id = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(image_id, int):
            problems.append(f"{where}: id: must be a whole number, is {image_id!r}")
        elif not isinstance(entry.get("file_name"), str):
            problems.append(f"{where}: file_name: is missing")
        elif image_id in usable:
            problems.append(f"{where}: id: {image_id} occurs twice")
        else:
            usable[image_id] = entry
    return usable


def _objects_of_images(
    path: str, annotations: list, entries: dict[int, dict], problems: list[str]
) -> tuple[dict[int, list[dict]], dict[int, list[str]]]:
    """The annotations of each image, and one line for each whose box cannot be read."""
    objects: dict[int, list[dict]] = collections.defaultdict(list)
    unplaced: dict[int, list[str]] = collections.defaultdict(list)
    for position, annotation in enumerate(annotations, 1):
        if not isinstance(annotation, dict):
            problems.append(f"{path}: annotation {position} of the list: is not an object")
            continue
        where = f"{path}: annotation {annotation.get('id', position)}"
        if annotation.get("image_id") not in entries:
            found = annotation.get("image_id")
            problems.append(f"{where}: image_id: {found!r} is not among the images")
        elif not _is_box(annotation.get("bbox")):
            found = annotation.get("bbox")
            problem = f"{where}: bbox: must be four numbers, is {found!r}"
            unplaced[annotation["image_id"]].append(problem)
        else:
            objects[annotation["image_id"]].append({"id": position, **annotation})
    return objects, unplaced


def _is_box(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(number, (int, float)) for number in value)
    )


def _annotated_image(
    path: str,
    folder: Path,
    image_id: int,
    entry: dict,
    objects: list[dict],
    unplaced: list[str],
) -> AnnotatedImage:
    file = str(folder / entry["file_name"])
    boxes = [(y, x, y + height, x + width) for x, y, width, height in (o["bbox"] for o in objects)]
    return AnnotatedImage(
        image_id=image_id,
        image=file,
        name=file,
        annotation_file=path,
        size=(entry.get("height") or 0, entry.get("width") or 0),
        boxes=boxes_array(boxes),
        labels=[o.get("category_id") for o in objects],
        numbers=[o["id"] for o in objects],
        is_crowd=[bool(o.get("iscrowd", 0)) for o in objects],
        area=[_number_or_nan(o.get("area")) for o in objects],
        unplaced=unplaced,
    )


def _number_or_nan(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _image_folder(path: str, images: str, entries: list[dict]) -> Path:
    """The folder that the file names are relative to."""
    if images:
        if not Path(images).is_dir():
            raise DataError(f"{images}: no such folder, given as the images of {path}")
        return Path(images)
    candidates = _candidate_folders(Path(path))
    for folder in candidates:
        if any((folder / entry["file_name"]).is_file() for entry in entries[:_PROBED]):
            return folder
    looked_in = ", ".join(str(folder) for folder in candidates)
    raise DataError(f"{path}: its images are not in any of {looked_in}; say where they are")


def _candidate_folders(path: Path) -> list[Path]:
    # instances_train2017.json belongs to the folder train2017.
    split = path.stem.removeprefix("instances_")
    names = ("", "images", "JPEGImages", split, f"images/{split}")
    return [parent / name for parent in (path.parent, path.parent.parent) for name in names]
