"""Conversion of data sets to other formats, which can be interrupted and repeated.

`conversion.json` in the output folder names the splits that were begun, with a digest of
their source: the same conversion continues where it was interrupted, another one does not
mix its files with these. A further split of the same classes may be added.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from efficientdet_tf import data as data_lib
from efficientdet_tf.data.conversion_losses import losses
from efficientdet_tf.data.image_sources import FileRange, ImageSource
from efficientdet_tf.data.layouts import LAYOUTS, Written, check_names
from efficientdet_tf.data.record_columns import RecordColumns
from efficientdet_tf.data.records import DataError, DetectionData
from efficientdet_tf.files import remove_partial_files, write_atomically
from efficientdet_tf.output_files import MARK, OutputError, check_replaceable

MANIFEST = "conversion.json"
# Field of the manifest -> what a conversion with another value is.
_DIFFERENCES = {
    "format": "to another format, {}",
    "classes": "of other classes",
    "source": "of another source, {}",
    "digest": "of other images or objects",
    "num_shards": "to another number of shards, {}",
}


@dataclasses.dataclass(frozen=True)
class Converted:
    """A converted split.

    Attributes:
      split: name of the split.
      data: its images and objects as they were read.
      lost: one line for each kind of thing that the new format does not hold.
    """

    split: str
    data: DetectionData
    lost: Sequence[str]


def convert(
    path: str,
    format: str,
    output: Path,
    splits: Sequence[str],
    *,
    source_format: str = "auto",
    images: str = "",
    copy: bool = False,
    num_shards: int = 1,
) -> list[Converted]:
    """Write splits of a data set in another format, or in the same one.

    Images that cannot be used are left out, with a warning, as in training.

    Args:
      path: see `data.load`.
      format: a key of `layouts.LAYOUTS`.
      output: folder to write to: empty, missing, or of the same conversion.
      splits: names of the splits to read and to write.
      source_format: format of the data set, see `data.load`. Default "auto".
      images: see `data.load`. Default "".
      copy: whether to copy images instead of hard-linking them. Default False.
      num_shards: number of TFRecord files of each split. Default 1.

    Raises:
      DataError: if the data set cannot be used, or its class names cannot be written.
      OutputError: if the folder holds something else.
      WriteError: if a file cannot be written.
    """
    source = data_lib.format_name(path, source_format)
    check_output(output)
    loaded = {split: load(path, split, images, source) for split in splits}
    for split, data in loaded.items():
        write_split(data, path, split, format, output, copy=copy, num_shards=num_shards)
    return [Converted(split, data, losses(data, source, format)) for split, data in loaded.items()]


def check_output(folder: Path, flag: str = "output") -> None:
    """Check that a folder is missing, empty, or holds a conversion.

    Args:
      folder: the folder.
      flag: flag that names it, for the message. Default "output".

    Raises:
      OutputError: if it holds something else.
    """
    check_replaceable(folder, _is_own, flag)


def load(path: str, split: str, images: str = "", format: str = "auto") -> DetectionData:
    """Load a split to be written: difficult objects are objects, pixels are not decoded.

    Args:
      path, split, images, format: see `data.load`.
    """
    return data_lib.load(path, format, images, verify="header", split=split, use_difficult=True)


def splits_of(path: str, format: str = "auto") -> tuple[str, ...]:
    """Return the splits of a data set: train and val, or train alone for a single one.

    Args:
      path, format: see `data.load`.
    """
    return ("train",) if data_lib.lacks_validation(path, format) else ("train", "val")


def write_split(
    data: DetectionData,
    source: str,
    split: str,
    format: str,
    output: Path,
    *,
    copy: bool = False,
    num_shards: int = 1,
    write: Callable[[Written], None] | None = None,
    flag: str = "output",
) -> None:
    """Write a split to a folder, or continue an interrupted call of the same arguments.

    Args:
      data: the images and objects of the split.
      source: path or name of the data set, for the manifest.
      split, format, output, copy, num_shards: see `convert`.
      write: function that writes it; None for that of the format's layout. Default None.
      flag: flag that names the folder, for messages. Default "output".

    Raises:
      DataError, OutputError, WriteError: see `convert`.
    """
    check_output(output, flag)
    try:
        _write_split(
            Written(data, split, output, (), copy, num_shards), source, format, write, flag
        )
    except OSError as error:
        # Of TensorFlow and Pillow they may have no number, and so no text of it.
        reason = error.strerror or error
        raise OutputError(f"--{flag}: {error.filename or output}: {reason}") from error


def _write_split(
    written: Written,
    source: str,
    format: str,
    write: Callable[[Written], None] | None,
    flag: str,
) -> None:
    """Write a split; `written.splits` is replaced by those of the folder."""
    data, split, output = written.data, written.split, written.folder
    if LAYOUTS[format].by_name:
        check_names(data.label_map)
    manifest = _manifest(output) or {"written_by": MARK, "format": format, "splits": {}}
    entry = {"source": str(source), "digest": _digest(data)}
    if format == "tfrecord":
        entry["num_shards"] = str(written.num_shards)
    classes = json.loads(data.label_map.to_json())
    _check_same(manifest, {"format": format, "classes": classes}, f"--{flag}: {output}")
    _check_same(
        manifest["splits"].get(split, {}), entry, f"--{flag}: {output}", f" (split {split})"
    )
    # Readers would take them for images and annotations.
    remove_partial_files(output)
    manifest = {**manifest, "format": format, "classes": classes}
    manifest["splits"] = {**manifest["splits"], split: {**entry, "complete": False}}
    output.mkdir(parents=True, exist_ok=True)
    _write_manifest(output, manifest)
    written = dataclasses.replace(written, splits=list(manifest["splits"]))
    (write or LAYOUTS[format].write)(written)
    manifest["splits"][split]["complete"] = True
    _write_manifest(output, manifest)


def _is_own(folder: Path) -> bool:
    return folder.is_dir() and (not any(folder.iterdir()) or bool(_manifest(folder)))


def _manifest(folder: Path) -> dict:
    """Read the manifest of a folder; {} if there is none."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return content if content["written_by"] == MARK and content["splits"] else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write_manifest(folder: Path, manifest: dict) -> None:
    write_atomically(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _check_same(there: dict, wanted: dict, subject: str, where: str = "") -> None:
    """Check that a folder's conversion is the wanted one, in the fields that it names."""
    for key, value in wanted.items():
        if key in there and there[key] != value:
            raise OutputError(
                f"{subject} holds a conversion {_DIFFERENCES[key].format(there[key])}"
                f"{where}; choose another folder"
            )


def _digest(data: DetectionData) -> str:
    """Hash what is written: objects, and size and modification time of each image."""
    records = RecordColumns.build(data.records)
    digest = hashlib.blake2b(digest_size=16)
    for image in records.images:
        digest.update(_image_state(image).encode())
    for array in (
        *(records.image_ids, records.offsets, records.boxes, records.classes, records.area),
        *(records.is_crowd, records.is_difficult, records.is_ignored),
    ):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _image_state(image: ImageSource) -> str:
    if isinstance(image, FileRange):
        return repr(image)
    if isinstance(image, bytes):
        return hashlib.blake2b(image, digest_size=16).hexdigest()
    try:
        status = os.stat(image)
    except OSError as error:
        raise DataError(f"{image}: {error.strerror}") from error
    return f"{image} {status.st_size} {status.st_mtime_ns}"
