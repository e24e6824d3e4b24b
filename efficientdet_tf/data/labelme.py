"""LabelMe reader: a folder with one JSON file for each image.

Each shape with an area is an object: a rectangle, polygon, circle or mask, of which the
box is used, and so is X-AnyLabeling's "rotation", the corners of a turned box; lines and
points are no objects, and are counted in a note. An image may be beside its JSON file or
inside it. Categories are labels: sorted and numbered from 1, or in the order of a file
labels.txt in the folder, one name per line. Regions with LabelMe's own label "__ignore__"
are ignored. Folders "train" and "val" inside are splits. Images are ordered by JSON file
and numbered from 1.
"""

import base64
import binascii
import collections
import json
import math
import reprlib
from pathlib import Path, PureWindowsPath
from typing import Any

from efficientdet_tf.data import split_names
from efficientdet_tf.data.annotations import (
    IMAGE_SUFFIXES,
    AnnotatedImage,
    Annotations,
    as_id,
    boxes_array,
    file_name_problem,
    read_text,
)
from efficientdet_tf.data.class_names import label_map_of_folder
from efficientdet_tf.data.image_folders import ImageFolder, notes_on_deeper_files
from efficientdet_tf.data.outlines import area_of_polygon, box_of_ellipse, box_of_points
from efficientdet_tf.data.records import DataError

# The second is X-AnyLabeling's.
_POLYGONS = ("polygon", "rotation")
# Shapes without an area.
_NO_OBJECTS = ("point", "points", "line", "linestrip")
# Labels with a meaning of LabelMe's tools. Shapes with the first are ignored.
_RESERVED = ("__ignore__", "_background_")
# Number of JSON files read to recognise a folder.
_PROBED = 3


def recognises(path: str) -> bool:
    """Tell whether `path` is a folder with JSON files of shapes, or with splits of such files."""
    places = [folder for split in ("train", "val") if (folder := _split_folder(path, split))]
    return any(_has_shapes(folder) for folder in (Path(path), *places))


def lacks_validation(path: str) -> str:
    """Explain why `path`, a training set, has no validation images; "" if it has some."""
    return "" if _split_folder(path, "val") else "a LabelMe folder without a folder val"


def read(path: str, *, images: str, split: str) -> Annotations:
    """Read a folder.

    Args:
      path: the folder of the JSON files, or the folder that holds one for each split.
      images: the image folder; "" is that of the JSON files.
      split: name of the split, e.g. "train"; the folder of this name is read if it exists.

    Raises:
      DataError: if no JSON file can be used, or there is no label.
    """
    root, folder = Path(path), _split_folder(path, split) or Path(path)
    problems: list[str] = []
    contents = {file: _load(file, problems) for file in _json_files(folder, problems)}
    labelled = {file: content for file, content in contents.items() if content is not None}
    if not labelled:
        first = f"; the first problem: {problems[0]}" if problems else ""
        raise DataError(f"{folder}: no JSON file of LabelMe in it{first}")
    used = _used_labels(root, folder, labelled)
    label_map = label_map_of_folder(root, used, folder, _RESERVED)
    shapes: collections.Counter[str] = collections.Counter()
    image_folder = ImageFolder(Path(images) if images else folder)
    annotated = [
        _annotated_image(image_id, file, content, image_folder, shapes)
        for image_id, (file, content) in enumerate(labelled.items(), 1)
    ]
    return Annotations(
        images=annotated,
        label_map=label_map,
        class_indices={name: index for index, name in enumerate(label_map.names)},
        source=path if folder == root else f"{path} ({split})",
        object_word="shape",
        box_field="points",
        label_field="label",
        ignored_labels=_RESERVED[:1],
        problems=problems,
        notes=_notes(folder, shapes),
        box_only={name: n for name, n in shapes.items() if name not in ("rectangle", *_NO_OBJECTS)},
    )


def _split_folder(path: str, split: str) -> Path | None:
    places = [Path(path) / word for word in split_names.words_of(split)]
    return next((place for place in places if _has_shapes(place)), None)


def _json_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(file for file in folder.iterdir() if file.suffix.lower() == ".json")


def _json_files(folder: Path, problems: list[str]) -> list[Path]:
    """List the JSON files in order; add those with an invalid name to `problems`."""
    files = []
    for file in _json_in(folder):
        problem = file_name_problem(file.stem)
        if problem:
            problems.append(f"{folder}: file name {problem}")
        else:
            files.append(file)
    return files


def _has_shapes(folder: Path) -> bool:
    files = _json_in(folder)[:_PROBED]
    return any(_load(file, problems=[]) is not None for file in files)


def _load(file: Path, problems: list[str]) -> dict | None:
    """Parse a JSON file of shapes; add why it cannot be used to `problems`."""
    try:
        content = json.loads(read_text(file))
    except DataError as error:
        problems.append(str(error))
        return None
    except (ValueError, RecursionError):
        problems.append(f"{file}: not valid JSON")
        return None
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        problems.append(f"{file}: shapes: no such list; is it a file of LabelMe?")
        return None
    # Most of the file where an image is inside; read again when it is needed.
    content["imageData"] = bool(content.get("imageData"))
    return content


def _used_labels(root: Path, folder: Path, read: dict[Path, dict]) -> set[str]:
    """Return the labels of all splits, so that they agree."""
    labels = {_label(shape) for content in read.values() for shape in _shapes(content)}
    others = {_split_folder(str(root), split) for split in split_names.WORDS} - {None, folder}
    for other in others if folder != root else ():
        for file in _json_in(other) if other else ():
            content = _load(file, problems=[])
            labels |= {_label(shape) for shape in _shapes(content or {"shapes": []})}
    return labels


def _shapes(content: dict) -> list[dict]:
    """Return the shapes that are objects."""
    shapes = [shape for shape in content["shapes"] if isinstance(shape, dict)]
    return [shape for shape in shapes if _kind(shape) not in _NO_OBJECTS]


def _kind(shape: dict) -> str:
    # Files of the first versions have polygons only, without a type.
    return str(shape.get("shape_type") or "polygon")


def _label(shape: dict) -> str:
    return str(shape.get("label") or "").strip()


def _annotated_image(
    image_id: int, file: Path, content: dict, folder: ImageFolder, shapes: collections.Counter[str]
) -> AnnotatedImage:
    boxes, kept, unplaced = [], [], []
    for number, shape in enumerate(content["shapes"], 1):
        if not isinstance(shape, dict):
            unplaced.append(f"{file}: shape {number}: is not an object")
            continue
        shapes[_kind(shape)] += 1
        if _kind(shape) in _NO_OBJECTS:
            continue
        try:
            box, area = _box_and_area(shape)
        except (TypeError, ValueError, OverflowError) as error:
            unplaced.append(f"{file}: shape {number}: {error}")
            continue
        boxes.append(box)
        kept.append((number, shape, area))
    image, name = _image(file, content, folder)
    return AnnotatedImage(
        image_id=image_id,
        image=image,
        name=name,
        annotation_file=str(file),
        size=(as_id(content.get("imageHeight")) or 0, as_id(content.get("imageWidth")) or 0),
        boxes=boxes_array(boxes),
        labels=[_label(shape) for _, shape, _ in kept],
        numbers=[number for number, _, _ in kept],
        area=[area for _, _, area in kept],
        is_difficult=[shape.get("difficult") is True for _, shape, _ in kept],
        unplaced=unplaced,
    )


def _box_and_area(shape: dict) -> tuple[tuple[float, float, float, float], float]:
    """Return the box and the area, NaN for that of the box; ValueError if there is none."""
    points: Any = shape.get("points")
    kind = _kind(shape)
    if not _are_points(points):
        raise ValueError(f"points: must be pairs of numbers, is {reprlib.repr(points)}")
    if kind == "circle":
        if len(points) != 2:
            raise ValueError("points: a circle has two, its centre and one on it")
        (x, y), on_it = points
        radius = math.dist((x, y), on_it)
        return box_of_ellipse(x, y, radius, radius), math.pi * radius**2
    if kind not in ("rectangle", "mask", *_POLYGONS):
        raise ValueError(f"shape_type: {kind!r} is unknown")
    area = area_of_polygon(points) if kind in _POLYGONS else math.nan
    return box_of_points(points), area


def _are_points(points: Any) -> bool:
    if not isinstance(points, list) or len(points) < 2:
        return False
    return all(
        isinstance(point, list)
        and len(point) == 2
        and all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in point)
        for point in points
    )


def _image(file: Path, content: dict, folder: ImageFolder) -> tuple[str | bytes, str]:
    """Return the image's file, or the image inside the JSON file, and its name in messages."""
    # The path of an annotator on Windows has backslashes.
    named = PureWindowsPath(str(content.get("imagePath") or "")).as_posix()
    guesses = [f"{file.stem}{suffix}" for suffix in IMAGE_SUFFIXES]
    if not file_name_problem(named):
        guesses = [named, Path(named).name, *guesses]
    if found := folder.find(guesses):
        return str(found), str(found)
    if content["imageData"]:
        try:
            encoded = json.loads(read_text(file))["imageData"]
            return base64.b64decode(encoded, validate=True), str(file)
        except (binascii.Error, TypeError, ValueError):
            return b"", f"{file}: imageData"
    guess = str(folder.path / guesses[0])
    return guess, guess


def _notes(folder: Path, shapes: collections.Counter[str]) -> list[str]:
    """Return notes on shapes that are no objects, and on images without a JSON file."""
    notes = [
        f"{folder}: {shapes[kind]} of shape_type {kind!r} have no area; not used as objects"
        for kind in _NO_OBJECTS
        if shapes[kind]
    ]
    notes += notes_on_deeper_files(folder, ".json")
    labelled = {file.stem for file in _json_in(folder)}
    images = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES]
    others = sorted(image.name for image in images if image.stem not in labelled)
    if others:
        notes.append(
            f"{folder}: images without a JSON file are not used: {len(others)}, e.g. {others[0]}"
        )
    return notes
