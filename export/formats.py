"""The formats that `python -m export` writes, and how a file comes to be whole."""

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

# Name of a format -> name of the file or folder, the function that writes it, and
# the one that tells whether it has written what is at a path.
# Of each name: its file or folder, what writes it, and what knows an earlier one.
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
    """Pass when models can be exported to a folder without overwriting what is of others.

    Args:
      names: keys of `FORMATS`.
      folder: where to.

    Raises:
      ExportError: for the first name that is no format, or when there is none.
      OutputError: naming what would be overwritten.
    """
    for name in names or [""]:
        if name not in FORMATS:
            raise ExportError(f"--format: {name!r} is unknown; use {', '.join(FORMATS)}")
        file_name, _, is_own = FORMATS[name]
        check_replaceable(folder / file_name, is_own)


def write(
    name: str, model: keras.Model, config: Config, label_map: LabelMap, folder: pathlib.Path
) -> pathlib.Path:
    """Exports a model in one format.

    Args:
      name: a key of `FORMATS`.
      model: of `efficientdet_tf.model.build(config)`.
      config: `model`, `anchors` and `detection` are read.
      label_map: the classes of the model.
      folder: where to, of `check`; made if needed. What an earlier export left
        there is replaced, once the new one is whole.

    Returns:
      The path of the file or folder written.

    Raises:
      ExportError: when `folder` cannot be written to.
    """
    file_name, export, _ = FORMATS[name]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _whole(folder / file_name) as partial:
            export(model, config, label_map, partial)
    except OSError as error:
        raise ExportError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return folder / file_name


def size_of(path: pathlib.Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


@contextlib.contextmanager
def _whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A path to write to, which takes the place of `path` when all went well."""
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
