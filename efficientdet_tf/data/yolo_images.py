"""Search for the image files of a YOLO split, in folders and lists of images."""

import os
from pathlib import Path, PureWindowsPath

from efficientdet_tf.data.annotations import (
    IMAGE_FORMATS,
    IMAGE_SUFFIXES,
    OTHER_IMAGE_SUFFIXES,
    file_name_problem,
    read_text,
)
from efficientdet_tf.data.image_folders import files_in_depth
from efficientdet_tf.data.records import DataError


def find(file: Path, content: dict, images: str, split: str) -> tuple[list[Path], list[str]]:
    """Find the images of a split.

    Args:
      file: the file that describes the data set.
      content: its content, see `yolo_description.load`.
      images: image folder or list that overrides those of `content`, or "".
      split: the key of `content` whose value is a folder, a list of images, or
        several of them.

    Returns:
      The distinct images in order of path, and one line for each unusable file.

    Raises:
      DataError: if the key, folder, list or images are missing.
    """
    if images:
        entries = [images]
    elif content.get(split) is not None:
        entries = content[split] if isinstance(content[split], list) else [content[split]]
    else:
        raise DataError(f"{file}: {split}: is missing; it names the image folder of this split")
    roots = _roots(file, content)
    places = [existing(file, content, str(entry), split) for entry in entries]
    found = sorted({image for place in places for image in _images_at(place, roots)})
    problems = {image: _problem(image) for image in found}
    usable = [image for image in found if not problems[image]]
    named = [problem for problem in problems.values() if problem]
    if not usable:
        where = places[0] if places else "an empty list"
        first = f"; the first problem: {named[0]}" if named else ""
        raise DataError(f"{file}: {split}: there are no images in {where}{first}")
    return usable, named


def _roots(file: Path, content: dict) -> list[Path]:
    """List the folders that paths may be relative to: key "path", the file's, current."""
    paths = _spellings(str(content.get("path") or ""))
    first, last = ([parent / path for path in paths] for parent in (file.parent, Path()))
    return list(dict.fromkeys([*first, file.parent, *last, Path()]))


def _spellings(path: str) -> list[str]:
    """List what a path may mean: itself, and one that was written on Windows."""
    return [path, PureWindowsPath(path).as_posix()] if "\\" in path else [path]


def _guesses(root: Path, entry: str) -> list[Path]:
    """List where a path may lead; exported ones often begin with a folder that is not there."""
    # "data/" is Darknet's, and CVAT's for all of YOLO.
    return [
        root / path.removeprefix(extra)
        for path in _spellings(entry)
        for extra in ("", "../", "data/")
    ]


def existing(file: Path, content: dict, entry: str, key: str) -> Path:
    """Find the folder or file of `entry`, the value of `key` in a file that describes a data set.

    Raises:
      DataError: if there is none.
    """
    guesses = [guess for root in _roots(file, content) for guess in _guesses(root, entry)]
    for guess in guesses:
        if guess.exists():
            return guess
    raise DataError(f"{file}: {key}: no such folder or list of images: {guesses[0]}")


def _images_at(place: Path, roots: list[Path]) -> list[Path]:
    if place.is_dir():
        known = (*IMAGE_SUFFIXES, *OTHER_IMAGE_SUFFIXES)
        return [item for item in files_in_depth(place) if item.suffix.lower() in known]
    if place.suffix.lower() in IMAGE_SUFFIXES:
        return [place]
    lines = [line.strip() for line in read_text(place).splitlines()]
    return [_listed(place, roots, line) for line in lines if line]


def _listed(list_file: Path, roots: list[Path], line: str) -> Path:
    """Find the image of a line of a list.

    A line that begins with "./" is relative to the list, as in Ultralytics' tools;
    other lines are tried against each root.
    """
    beside = list_file.parent / line
    if line.startswith("./") or os.path.isfile(beside):
        return beside
    guesses = (guess for root in (list_file.parent, *roots) for guess in _guesses(root, line))
    return next((guess for guess in guesses if os.path.isfile(guess)), beside)


def _problem(image: Path) -> str:
    """Describe why a file is no usable image of the data set; "" if it is usable."""
    problem = file_name_problem(str(image))
    if problem:
        return f"image file {problem}"
    suffix = image.suffix.lower()
    if suffix in OTHER_IMAGE_SUFFIXES:
        return f"{image}: {suffix} images are not read; convert it to {IMAGE_FORMATS}"
    if suffix not in IMAGE_SUFFIXES:
        return f"{image}: is not the name of an image file; use {IMAGE_FORMATS}"
    return ""
