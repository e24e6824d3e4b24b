"""YOLO reader: a file that names the classes and the images of each split, such as data.yaml.

`yolo_description` says which files these are. Each image has a text file of the same name in the
folder "labels" beside the folder "images" (or beside the image itself), one line per object:

- class, x_center, y_center, width and height, the last four as fractions of the
  image's size; a confidence after them, as in saved predictions, is ignored;
- or class and the points of a polygon, x y x y ..., as fractions: its box is used;
- with `kpt_shape` in data.yaml, keypoints after the box are ignored.

An image without such a file is background only. Category ids are the class
numbers, from 0. Images are ordered by path and numbered from 1.
"""

import collections
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from efficientdet_tf.boxes import from_center
from efficientdet_tf.data import yolo_description, yolo_images
from efficientdet_tf.data.annotations import (
    AnnotatedImage,
    Annotations,
    as_id,
    boxes_array,
    pixels_among_fractions,
)
from efficientdet_tf.data.records import DataError, LabelMap

_FIELDS = "class x_center y_center width height"
_BOX_COLUMNS = 5
# The class and the three points that a polygon has at least.
_POLYGON_COLUMNS = 7
# By the number of columns: file and number of lines that may mean something else.
_Lines = dict[int, list[str]]


def recognises(path: str) -> bool:
    """Tell whether `path` is a file that describes a data set of YOLO, or a folder with one."""
    return yolo_description.is_description(path)


def lacks_validation(path: str) -> str:
    """Explain why `path`, a training set, has no validation images; "" if it has some.

    It is also "" for a file that does not exist, of which `read` complains.
    """
    file = yolo_description.find(path)
    if not file.is_file():
        return ""
    content = yolo_description.load(file)
    if file.name == yolo_description.CLASSES and content.get("val") in (None, content.get("train")):
        return f"a folder with {file.name} and without images/val is a single split"
    key = "valid" if file.suffix == ".data" else "val"
    return "" if content.get("val") is not None else f"{file.name} has no key {key}"


def read(path: str, *, images: str, split: str) -> Annotations:
    """Read a split.

    Args:
      path: the file that describes the data set, or its folder.
      images: image folder that overrides the one in that file, or "".
      split: the key of the file that names the image folder.

    Raises:
      DataError: if this file or the image folder is missing or invalid, or
        no image has a label file.
    """
    file = yolo_description.find(path)
    content = yolo_description.load(file)
    label_map = _label_map(file, content.get("names"))
    columns = _pose_columns(file, content.get("kpt_shape"))
    files, problems = yolo_images.find(file, content, images, split)
    unusual: _Lines = collections.defaultdict(list)
    kinds: collections.Counter[str] = collections.Counter()
    annotated = [
        _annotated_image(image_id, image, columns, unusual, kinds)
        for image_id, image in enumerate(files, 1)
    ]
    if not any(Path(image.annotation_file).is_file() for image in annotated):
        example = annotated[0].annotation_file
        raise DataError(f"{file}: {split}: no image has a label file, e.g. {example}")
    return Annotations(
        images=annotated,
        label_map=label_map,
        class_indices={number: index for index, number in enumerate(label_map.ids)},
        source=f"{file} ({split})",
        object_word="line",
        box_field="box",
        label_field="class",
        box_form="cxcywh",
        fractions=True,
        problems=problems,
        notes=_notes(f"{file} ({split})", unusual),
        box_only=kinds,
    )


def _label_map(file: Path, names: Any) -> LabelMap:
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DataError(f"{file}: names: must be the list of the class names")
    if any(as_id(number) is None for number in names):
        raise DataError(f"{file}: names: class numbers must be whole numbers")
    for number, name in names.items():
        if name is None or isinstance(name, (list, dict)):
            raise DataError(f"{file}: names: name of class {number}: must be a text")
    numbers = sorted(names)
    return LabelMap(tuple(map(int, numbers)), tuple(str(names[number]) for number in numbers))


def _pose_columns(file: Path, shape: Any) -> int:
    """Return the number of columns of a line with keypoints; 0 in data sets without."""
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or any(not as_id(n) for n in shape):
        raise DataError(f"{file}: kpt_shape: must be the two numbers [keypoints, dimensions]")
    return _BOX_COLUMNS + math.prod(shape)


def _notes(source: str, unusual: _Lines) -> list[str]:
    """Return a note on each kind of unusual lines, see `_annotated_image`."""
    meanings = {
        _BOX_COLUMNS + 1: "a sixth column, e.g. {}; it is taken for the confidence of a prediction "
        "and ignored: every box counts as a whole object",
        _POLYGON_COLUMNS: "seven columns of which the last is 0 or 1, e.g. {}; they are taken for "
        "the class and three points: remove the columns after a box if they are confidence and "
        "track id",
    }
    notes = []
    for columns, meaning in meanings.items():
        if lines := unusual[columns]:
            have = "line has" if len(lines) == 1 else "lines have"
            notes.append(f"{source}: {len(lines)} {have} {meaning.format(lines[0])}")
    return notes


def _label_file(image: Path) -> Path:
    """Find the label file of an image, or return where it should be."""
    parts = list(image.parts)
    for i in reversed(range(len(parts) - 1)):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    places = dict.fromkeys((Path(*parts), image))
    guesses = [place.with_suffix(suffix) for place in places for suffix in (".txt", ".TXT")]
    return next((guess for guess in guesses if os.path.isfile(guess)), guesses[0])


def _annotated_image(
    image_id: int,
    image: Path,
    pose_columns: int,
    unusual: _Lines,
    kinds: collections.Counter[str],
) -> AnnotatedImage:
    """Read the labels of an image.

    Lines with a sixth column, and triangles that may be a box with confidence and track id, are
    added to `unusual`; lines with more than a box are counted in `kinds`.
    """
    label_file = _label_file(image)
    boxes, labels, numbers, unplaced = [], [], [], []
    lines, problem = _lines(label_file)
    if problem:
        unplaced.append(problem)
    for number, line in lines:
        where = f"{label_file}: line {number}"
        columns = line.split()
        try:
            label, box = _read_line(columns, pose_columns)
        except _BadBoxError as error:
            unplaced.append(f"{where}: box: {error}")
            continue
        except (ValueError, OverflowError):
            unplaced.append(f"{where}: must be five numbers, {_FIELDS}, or class and a polygon")
            continue
        if len(columns) == _BOX_COLUMNS + 1:
            unusual[len(columns)].append(where)
        elif len(columns) > _BOX_COLUMNS:
            # A larger track id is no fraction, and refused.
            if len(columns) == _POLYGON_COLUMNS != pose_columns and columns[-1] in ("0", "1"):
                unusual[len(columns)].append(where)
            kinds["keypoints" if len(columns) == pose_columns else "polygon"] += 1
        boxes.append(box)
        labels.append(label)
        numbers.append(number)
    return AnnotatedImage(
        image_id=image_id,
        image=str(image),
        name=str(image),
        annotation_file=str(label_file),
        size=None,
        boxes=boxes_array(boxes),
        labels=labels,
        numbers=numbers,
        unplaced=unplaced,
    )


def _lines(label_file: Path) -> tuple[list[tuple[int, str]], str]:
    """Read the non-empty lines with their numbers, and the reason if they cannot be read."""
    try:
        text = label_file.read_text(encoding="utf-8-sig", errors="replace")
    except FileNotFoundError:
        return [], ""
    except OSError as error:
        return [], f"{label_file}: cannot be read: {error.strerror}"
    lines = enumerate(text.splitlines(), 1)
    return [(number, line) for number, line in lines if line.strip()], ""


class _BadBoxError(ValueError):
    """Invalid box in a line with valid columns."""


def _read_line(
    columns: Sequence[str], pose_columns: int
) -> tuple[float, tuple[float, float, float, float]]:
    """Parse the class, and the box as ymin, xmin, ymax, xmax; ValueError if invalid."""
    number, *numbers = (float(value) for value in columns)
    label = int(number) if number == int(number) else number
    is_box = len(columns) in (_BOX_COLUMNS, _BOX_COLUMNS + 1, pose_columns)
    if not is_box and (len(columns) < _POLYGON_COLUMNS or len(numbers) % 2):
        raise ValueError("neither a box nor a polygon")
    # The columns after a box are a confidence or keypoints.
    numbers = numbers[:4] if is_box else numbers
    pixels = pixels_among_fractions(numbers)
    if pixels:
        raise _BadBoxError(pixels)
    if is_box:
        return label, from_center(*numbers)
    points = np.reshape(numbers, (-1, 2))
    (xmin, ymin), (xmax, ymax) = points.min(axis=0), points.max(axis=0)
    return label, (ymin, xmin, ymax, xmax)
