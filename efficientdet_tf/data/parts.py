"""Training and validation data sets of a config."""

from pathlib import Path

import numpy as np

from efficientdet_tf import data as data_lib
from efficientdet_tf.config import Config
from efficientdet_tf.data.image_sources import is_remote
from efficientdet_tf.data.records import DataError, DetectionData
from efficientdet_tf.data.statistics import count_objects


def resolve(config: Config) -> Config:
    """Fill in `data.val`, and check that there are validation images.

    Args:
      config: config with `data.train`; an empty `data.val` means the same path,
        for a data set that holds both splits.

    Returns:
      The config with `data.val`.

    Raises:
      DataError: if `data.train` is empty, or `data.val` has only training images.
    """
    train, val, format = config.data.train, config.data.val, config.data.format
    if not train:
        raise DataError("data.train: is empty; name the training data (--train_data)")
    # A file given twice is intended; a folder is expected to hold both splits.
    is_same_folder = Path(val).is_dir() and Path(train).resolve() == Path(val).resolve()
    lack = data_lib.lacks_validation(train, format) if not val or is_same_folder else ""
    if lack and not val:
        raise DataError(f"--val_data is missing: {train} has no validation images: {lack}")
    if lack:
        raise DataError(f"{val}: has no validation images: {lack}; set --val_data to other images")
    return config.override({"data.val": val or train})


def load_split(
    config: Config,
    split: str,
    *,
    path: str | None = None,
    format: str | None = None,
    images: str | None = None,
) -> DetectionData:
    """Load the data set of a split from a config.

    Args:
      config: config whose section `data` is used.
      split: "train" or "val".
      path, format, images: overrides of the config's values, see `data.load`.

    Raises:
      DataError: if the data set cannot be used.
    """
    data = config.data
    is_train = split == "train"
    if path is None:
        path = data.train if is_train else data.val
    if images is None:
        images = data.train_images if is_train else data.val_images
    return data_lib.load(
        path,
        format=data.format if format is None else format,
        images=images,
        verify=data.verify,
        strict=data.strict,
        split=split,
        use_difficult=data.use_difficult,
    )


def load_split_of_run(
    config: Config, split: str, remedy: str, **named: str | None
) -> DetectionData:
    """Load the data set of a split from the config of a run, whose data may have moved since.

    Args:
      config, split: see `load_split`.
      remedy: what to do when nothing is at its path, for the message.
      **named: further arguments of `load_split`, without `path`.

    Raises:
      DataError: see `load_split`.
    """
    path = config.data.train if split == "train" else config.data.val
    try:
        return load_split(config, split, **named)
    except DataError as error:
        if path.startswith("tfds:") or is_remote(path) or Path(path).exists():
            raise
        seen = "" if Path(path).is_absolute() else ", as seen from the folder of its training"
        raise DataError(f"{error}; config.yaml of the run names {path}{seen}; {remedy}") from error


def require_objects(data: DetectionData) -> None:
    """Require at least one usable object in a data set.

    Raises:
      DataError: if no image has a usable object.
    """
    if count_objects(data).any():
        return
    crowds = sum(int(np.sum(record.is_crowd)) for record in data.records)
    reason = f"; all that is annotated are crowd regions: {crowds}" if crowds else ""
    reason += "".join(f"; {note}" for note in data.notes)
    reason += f"; the first problem: {data.problems[0]}" if data.problems else ""
    raise DataError(f"{data.source}: has no usable object in {len(data)} images{reason}")
