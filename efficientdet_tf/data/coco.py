"""COCO reader: one JSON file of annotations, and a folder of images.

Category ids may have gaps and are kept; class indices are in their order. Boxes
are [xmin, ymin, width, height] in pixels from the image's top left corner. An
annotation with `"ignore": 1` is a difficult object, as `coco_writer` and MMDetection
write those of Pascal VOC.
"""

import collections
import json
import math
import reprlib
from collections.abc import Hashable
from pathlib import Path
from typing import Any

from efficientdet_tf.boxes import from_xywh
from efficientdet_tf.data.annotations import (
    AnnotatedImage,
    Annotations,
    as_id,
    boxes_array,
    file_name_problem,
    read_text,
)
from efficientdet_tf.data.faults import Fault
from efficientdet_tf.data.records import DataError, LabelMap

# Number of images probed to decide whether a folder is the image folder.
_PROBED = 20
# Values of a flag such as `iscrowd` that writers of COCO files use for the format's 1.
_TRUE = (1, "1", "true", "True")
# Above any image's area, and within float32.
_LARGEST_AREA = 1e30


def recognises(path: str) -> bool:
    """Tell whether `path` looks like a COCO annotation file."""
    return path.lower().endswith(".json")


def lacks_validation(path: str) -> str:
    """Explain why `path`, a training set, has no validation images."""
    return "a COCO file is a single split"


def read(path: str, *, images: str, split: str) -> Annotations:
    """Read an annotation file.

    Args:
      path: the JSON file.
      images: the folder that file names are relative to; "" searches beside the
        JSON file and one level up, also in folders named images, JPEGImages or
        like the split.
      split: name of the split, for messages: a file is one split.

    Raises:
      DataError: if the file is missing or no COCO annotation file, no image entry
        is usable, or the image folder is not found.
    """
    content = load(path)
    problems: list[str] = []
    label_map = _label_map(path, content["categories"])
    entries = _image_entries(path, content["images"], problems)
    objects, unplaced = _objects_of_images(path, content["annotations"], entries, problems)
    folder = _image_folder(path, images, list(entries.values()), split)
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
        box_form="xywh",
        problems=problems,
        notes=_repeated_ids(path, content["annotations"]),
        box_only=_box_only(objects),
    )


def load(path: str) -> dict[str, list]:
    """Parse an annotation file.

    Raises:
      DataError: if it cannot be read, or lacks one of COCO's lists.
    """
    text = read_text(Path(path))
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno}: not valid JSON: {error.msg}") from error
    except RecursionError as error:
        raise DataError(f"{path}: not valid JSON: nested too deeply") from error
    except ValueError as error:
        # E.g. a number of thousands of digits.
        raise DataError(f"{path}: not valid JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path}: {key}: no such list; is it a COCO annotation file?")
    return content


def _label_map(path: str, categories: list) -> LabelMap:
    named = sorted(_category(path, category) for category in categories)
    ids = [category for category, _ in named]
    if not ids or len(set(ids)) != len(ids):
        raise DataError(f"{path}: categories: {'an id occurs twice' if ids else 'is empty'}")
    return LabelMap(tuple(ids), tuple(name for _, name in named))


def _category(path: str, category: Any) -> tuple[int, str]:
    """Parse an entry of the categories: (category id, class name)."""
    if not isinstance(category, dict) or "id" not in category or "name" not in category:
        raise DataError(f"{path}: categories: each needs an id, a number, and a name")
    category_id, name = as_id(category["id"]), category["name"]
    if category_id is None:
        raise DataError(f"{path}: categories: {_no_id('category id', category['id'])}")
    if not isinstance(name, (str, int, float)):
        raise DataError(f"{path}: categories: name of {category_id}: must be a text")
    # Lone surrogates, which JSON may contain, cannot be written to a file.
    return category_id, str(name).encode("utf-8", "replace").decode()


def _no_id(what: str, value: Any) -> str:
    """Describe why `value` is no id."""
    if isinstance(value, str):
        return f"{what} {_short(value)} is a string; ids must be whole numbers"
    return f"{what} {_short(value)} is not a whole number of 64 bits"


def _short(value: Any) -> str:
    """Format any value of the file for a message of one line."""
    return reprlib.repr(value)


def _image_entries(path: str, entries: list, problems: list[str]) -> dict[int, dict]:
    """Return the usable entries by image id, in the order of the file."""
    usable: dict[int, dict] = {}
    for number, entry in enumerate(entries, 1):
        problem = _entry_problem(entry)
        image_id = None if problem else as_id(entry["id"])
        if image_id is None or image_id in usable:
            kind = "entry_unusable" if problem else "image_id_duplicate"
            problem = problem or f"image id {image_id} occurs twice"
            line = f"{path}: image {number} of the list: {problem}"
            problems.append(Fault.parse(kind, line))
        else:
            usable[image_id] = entry
    if not usable:
        first = problems[0].removeprefix(f"{path}: ") if problems else ""
        reason = f"none can be used; the first problem: {first}" if problems else "is empty"
        raise DataError(f"{path}: images: {reason}")
    return usable


def _entry_problem(entry: Any) -> str:
    """Describe why an entry of the images is unusable; "" if it is usable."""
    if not isinstance(entry, dict):
        return "is not an object"
    if as_id(entry.get("id")) is None:
        return _no_id("image id", entry.get("id"))
    file_name = entry.get("file_name")
    if not isinstance(file_name, str):
        return "file_name: is missing"
    problem = file_name_problem(file_name)
    return f"file_name: {problem}" if problem else ""


def _objects_of_images(
    path: str, annotations: list, entries: dict[int, dict], problems: list[str]
) -> tuple[dict[int, list[dict]], dict[int, list[str]]]:
    """Group annotations by image: the readable ones, and a line for each unreadable box."""
    objects: dict[int, list[dict]] = collections.defaultdict(list)
    unplaced: dict[int, list[str]] = collections.defaultdict(list)
    for position, annotation in enumerate(annotations, 1):
        if not isinstance(annotation, dict):
            problems.append(f"{path}: annotation {position} of the list: is not an object")
            continue
        annotation_id = _short(annotation.get("id", position))
        where = f"{path}: annotation {annotation_id}"
        image_id = as_id(annotation.get("image_id"))
        if image_id not in entries:
            problems.append(f"{where}: image_id: {_unknown(annotation.get('image_id'), image_id)}")
        elif _box(annotation.get("bbox")) is None:
            found = _short(annotation.get("bbox"))
            unplaced[image_id].append(f"{where}: bbox: must be four numbers, is {found}")
        else:
            objects[image_id].append(annotation | {"id": annotation_id})
    return objects, unplaced


def _unknown(value: Any, image_id: int | None) -> str:
    if image_id is None:
        return _no_id("image id", value)
    return f"{image_id} is not among the images"


def _box(value: Any) -> list[float] | None:
    """Convert the numbers of a box to floats; return None if it is not four numbers."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    if not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in value):
        return None
    return [_as_float(number) for number in value]


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _repeated_ids(path: str, annotations: list) -> list[Fault]:
    """Return a note on repeated annotation ids, or no note."""
    ids = [as_id(item.get("id")) for item in annotations if isinstance(item, dict)]
    counts = collections.Counter(number for number in ids if number is not None)
    repeated = [number for number, count in counts.items() if count > 1]
    if not repeated:
        return []
    what = "annotation id occurs" if len(repeated) == 1 else "annotation ids occur"
    line = (
        f"{path}: {len(repeated)} {what} more than once, e.g. {repeated[0]}; all of these "
        "annotations are used, where pycocotools takes the last of an id for each"
    )
    place = f"annotation {repeated[0]}"
    return [Fault("annotation_id_duplicate", line, file=path, place=place, field="id")]


def _box_only(objects: dict[int, list[dict]]) -> dict[str, int]:
    """Count the objects with a mask, and with keypoints."""
    every = [item for items in objects.values() for item in items]
    counts = {
        "segmentation": sum(1 for item in every if item.get("segmentation")),
        "keypoints": sum(1 for item in every if item.get("num_keypoints")),
    }
    return {kind: count for kind, count in counts.items() if count}


def _annotated_image(
    path: str,
    folder: Path,
    image_id: int,
    entry: dict,
    objects: list[dict],
    unplaced: list[str],
) -> AnnotatedImage:
    file = str(folder / entry["file_name"])
    # All have a box: those without are in `unplaced`.
    boxes = [from_xywh(*_box(item["bbox"])) for item in objects]  # type: ignore[misc]
    return AnnotatedImage(
        image_id=image_id,
        image=file,
        name=file,
        annotation_file=path,
        size=(_side(entry.get("height")), _side(entry.get("width"))),
        boxes=boxes_array(boxes),
        labels=[_label(o.get("category_id")) for o in objects],
        numbers=[o["id"] for o in objects],
        is_crowd=[o.get("iscrowd") in _TRUE for o in objects],
        area=[_area(o.get("area")) for o in objects],
        is_difficult=[o.get("ignore") in _TRUE for o in objects],
        unplaced=unplaced,
    )


def _side(value: Any) -> int:
    """Convert an image's height or width to pixels; return 0 if it is missing."""
    if isinstance(value, str) and value.isdecimal():
        value = float(value)
    return as_id(value) or 0


def _label(value: Any) -> Hashable:
    """Convert a category to a hashable key for the lookup of its class index."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number or value is None or isinstance(value, str) else _short(value)


def _area(value: Any) -> float:
    """Convert an annotated area to pixels; return NaN if it is missing."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    area = _as_float(value)
    return area if abs(area) < _LARGEST_AREA else math.nan


def _image_folder(path: str, images: str, entries: list[dict], split: str) -> Path:
    """Find the folder that the file names are relative to."""
    if images:
        if not Path(images).is_dir():
            raise DataError(f"{images}: no such folder, given as the images of {path}")
        return Path(images)
    candidates = _candidate_folders(Path(path))
    for folder in candidates:
        if any((folder / entry["file_name"]).is_file() for entry in entries[:_PROBED]):
            return folder
    looked_in = ", ".join(str(folder) for folder in candidates)
    setting = "data.train_images" if split == "train" else "data.val_images"
    raise DataError(
        f"{path}: its images, e.g. {entries[0]['file_name']}, are not in any of {looked_in}; name "
        f"their folder: --set {setting}=FOLDER, or --images=FOLDER for eval.py"
    )


def _candidate_folders(path: Path) -> list[Path]:
    # instances_train2017.json belongs to the folder train2017.
    split = path.stem.removeprefix("instances_")
    names = ("", "images", "JPEGImages", split, f"images/{split}")
    return [parent / name for parent in (path.parent, path.parent.parent) for name in names]
