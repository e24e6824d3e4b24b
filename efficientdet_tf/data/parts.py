"""The two parts of the data of a training: what it learns from, and what measures it."""

from pathlib import Path

import numpy as np

from efficientdet_tf import data as data_lib
from efficientdet_tf.config import Config
from efficientdet_tf.data.records import DataError, DetectionData
from efficientdet_tf.data.statistics import count_objects


def resolve(config: Config) -> Config:
    """Fill in where the validation images are, and refuse what cannot be two parts.

    Args:
      config: with `data.train`; an empty `data.val` means the same path, for a
        data set that holds both parts.

    Returns:
      The config with `data.val`.

    Raises:
      DataError: when there is no path, or the path of the validation images has
        only training images.
    """
    train, val, format = config.data.train, config.data.val, config.data.format
    if not train:
        raise DataError("data.train: is empty; name the training data (--train_data)")
    # A file that is named twice is meant; a folder is taken to hold both parts.
    is_same_folder = Path(val).is_dir() and Path(train).resolve() == Path(val).resolve()
    lack = data_lib.lacks_validation(train, format) if not val or is_same_folder else ""
    if lack and not val:
        raise DataError(f"--val_data is missing: {train} has no validation images: {lack}")
    if lack:
        raise DataError(
            f"{val}: has no validation images: {lack}; name others than the training images by "
            "--val_data"
        )
    return config.override({"data.val": val or train})


def load_split(
    config: Config,
    split: str,
    *,
    path: str | None = None,
    format: str | None = None,
    images: str | None = None,
) -> DetectionData:
    """Load the data set that a config names for a split.

    Args:
      config: `data` is read.
      split: "train" or "val".
      path, format, images: used instead of those of the config, see `data.load`.

    Raises:
      DataError: when the data set cannot be used.
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


def require_objects(data: DetectionData) -> None:
    """Refuse a data set that nothing can be learnt from or measured with.

    Raises:
      DataError: when no image has a usable object.
    """
    if count_objects(data).any():
        return
    crowds = sum(int(np.sum(record.is_crowd)) for record in data.records)
    reason = f"; all that is annotated are crowd regions: {crowds}" if crowds else ""
    reason += "".join(f"; {note}" for note in data.notes)
    reason += f"; the first problem: {data.problems[0]}" if data.problems else ""
    raise DataError(f"{data.source}: has no usable object in {len(data)} images{reason}")
