"""Reader of CSV files with a row for each box in pixels.

As the tutorials of TensorFlow's Object Detection API and Roboflow ("TensorFlow Object Detection
CSV") write them:

    train/_annotations.csv    filename,width,height,class,xmin,ymin,xmax,ymax
    train/*.jpg

or train_labels.csv and test_labels.csv, with the images in images/, or in images/train/ and
images/test/. A row without class and corners is an image without objects. Categories are classes:
sorted and numbered from 1 over the files of all splits, or in the order of a file labels.txt in the
folder, one name per line. Images are ordered as in the file and numbered from 1.
"""

from pathlib import Path, PureWindowsPath
from typing import NamedTuple

from efficientdet_tf.data import split_names
from efficientdet_tf.data.annotations import (
    AnnotatedImage,
    Annotations,
    boxes_array,
    file_name_problem,
)
from efficientdet_tf.data.class_names import label_map_of_folder
from efficientdet_tf.data.csv_rows import read_rows
from efficientdet_tf.data.image_folders import ImageFolder, folders_of_images
from efficientdet_tf.data.records import DataError

_CORNERS = ("ymin", "xmin", "ymax", "xmax")
_COLUMNS = ("filename", "class", *_CORNERS)
_SIZE = ("height", "width")
_FORMAT = "such a CSV file"


class _Row(NamedTuple):
    number: int
    name: str
    label: str
    corners: list[str]
    size: list[str]


def recognises(path: str) -> bool:
    """Tell whether `path` is such a CSV file, or a folder with some, or with splits of them."""
    return bool(_is_table(Path(path)) or _every_file(Path(path)))


def lacks_validation(path: str) -> str:
    """Explain why `path`, a training set, has no validation images; "" if it has some."""
    if not Path(path).is_dir():
        return "a CSV file is a single split"
    return (
        ""
        if _named(Path(path), "val", _every_file(Path(path)))
        else "there is no CSV file of a split val"
    )


def read(path: str, *, images: str, split: str) -> Annotations:
    """Read a split.

    Args:
      path: a CSV file, or a folder with CSV files that are, or whose folders are, named by
        splits; if none is, all are read.
      images: the image folder; "" searches beside the CSV file and one level up, also in
        folders named images, data or like the split.
      split: name of the split, e.g. "train".

    Raises:
      DataError: if a file cannot be read or lacks a column, the folder has none of the split, or
        no image is found.
    """
    root = Path(path)
    every = _every_file(root) if root.is_dir() else [root]
    files = _files_of_split(root, split, every)
    rows = {file: _read_rows(file) for file in every}
    labels = {row.label for found in rows.values() for row in found}
    folder = root if root.is_dir() else root.parent
    label_map = label_map_of_folder(folder, labels, root)
    problems: list[str] = []
    annotated: list[AnnotatedImage] = []
    for file in files:
        of_image = _by_image(file, rows[file], problems)
        finder = _image_folder(file, list(of_image), images, split)
        for name, found in of_image.items():
            annotated.append(_annotated_image(len(annotated) + 1, file, name, found, finder))
    return Annotations(
        images=annotated,
        label_map=label_map,
        class_indices={name: index for index, name in enumerate(label_map.names)},
        source=path if files == [root] else f"{path} ({split})",
        object_word="line",
        box_field=", ".join(_CORNERS),
        label_field="class",
        problems=problems,
    )


def _is_table(file: Path) -> bool:
    """Tell whether a path is a CSV file whose header has the columns."""
    if file.suffix.lower() != ".csv":
        return False
    try:
        next(read_rows(file, ("filename", "xmin"), format=_FORMAT), None)
    except DataError:
        return False
    return True


def _every_file(root: Path) -> list[Path]:
    """List the CSV files in a folder and in its folders of splits."""
    if not root.is_dir():
        return []
    places = [root, *(root / word for words in split_names.WORDS.values() for word in words)]
    return [file for place in places for file in sorted(place.glob("*.csv")) if _is_table(file)]


def _named(root: Path, split: str, every: list[Path]) -> list[Path]:
    """List the files that are of a split by their name, or by that of their folder."""
    return [
        file
        for file in every
        if split_names.is_of_split(split, str(file.relative_to(root).parent))
        or split_names.is_of_split(split, file)
    ]


def _files_of_split(root: Path, split: str, every: list[Path]) -> list[Path]:
    if not root.is_dir():
        return every
    if not every:
        raise DataError(f"{root}: no CSV file with the columns {', '.join(_COLUMNS)} in it")
    if found := _named(root, split, every):
        return found
    if others := [name for name in split_names.WORDS if _named(root, name, every)]:
        raise DataError(f"{root}: no CSV file of a split {split} in it, only {', '.join(others)}")
    return every


def _read_rows(file: Path) -> list[_Row]:
    rows = read_rows(file, _COLUMNS, _SIZE, format=_FORMAT)
    return [
        _Row(number, name.strip(), label.strip(), rest[:4], rest[4:])
        for number, (name, label, *rest) in rows
    ]


def _by_image(file: Path, rows: list[_Row], problems: list[str]) -> dict[str, list[_Row]]:
    """Group rows by the name of their image; add those without one to `problems`."""
    of_image: dict[str, list[_Row]] = {}
    for row in rows:
        if problem := file_name_problem(row.name):
            problems.append(f"{file}: line {row.number}: filename {problem}")
        else:
            of_image.setdefault(row.name, []).append(row)
    return of_image


def _names(name: str) -> list[str]:
    """List the paths that an image may have in its folder, of a path that may be another disk's."""
    path = PureWindowsPath(name)
    return [path.as_posix(), path.name]


def _image_folder(file: Path, names: list[str], images: str, split: str) -> ImageFolder:
    """Return the folder of a file's images: the first in which one is."""
    places = [Path(images)] if images else folders_of_images(file, split)
    for place in dict.fromkeys(places):
        folder = ImageFolder(place)
        if any(folder.find(_names(name)) for name in names):
            return folder
    example = names[0] if names else "none is listed"
    setting = "data.train_images" if split == "train" else "data.val_images"
    raise DataError(
        f"{file}: its images, e.g. {example}, are not in {', '.join(map(str, places))}; name their "
        f"folder: --set {setting}=FOLDER, or --images=FOLDER for eval.py"
    )


def _annotated_image(
    image_id: int, file: Path, name: str, rows: list[_Row], folder: ImageFolder
) -> AnnotatedImage:
    boxes, kept, unplaced = [], [], []
    for row in rows:
        if not (row.label or "".join(row.corners).strip()):
            continue
        try:
            boxes.append([float(value) for value in row.corners])
            kept.append(row)
        except ValueError:
            unplaced.append(f"{file}: line {row.number}: {', '.join(_CORNERS)}: must be numbers")
    image = str(folder.find(_names(name)) or folder.path / _names(name)[0])
    return AnnotatedImage(
        image_id=image_id,
        image=image,
        name=image,
        annotation_file=str(file),
        size=_size(rows[0]),
        boxes=boxes_array(boxes),
        labels=[row.label for row in kept],
        numbers=[row.number for row in kept],
        unplaced=unplaced,
    )


def _size(row: _Row) -> tuple[int, int] | None:
    """Return (height, width) of a row; None where it has none."""
    height, width = (value.strip() for value in row.size)
    return (int(height), int(width)) if height.isdecimal() and width.isdecimal() else None
