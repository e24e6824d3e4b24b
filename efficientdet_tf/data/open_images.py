"""Open Images reader: CSV files of boxes, of class names and of images, and a folder of images.

    train-annotations-bbox.csv        ImageID,...,LabelName,...,XMin,XMax,YMin,YMax,IsGroupOf,...
    class-descriptions-boxable.csv    LabelName,class name
    train-images.csv                  ImageID of all images, those without objects included
    train/                            ImageID.jpg

Files may have prefixes such as "oidv6-". Boxes are fractions of the image's size. A box
with IsGroupOf is a crowd region. Category ids count the lines of the class names from 1,
or the LabelNames of all files of boxes, sorted, if there are no class names. The image
list is optional. Images are ordered by ImageID and numbered from 1; listed images that
are not in the folder are not used, because most users download a part.
"""

import array
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from efficientdet_tf.data import split_names
from efficientdet_tf.data.annotations import (
    IMAGE_SUFFIXES,
    AnnotatedImage,
    Annotations,
    boxes_array,
    pixels_among_fractions,
)
from efficientdet_tf.data.class_names import numbered
from efficientdet_tf.data.csv_rows import read_rows
from efficientdet_tf.data.image_folders import folders_of_images
from efficientdet_tf.data.records import DataError, LabelMap

_BOXES = "*bbox*.csv"
_CORNERS = ("YMin", "XMin", "YMax", "XMax")
_COLUMNS = ("ImageID", "LabelName", *_CORNERS)
_OPTIONAL = ("IsGroupOf",)


def recognises(path: str) -> bool:
    """Tell whether `path` is a CSV file, or a folder with files of boxes."""
    return path.lower().endswith(".csv") or any(Path(path).glob(_BOXES))


def lacks_validation(path: str) -> str:
    """Explain why `path`, a training set, has no validation images; "" if it has some."""
    if not Path(path).is_dir():
        return "a CSV file is a single split"
    found = any(split_names.is_of_split("val", file.name) for file in Path(path).glob(_BOXES))
    return "" if found else "validation-annotations-bbox.csv is missing"


def read(path: str, *, images: str, split: str) -> Annotations:
    """Read a split.

    Args:
      path: a CSV file of boxes, or a folder. If a folder's files are named by splits,
        those of `split` are read, else all files of boxes.
      images: the image folder; "" searches beside the CSV file and one level up, also
        in folders named data, images or like the split.
      split: name of the split, e.g. "train".

    Raises:
      DataError: if a file is missing, cannot be read or lacks a column, or no image is
        found.
    """
    files = box_files(path, split)
    folder = files[0].parent
    label_map, class_indices = _label_map(folder, files)
    listed = _listed_images(folder, files, split)
    found = _image_files(path, images, split, files, listed)
    rows = {name: _Rows(found[name]) for name in sorted(found)}
    for file in files:
        for number, (name, *values) in _rows(file, _COLUMNS, _OPTIONAL):
            if name in rows:
                rows[name].add(file, number, *values)
    return Annotations(
        images=[
            image.annotated(image_id, str(files[0]))
            for image_id, image in enumerate(rows.values(), 1)
        ],
        label_map=label_map,
        class_indices=class_indices,
        source=path if len(files) == 1 and str(files[0]) == path else f"{path} ({split})",
        object_word="line",
        box_field=", ".join(_CORNERS),
        label_field="LabelName",
        fractions=True,
        notes=_missing_note(path, listed, found),
    )


def box_files(path: str, split: str) -> list[Path]:
    """Return the files of boxes of a split.

    Raises:
      DataError: if the folder has some, but not of this split.
    """
    if not Path(path).is_dir():
        return [Path(path)]
    every = sorted(Path(path).glob(_BOXES))
    if not every:
        raise DataError(f"{path}: no *bbox*.csv in it; name the CSV file of boxes")
    files = split_names.files_of_split(split, every)
    if not files:
        raise DataError(f"{path}: no {split}-annotations-bbox.csv in it, only {every[0].name}")
    return files


class _Rows:
    """Rows of an image, of which large sets have millions.

    Args:
      image: the image file.
    """

    def __init__(self, image: Path) -> None:
        self._image = str(image)
        self._file: Path | None = None
        self._numbers = array.array("q")
        self._labels: list[str] = []
        self._boxes = array.array("d")
        self._groups = bytearray()
        self._unplaced: list[str] = []

    def add(self, file: Path, number: int, label: str, *values: str) -> None:
        """Add a row: its file, line number, LabelName, corners, and IsGroupOf."""
        self._file = self._file or file
        try:
            box = [float(value) for value in values[:4]]
            problem = pixels_among_fractions(box)
        except ValueError:
            problem = f"{', '.join(_CORNERS)}: must be numbers"
        if problem:
            self._unplaced.append(f"{file}: line {number}: {problem}")
            return
        self._numbers.append(number)
        self._labels.append(sys.intern(label))
        self._boxes.extend(box)
        self._groups.append(values[4] == "1")

    def annotated(self, image_id: int, file: str) -> AnnotatedImage:
        """Make the annotated image; `file` is named if there is no row."""
        return AnnotatedImage(
            image_id=image_id,
            image=self._image,
            name=self._image,
            annotation_file=str(self._file or file),
            size=None,
            boxes=boxes_array(np.array(self._boxes)),
            labels=self._labels,
            numbers=self._numbers,
            is_crowd=[bool(flag) for flag in self._groups],
            unplaced=self._unplaced,
        )


def _rows(
    file: Path, columns: tuple[str, ...], optional: tuple[str, ...] = ()
) -> Iterator[tuple[int, list[str]]]:
    return read_rows(file, columns, optional, format="Open Images' CSV")


def _label_map(folder: Path, files: list[Path]) -> tuple[LabelMap, dict]:
    """Return the categories, and the class index of each LabelName."""
    described = description_file(folder)
    if described is not None:
        names = _descriptions(described)
    else:
        # All splits agree.
        every = {*files, *folder.glob(_BOXES)}
        used = {label for file in every for _, (_, label, *_) in _rows(file, _COLUMNS)}
        names = {name: name for name in sorted(used - {""})}
    if not names:
        raise DataError(f"{described or files[0]}: there is no class name")
    return numbered(names.values()), {name: index for index, name in enumerate(names)}


def description_file(folder: Path) -> Path | None:
    """Find the file of class names; that of boxable classes, if there are several."""
    for place in (folder, folder.parent, folder / "metadata", folder.parent / "metadata"):
        found = sorted(
            place.glob("*class-descriptions*.csv"), key=lambda f: "boxable" not in f.name
        )
        found += [file for file in (place / "classes.csv",) if file.is_file()]
        if found:
            return found[0]
    return None


def _descriptions(file: Path) -> dict[str, str]:
    """Return LabelName -> class name in the order of the file, which may have a header."""
    names: dict[str, str] = {}
    try:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            for number, row in enumerate(csv.reader(opened), 1):
                if not row or (number == 1 and row[0] == "LabelName"):
                    continue
                if len(row) != 2 or row[0] in names:
                    reason = "LabelName occurs twice" if len(row) == 2 else "needs two columns"
                    raise DataError(f"{file}: line {number}: {reason}")
                names[row[0]] = row[1].strip()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    return names


def _listed_images(folder: Path, files: list[Path], split: str) -> set[str]:
    """Return the ImageIDs of the split, with those of its list of images, if there is one."""
    words = {*split_names.words_of(split)}.union(*(split_names.words_in(f.name) for f in files))
    lists = [
        file
        for file in folder.glob("*images*.csv")
        if any(split_names.is_of_split(word, file.name) for word in words)
    ]
    listed = {name for file in files for _, (name, *_) in _rows(file, _COLUMNS)}
    listed |= {name for file in lists for _, (name,) in _rows(file, ("ImageID",))}
    return listed - {""}


def _image_files(
    path: str, images: str, split: str, files: list[Path], listed: set[str]
) -> dict[str, Path]:
    """Return ImageID -> image file of those that exist."""
    candidates = [Path(images)] if images else folders_of_images(files[0], split)
    for folder in candidates:
        if folder.is_dir():
            found = {
                file.stem: file
                for file in sorted(folder.iterdir(), reverse=True)
                if file.suffix.lower() in IMAGE_SUFFIXES and file.stem in listed
            }
            if found:
                return found
    example = f"{min(listed)}.jpg" if listed else "none is listed"
    looked_in = ", ".join(str(folder) for folder in candidates)
    setting = "data.train_images" if split == "train" else "data.val_images"
    raise DataError(
        f"{path}: its images, e.g. {example}, are not in {looked_in}; name their folder: "
        f"--set {setting}=FOLDER, or --images=FOLDER for eval.py"
    )


def _missing_note(path: str, listed: set[str], found: dict[str, Path]) -> list[str]:
    missing = len(listed) - len(found)
    if not missing:
        return []
    folder = next(iter(found.values())).parent
    return [f"{path}: {missing} of the {len(listed)} listed images are not in {folder}; not used"]
