"""Data sets: readers of several formats, checks, and the input pipeline.

A format is a module with three functions:

* `recognises(path) -> bool`: whether the path looks like this format;
* `lacks_validation(path) -> str`: why a training path has no validation images,
  or "" if it has some;
* `read(path, *, images, split) -> annotations.Annotations`.

To add one, write the module and name it in `FORMATS`.
"""

import contextlib
import gc
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from absl import logging

from efficientdet_tf.data.records import DataError, DetectionData
from keras_layers.options import nearest

if TYPE_CHECKING:
    from efficientdet_tf.data.annotations import Annotations

BUILT_IN = "digits"

# Name of a format -> its module. In the order in which the format of a path is inferred.
FORMATS = {
    "tfds": "tfds",
    "voc": "voc",
    "yolo": "yolo",
    "tfrecord": "tfrecord",
    "tf_csv": "tf_csv",
    "csv": "open_images",
    "cvat": "cvat",
    "coco": "coco",
    "labelme": "labelme",
}


def load(
    path: str,
    format: str = "auto",
    images: str = "",
    verify: str = "auto",
    strict: bool = False,
    split: str = "train",
    use_difficult: bool = False,
) -> DetectionData:
    """Load and check a data set; pixels stay in their files.

    Args:
      path: "digits" for the built-in data set, a COCO .json file or folder, a Pascal VOC
        folder, a YOLO data.yaml, obj.data or folder with classes.txt, TFRecord files,
        Open Images' CSV of boxes or its folder, a CSV file of boxes in pixels or a folder
        of such, CVAT's XML or its folder, a folder of
        LabelMe, or "tfds:NAME" of a data set that TensorFlow Datasets has prepared.
      format: a key of `FORMATS`, or "auto" to infer it from the path. Default "auto".
      images: image folder, for formats that separate it from the annotations; ""
        searches the usual places. Default "".
      verify: "full" decodes every image once, "header" reads only its header, and so
        does "background", which leaves the decoding to training; "auto" is "full" for up
        to 2,000 images, and "background" for more. Default "auto".
      strict: whether to raise at the first bad record instead of excluding it.
        Default False.
      split: "train" or "val", for formats that hold several. Default "train".
      use_difficult: whether to use objects marked as difficult (Pascal VOC) in
        training and evaluation, which are otherwise ignored. Default False.

    Raises:
      DataError: if the data set cannot be used.
    """
    from efficientdet_tf.data import digits, validation

    if BUILT_IN in (path, format):
        return digits.load(split)
    with _without_garbage_collection():
        annotations = read_annotations(path, format, images, split)
        for note in annotations.notes:
            logging.warning("%s", note)
        return validation.validate(annotations, verify, strict, use_difficult)


@contextlib.contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Pause the search for reference cycles: a third of the time of loading, and nothing found."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def read_annotations(
    path: str, format: str = "auto", images: str = "", split: str = "train"
) -> "Annotations":
    """Read the annotation files of a data set, without any check.

    Args:
      path, format, images, split: see `load`; not the built-in data set.

    Raises:
      DataError: if the data set cannot be read.
    """
    if not path:
        raise DataError("data set: its path is empty")
    return _format_of(path, format).read(path, images=images, split=split)


def lacks_validation(path: str, format: str = "auto") -> str:
    """Explain why a training path has no validation images.

    Args:
      path, format: see `load`.

    Returns:
      The reason, or "" if the path holds both splits.
    """
    if BUILT_IN in (path, format):
        return ""
    return _format_of(path, format).lacks_validation(path)


def format_name(path: str, format: str = "auto") -> str:
    """Return the format of a path: a key of `FORMATS`, or "digits".

    Args:
      path, format: see `load`.

    Raises:
      DataError: if the format is unknown or not recognised.
    """
    if BUILT_IN in (path, format):
        return BUILT_IN
    return _recognise(path) if format == "auto" else _known(format)


def _format_of(path: str, format: str) -> ModuleType:
    """Return the module that reads `path`."""
    return _module(format_name(path, format))


def _module(format: str) -> ModuleType:
    """Import the module of a format: detection, which reads no data set, needs none of them."""
    return importlib.import_module(f"{__name__}.{FORMATS[format]}")


def _known(format: str) -> str:
    if format not in FORMATS:
        known = ", ".join(("auto", BUILT_IN, *FORMATS))
        raise DataError(f"data.format: {format!r} is unknown; use one of {known}")
    return format


def _recognise(path: str) -> str:
    for name in FORMATS:
        if _module(name).recognises(path):
            return name
    if not Path(path).exists():
        near = f"; did you mean {BUILT_IN!r}?" if nearest(path, [BUILT_IN]) else ""
        raise DataError(f"{path}: no such file or folder{near}")
    raise DataError(
        f"{path}: not recognised as {', '.join(FORMATS)}; a COCO .json file, or folder with "
        "annotations/instances_*.json, a Pascal VOC folder with Annotations, a YOLO data.yaml, "
        "obj.data or classes.txt, .tfrecord files, a .csv of boxes in pixels or Open Images', "
        "CVAT's .xml, a folder of LabelMe's .json files, or tfds:NAME are"
    )
