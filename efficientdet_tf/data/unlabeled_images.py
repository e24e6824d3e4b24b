"""Images without annotations, which training reads for distillation."""

import dataclasses
import glob
import pathlib

import numpy as np

from efficientdet_tf.config import Config
from efficientdet_tf.data import validation
from efficientdet_tf.data.annotations import (
    IMAGE_SUFFIXES,
    OTHER_IMAGE_SUFFIXES,
    AnnotatedImage,
    Annotations,
    file_name_problem,
)
from efficientdet_tf.data.image_folders import files_in_depth
from efficientdet_tf.data.records import DataError, DetectionData, UnlabeledImages


def add_unlabeled(data: DetectionData, config: Config) -> DetectionData:
    """Add the images of `distillation.unlabeled` to a training set.

    Images that cannot be used are excluded with a warning, and are among the problems of the
    data set, as those of the data set itself.

    Args:
      data: training set.
      config: config of the run.

    Raises:
      DataError: if there is no usable image; for the first bad one if `data.strict`.
    """
    given = config.distillation.unlabeled
    if not given:
        return data
    annotations = _annotations(given, data)
    loaded = validation.validate(annotations, config.data.verify, config.data.strict)
    images = UnlabeledImages(loaded.records, config.distillation.unlabeled_share)
    problems = (*data.problems, *loaded.problems)
    return dataclasses.replace(data, unlabeled=images, problems=problems)


def find_images(given: str) -> list[str]:
    """Find the image files of a folder, searched in depth, or of a glob pattern.

    Args:
      given: path of the folder or of an image, or the pattern, in which ** is folders in depth.

    Returns:
      Paths in sorted order; images of unsupported formats are included, to be reported.

    Raises:
      DataError: if there are none.
    """
    folder = pathlib.Path(given)
    found = (
        files_in_depth(folder)
        if folder.is_dir()
        else map(pathlib.Path, glob.iglob(given, recursive=True))
    )
    suffixes = (*IMAGE_SUFFIXES, *OTHER_IMAGE_SUFFIXES)
    paths = [path for path in found if path.suffix.lower() in suffixes and path.is_file()]
    if not paths:
        raise DataError(
            f"distillation.unlabeled: {given}: no images ({', '.join(IMAGE_SUFFIXES)}) in it; "
            "use a folder of images, or a glob pattern"
        )
    return sorted(map(str, paths))


def _annotations(given: str, data: DetectionData) -> Annotations:
    """Return the images without objects, with the classes of a data set."""
    paths = find_images(given)
    problems = {path: file_name_problem(path) for path in paths}
    usable = [path for path in paths if not problems[path]]
    images = [
        AnnotatedImage(number, path, path, path, None, np.zeros([0, 4]), [], [])
        for number, path in enumerate(usable, 1)
    ]
    return Annotations(
        images=images,
        label_map=data.label_map,
        class_indices={},
        source=f"unlabelled images {given}",
        object_word="object",
        box_field="box",
        label_field="label",
        problems=[f"image file {problem}" for problem in problems.values() if problem],
    )
