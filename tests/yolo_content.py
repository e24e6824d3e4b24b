"""Smallest YOLO data set with two splits and a background image."""

import pathlib
from collections.abc import Callable

import yaml


def write_yaml(folder: pathlib.Path, **values: object) -> None:
    """Write the data.yaml of a folder."""
    (folder / "data.yaml").write_text(yaml.safe_dump(values))


def write_data_set(folder: pathlib.Path, write_image: Callable) -> pathlib.Path:
    """Write two training images, one of background, and one validation image."""
    for name in ("train/a", "train/b", "val/c"):
        write_image(folder / "images" / f"{name}.jpg")
        (folder / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
    boxes = "1 0.5 0.5 0.25 0.5\n\n0 0.1 0.1 0.4 0.4\n"
    (folder / "labels" / "train" / "a.txt").write_text(boxes)
    (folder / "labels" / "val" / "c.txt").write_text("0 0.5 0.5 1 1\n")
    write_yaml(folder, names=["cat", "dog"], train="images/train", val="images/val")
    return folder
