"""Data sets: sources in several formats, checked, and fed to the network.

A format is a module with three functions:

* `recognises(path) -> bool`: whether the path looks like this format;
* `lacks_validation(path) -> str`: why a path of training images holds no
  validation images, or "" if it does;
* `read(path, *, images, split) -> annotations.Annotations`.

To add one, write the module and name it in `FORMATS`.
"""

from pathlib import Path
from types import ModuleType

from absl import logging

from efficientdet_tf.data import coco, digits, tfrecord, validation, voc, yolo
from efficientdet_tf.data.records import DataError, DetectionData

BUILT_IN = "digits"

# In the order in which an unnamed format is looked for.
FORMATS = {"coco": coco, "voc": voc, "yolo": yolo, "tfrecord": tfrecord}


def load(
    path: str,
    format: str = "auto",
    images: str = "",
    verify: str = "full",
    strict: bool = False,
    split: str = "train",
    use_difficult: bool = False,
) -> DetectionData:
    """Loads and checks a data set; pixels stay in their files.

    Args:
      path: "digits" for the built-in data set, a COCO .json file, a Pascal VOC
        folder, a YOLO data.yaml or its folder, or TFRecord files.
      format: a key of `FORMATS`, or "auto" to tell by the path.
      images: the folder of the images, where the format keeps them apart; ""
        looks in the usual places.
      verify: "full" decodes every image once, "header" reads only its header.
      strict: raise at the first bad record instead of leaving it out.
      split: "train" or "val", for formats that hold several.
      use_difficult: learn and count objects marked as difficult (Pascal VOC),
        which are otherwise ignored.

    Raises:
      DataError: one line, when the data set cannot be used.
    """
    if BUILT_IN in (path, format):
        return digits.load(split)
    if not path:
        raise DataError("data set: its path is empty")
    annotations = _format_of(path, format).read(path, images=images, split=split)
    for note in annotations.notes:
        logging.warning("%s", note)
    return validation.validate(annotations, verify, strict, use_difficult)


def lacks_validation(path: str, format: str = "auto") -> str:
    """Why a path of training images holds no validation images.

    Args:
      path, format: as of `load`.

    Returns:
      What is missing, or "" when the path holds both.

    Raises:
      DataError: when the format is not known.
    """
    if BUILT_IN in (path, format):
        return ""
    return _format_of(path, format).lacks_validation(path)


def _format_of(path: str, format: str) -> ModuleType:
    """The module that reads `path`."""
    return FORMATS[_recognise(path) if format == "auto" else _known(format)]


def _known(format: str) -> str:
    if format not in FORMATS:
        known = ", ".join(("auto", BUILT_IN, *FORMATS))
        raise DataError(f"data.format: {format!r} is unknown; use one of {known}")
    return format


def _recognise(path: str) -> str:
    for name, module in FORMATS.items():
        if module.recognises(path):
            return name
    if not Path(path).exists():
        raise DataError(f"{path}: no such file or folder")
    raise DataError(
        f"{path}: not recognised as {', '.join(FORMATS)}; a COCO .json file, a Pascal VOC folder "
        "with Annotations, a YOLO data.yaml, or .tfrecord files are"
    )
