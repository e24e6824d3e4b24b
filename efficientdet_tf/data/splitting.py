"""Splitting of a data set into training and validation images, in its own format.

coco      train.json and val.json: the entries of the source, with all their fields; file
          names become relative to the folder
yolo      data.yaml, train.txt and val.txt, which list the images where they are
voc       the annotation files and images, as hard links, and ImageSets/Main
csv       the rows of the source, and hard links of the images
others    `layouts`: TFRecord as TFRecord, CVAT, LabelMe, CSV of boxes in pixels and digits as COCO
"""

import collections
import csv
import dataclasses
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from efficientdet_tf import data as data_lib
from efficientdet_tf.data import (
    coco_folder,
    open_images,
    open_images_writer,
    stratification,
    yolo_description,
)
from efficientdet_tf.data.annotations import AnnotatedImage
from efficientdet_tf.data.checks.duplicates import find_duplicates
from efficientdet_tf.data.checks.image_properties import read_fingerprint
from efficientdet_tf.data.class_names import LABEL_FILE
from efficientdet_tf.data.coco_parts import select_images
from efficientdet_tf.data.conversion import load, write_split
from efficientdet_tf.data.conversion_losses import losses
from efficientdet_tf.data.image_copies import in_threads, link_or_copy
from efficientdet_tf.data.layouts import OPEN_IMAGES_SPLITS, Written
from efficientdet_tf.data.records import DataError, DetectionData
from efficientdet_tf.files import flush_all, write_atomically
from efficientdet_tf.output_files import MARK

SPLITS = ("train", "val")


@dataclasses.dataclass(frozen=True)
class Divided:
    """A divided data set.

    Attributes:
      parts: split -> its images.
      format: the format that was written.
      num_groups: number of groups of images that were not divided.
      lost: one line for each kind of thing that this format does not hold.
    """

    parts: dict[str, DetectionData]
    format: str
    num_groups: int
    lost: Sequence[str]


def split(
    path: str,
    output: Path,
    *,
    val_fraction: float,
    seed: int = 0,
    by: str = "",
    part: str = "train",
    format: str = "auto",
    images: str = "",
    copy: bool = False,
) -> Divided:
    """Divide a split of a data set into training and validation images, and write both.

    Near duplicates, see `checks.duplicates`, stay on one side. The same arguments give the
    same parts.

    Args:
      path: see `data.load`.
      output: folder to write to: empty, missing, or of the same call.
      val_fraction: fraction of the images for validation, 0 to 1 exclusively.
      seed: seed of the division. Default 0.
      by: regular expression that names the group of an image, see
        `stratification.group_numbers`; "" for none. Default "".
      part: the split to divide, of a data set that holds several. Default "train".
      format: format of the data set, see `data.load`. Default "auto".
      images: see `data.load`. Default "".
      copy: whether to copy files instead of hard-linking them. Default False.

    Raises:
      DataError: if the data set cannot be used or divided.
      OutputError: if the folder holds something else.
      WriteError: if a file cannot be written.
    """
    format = data_lib.format_name(path, format)
    data = load(path, part, images, format)
    groups = _groups(data, by)
    classes = stratification.count_images(data)
    is_val = stratification.divide(classes, groups, val_fraction, seed)
    parts = {
        name: dataclasses.replace(data, records=[data.records[i] for i in chosen])
        for name, chosen in zip(
            SPLITS, (np.flatnonzero(~is_val).tolist(), np.flatnonzero(is_val).tolist())
        )
    }
    write = _writer(path, format, part, images)
    target = format if write or format == "tfrecord" else "coco"
    for name, chosen in parts.items():
        write_split(chosen, path, name, target, output, copy=copy, write=write)
    lost = losses(data, format, target) if target != format else ()
    return Divided(parts, target, len(set(groups)), lost)


def _groups(data: DetectionData, by: str) -> list[int]:
    records = data.records
    with warnings.catch_warnings():
        # Set here, as the threads share the filters.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        fingerprints = in_threads(
            lambda i: read_fingerprint(records[i].image), len(records), "Comparing images"
        )
    named = stratification.group_numbers([r.name for r in records], by) if by else range(len(data))
    return stratification.join_groups(find_duplicates(fingerprints), named)


def _writer(path: str, format: str, part: str, images: str) -> Callable[[Written], None] | None:
    """Return the function that writes a part in its own format; None for a layout's."""
    if format == "coco":
        file = coco_folder.find(path, part)
        return lambda written: _write_coco(written, file)
    if format == "yolo":
        content = yolo_description.load(yolo_description.find(path))
        return lambda written: _write_yolo(written, content)
    if format == "voc":
        annotated = data_lib.read_annotations(path, format, images, part).images
        _check_names(path, annotated)
        files = {str(image.image): image.annotation_file for image in annotated}
        return lambda written: _write_voc(written, files)
    if format == "csv":
        return lambda written: _write_csv(written, path, part)
    return None


def _check_names(path: str, images: Sequence[AnnotatedImage]) -> None:
    """Check that no file would take the place of another in the folders of Pascal VOC.

    Raises:
      DataError: if two images have an annotation or image file of the same name.
    """
    names = {
        "annotation": [Path(image.annotation_file).name for image in images],
        "image": [Path(str(image.image)).name for image in images],
    }
    for kind, of_kind in names.items():
        name, count = collections.Counter(of_kind).most_common(1)[0]
        if count > 1:
            raise DataError(
                f"{path}: {count} images have an {kind} file named {name}; convert the data set to "
                "COCO before, with 'data convert --to=coco'"
            )


def _write_coco(written: Written, path: str) -> None:
    files = {record.image_id: str(record.image) for record in written.data.records}
    text = select_images(path, files, written.folder)
    write_atomically(written.folder / f"{written.split}.json", text)


def _write_yolo(written: Written, content: dict) -> None:
    """Write the list of a part's images, and data.yaml with the lists of both."""
    # Ultralytics' tools do not read relative lines with "..".
    images = [os.path.abspath(str(record.image)) for record in written.data.records]
    text = "".join(f"{image}\n" for image in images)
    write_atomically(written.folder / f"{written.split}.txt", text)
    kept = {
        key: value
        for key, value in content.items()
        # Places of the source.
        if key not in ("path", "train", "val", "test", "download")
    }
    lists = {name: f"{name}.txt" for name in written.splits}
    text = yaml.safe_dump(lists | kept, sort_keys=False, allow_unicode=True)
    write_atomically(written.folder / "data.yaml", f"# {MARK}\n{text}")


def _write_voc(written: Written, annotation_files: dict[str, str]) -> None:
    """Link the annotation files and images of a part, and list them."""
    folder, records = written.folder, written.data.records
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    files = [(annotation_files[str(record.image)], str(record.image)) for record in records]

    def place(index: int) -> None:
        for kind, file in zip(("Annotations", "JPEGImages"), files[index]):
            link_or_copy(file, folder / kind / Path(file).name, written.copy)

    in_threads(place, len(files), f"Writing {folder} ({written.split})")
    flush_all()
    names = written.data.label_map.names
    write_atomically(folder / LABEL_FILE, "".join(f"{name}\n" for name in names))
    text = "".join(f"{Path(annotation).stem}\n" for annotation, _ in files)
    write_atomically(folder / "ImageSets" / "Main" / f"{written.split}.txt", text)


def _write_csv(written: Written, path: str, part: str) -> None:
    """Write the rows of a part's images with all their columns, and link the images."""
    name = OPEN_IMAGES_SPLITS.get(written.split, written.split)
    folder, images = written.folder, [Path(str(r.image)) for r in written.data.records]
    (folder / name).mkdir(parents=True, exist_ok=True)

    def place(index: int) -> None:
        link_or_copy(str(images[index]), folder / name / images[index].name, written.copy)

    in_threads(place, len(images), f"Writing {folder} ({written.split})")
    ids = {image.stem for image in images}
    files = open_images.box_files(path, part)
    columns, rows = _csv_rows(files, ids)
    flush_all()
    described = open_images.description_file(files[0].parent)
    contents = {
        f"{name}-images.csv": [["ImageID"], *([i] for i in sorted(ids))],
        f"{name}-annotations-bbox.csv": [columns, *rows],
    }
    if described:
        text = described.read_text(encoding="utf-8-sig")
        write_atomically(folder / "class-descriptions.csv", text)
    for file_name, content in contents.items():
        write_atomically(folder / file_name, open_images_writer.csv_text(content))


def _csv_rows(files: Sequence[Path], ids: set[str]) -> tuple[list[str], list[list[str]]]:
    """Return the columns of all files, and the rows of some images with these columns."""
    # Each file has an order of its own, and may have further ones.
    columns: dict[str, None] = {}
    found = []
    for file in files:
        with open(file, encoding="utf-8-sig", newline="") as opened:
            reader = csv.DictReader(opened, restval="")
            columns |= dict.fromkeys(reader.fieldnames or ())
            found += [row for row in reader if row["ImageID"] in ids]
    return list(columns), [[row.get(column, "") for column in columns] for row in found]
