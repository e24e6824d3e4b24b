"""Files beside those of a data set that it does not use: images, and annotations."""

import os
from collections.abc import Sequence
from pathlib import Path

from efficientdet_tf.data.annotations import IMAGE_SUFFIXES
from efficientdet_tf.data.checks.checked_set import CheckedSet
from efficientdet_tf.data.faults import Fault

# Formats with an annotation file for each image.
_ANNOTATION_SUFFIXES = (".txt", ".xml", ".json")
# Files of these names belong to a whole folder.
_NOT_ANNOTATIONS = ("classes.txt", "labels.txt", "train.txt", "val.txt", "test.txt", "notes.json")


def unlisted_files(sets: Sequence[CheckedSet]) -> list[Fault]:
    """Find images in the folders of the sets' images that no set names, and the reverse.

    Only folders that hold an image of a set are searched, not those inside them.

    Args:
      sets: all sets that may share the folders.

    Returns:
      The faults, in order of path.
    """
    paths = [
        (Path(each.image.image), Path(each.image.annotation_file))
        for part in sets
        for each in part.images
        if isinstance(each.image.image, str)
    ]
    used = {os.path.abspath(path) for pair in paths for path in pair}
    faults = []
    for folder in sorted({image.parent for image, _ in paths}):
        for name in _names(folder):
            path = folder / name
            if path.suffix.lower() in IMAGE_SUFFIXES and os.path.abspath(path) not in used:
                line = f"{path}: no annotation names this image"
                faults.append(Fault("image_unlisted", line, file=str(path), image=str(path)))
    return faults + _without_image(paths, used)


def _without_image(paths: list[tuple[Path, Path]], used: set[str]) -> list[Fault]:
    """Find annotation files of which no image has the name."""
    # A file of a whole set has another name than its images.
    folders = {
        (annotation.parent, image.parent)
        for image, annotation in paths
        if annotation.stem == image.stem and annotation.suffix.lower() in _ANNOTATION_SUFFIXES
    }
    faults = []
    for folder, image_folder in sorted(folders):
        stems = {Path(name).stem for name in _names(image_folder) if _is_image(name)}
        for name in _names(folder):
            path = folder / name
            is_annotation = (
                path.suffix.lower() in _ANNOTATION_SUFFIXES and name not in _NOT_ANNOTATIONS
            )
            if is_annotation and path.stem not in stems and os.path.abspath(path) not in used:
                line = f"{path}: there is no image of this name in {image_folder}"
                faults.append(Fault("annotation_without_image", line, file=str(path)))
    return faults


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder)) if folder.is_dir() else []
