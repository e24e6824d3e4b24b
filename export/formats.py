"""Export formats of `python -m export`, and atomic writing of them."""

import contextlib
import functools
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator

import tf_keras as keras

from efficientdet_tf.config import Config
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.errors import UserError
from efficientdet_tf.files import flush_to_disk
from efficientdet_tf.output_files import check_replaceable
from export import saved_model, tflite

# Format -> name of the file or folder, function that writes it, and predicate whether a path is
# an earlier export.
FORMATS: dict[str, tuple[str, Callable, Callable]] = {
    "saved_model": ("saved_model", saved_model.export, saved_model.is_own),
    "tflite": ("model.tflite", tflite.export, tflite.is_own),
    "tflite_float16": (
        "model_float16.tflite",
        functools.partial(tflite.export, float16=True),
        tflite.is_own,
    ),
}


class ExportError(UserError):
    """An export that cannot be made."""


def check(names: list[str], folder: pathlib.Path) -> None:
    """Check that an export to a folder overwrites nothing but earlier exports.

    Args:
      names: keys of `FORMATS`.
      folder: output folder.

    Raises:
      ExportError: for the first unknown format, or when there is none.
      OutputError: when something else would be overwritten.
    """
    for name in names or [""]:
        if name not in FORMATS:
            raise ExportError(f"--format: {name!r} is unknown; use {', '.join(FORMATS)}")
        file_name, _, is_own = FORMATS[name]
        check_replaceable(folder / file_name, is_own)


def write(
    name: str, model: keras.Model, config: Config, label_map: LabelMap, folder: pathlib.Path
) -> pathlib.Path:
    """Export a model in one format.

    Args:
      name: a key of `FORMATS`.
      model: model of `efficientdet_tf.model.build(config)`.
      config: settings; `model`, `anchors` and `detection` are read.
      label_map: classes of the model.
      folder: output folder, checked by `check`; created if missing. An earlier export is
        replaced once the new one is complete.

    Returns:
      Path of the written file or folder.

    Raises:
      ExportError: when `folder` cannot be written to.
    """
    file_name, export, _ = FORMATS[name]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _replacing(folder / file_name) as partial:
            export(model, config, label_map, partial)
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return folder / file_name


def size_of(path: pathlib.Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


@contextlib.contextmanager
def _replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a path to write to, which replaces `path` on success."""
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as workspace:
        partial = pathlib.Path(workspace, path.name)
        yield partial
        for file in partial.rglob("*") if partial.is_dir() else [partial]:
            flush_to_disk(file)
        if path.is_dir():
            # A folder that holds files cannot be replaced in one step.
            os.rename(path, pathlib.Path(workspace, "replaced"))
        os.replace(partial, path)
        flush_to_disk(path.parent)
