"""Export formats of `python -m export`, and atomic writing of them."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, get_args

import numpy as np
import tf_keras as keras

from efficientdet_tf.config import Config
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.errors import UserError
from efficientdet_tf.files import flush_to_disk
from efficientdet_tf.output_files import check_replaceable
from export import onnx_model, saved_model, serving, tflite, web


class Format(NamedTuple):
    """Export format.

    Attributes:
      file: name of the file or folder.
      export: function of an exporter and a path, which writes it.
      is_own: predicate whether a path is an earlier export.
      needs_images: whether the exporter needs representative images.
      has_hard_nms: whether NMS is hard whatever `detection.nms` says.
      model_file: file in the folder that `Detector` loads; empty if it loads the path itself.
      has_versions: whether each export is a new version, a numbered folder in `file`.
    """

    file: str
    export: Callable[["Exporter", pathlib.Path], object]
    is_own: Callable[[pathlib.Path], bool]
    needs_images: bool = False
    has_hard_nms: bool = False
    model_file: str = ""
    has_versions: bool = False


def _saved_model(exporter: "Exporter", path: pathlib.Path) -> None:
    saved_model.export(exporter.model, exporter.config, exporter.label_map, path)


def _tflite(with_nms: bool, quantization: tflite.Quantization) -> tuple[str, Format]:
    """Return a .tflite format by its name: tflite[_raw][_quantization]."""
    suffix = ("" if with_nms else "_raw") + ("" if quantization == "none" else f"_{quantization}")

    def export(exporter: "Exporter", path: pathlib.Path) -> None:
        exporter.tflite.write(path, quantization, with_nms)

    file = f"model{suffix}.tflite"
    format = Format(file, export, tflite.is_own, quantization == "int8", has_hard_nms=with_nms)
    return f"tflite{suffix}", format


def _serving(exporter: "Exporter", path: pathlib.Path) -> None:
    serving.export(exporter.model, exporter.config, exporter.label_map, path)


def _onnx(exporter: "Exporter", path: pathlib.Path) -> None:
    exporter.onnx.write(path)


def _onnx_raw(exporter: "Exporter", path: pathlib.Path) -> None:
    exporter.onnx.write(path, with_nms=False)


def _web(exporter: "Exporter", path: pathlib.Path) -> None:
    web.export(exporter.tflite, exporter.config, exporter.label_map, path)


FORMATS = {
    "saved_model": Format("saved_model", _saved_model, saved_model.is_own),
    "serving": Format("serving", _serving, serving.is_own, has_versions=True),
    **dict(
        _tflite(with_nms, quantization)
        for with_nms in (True, False)
        for quantization in get_args(tflite.Quantization)
    ),
    "onnx": Format("model.onnx", _onnx, onnx_model.is_own, has_hard_nms=True),
    "onnx_raw": Format("model_raw.onnx", _onnx_raw, onnx_model.is_own),
    "web": Format("web", _web, web.is_own, model_file=web.MODEL),
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
        check_replaceable(folder / FORMATS[name].file, FORMATS[name].is_own)


class Exporter:
    """Exporter of one model in several formats.

    Args:
      model: model of `efficientdet_tf.model.build(config)`.
      config: settings; `model`, `anchors` and `detection` are read.
      label_map: classes of the model.
      folder: output folder, checked by `check`; created if missing.
      images: representative images of formats that need them, see `export.calibration`.
    """

    def __init__(
        self,
        model: keras.Model,
        config: Config,
        label_map: LabelMap,
        folder: pathlib.Path,
        images: Sequence[np.ndarray] = (),
    ) -> None:
        self.model, self.config, self.label_map = model, config, label_map
        self.tflite = tflite.TFLiteExporter(model, config, label_map, images)
        self.onnx = onnx_model.OnnxExporter(model, config, label_map)
        self._folder = folder

    def write(
        self, name: str, check: Callable[[str, pathlib.Path, int], None] | None = None
    ) -> pathlib.Path:
        """Export in one format; an earlier export is replaced once the new one is complete.

        A format with versions gets another one, which servers load while they run.

        Args:
          name: a key of `FORMATS`.
          check: called with the name, the path and the bytes of the new export before it
            replaces an earlier one, which it prevents by an exception; None for no check.
            Default None.

        Returns:
          Path of the written file or folder.

        Raises:
          ExportError: when the folder cannot be written to.
        """
        path = self._folder / FORMATS[name].file
        try:
            if FORMATS[name].has_versions:
                path.mkdir(parents=True, exist_ok=True)
                serving.write_configuration(path)
                path = _next_version(path)
            self._folder.mkdir(parents=True, exist_ok=True)
            with _replacing(path) as partial:
                FORMATS[name].export(self, partial)
                if check is not None:
                    check(name, partial, size_of(partial))
        except OSError as error:
            raise ExportError(
                f"{self._folder}: cannot be written: {error.strerror or error}"
            ) from error
        return path


def size_of(path: pathlib.Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _next_version(folder: pathlib.Path) -> pathlib.Path:
    versions = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
    return folder / str(max(versions, default=0) + 1)


@contextlib.contextmanager
def _replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a path to write to, which replaces `path` on success."""
    with tempfile.TemporaryDirectory(prefix=".export-", dir=path.parent) as workspace:
        partial = pathlib.Path(workspace, path.name)
        yield partial
        for file in partial.rglob("*") if partial.is_dir() else [partial]:
            flush_to_disk(file)
        _replace(partial, path, pathlib.Path(workspace, "replaced"))
        flush_to_disk(path.parent)


def _replace(partial: pathlib.Path, path: pathlib.Path, earlier: pathlib.Path) -> None:
    """Replace a file or folder, which is back in its place if that fails.

    Args:
      partial: new file or folder.
      path: what is replaced, if it exists.
      earlier: path that a replaced folder is moved to; it must not exist.
    """
    try:
        if path.is_dir():
            # A folder that holds files cannot be replaced in one step.
            os.rename(path, earlier)
        os.replace(partial, path)
    except BaseException:
        # Ctrl-C between the steps, too.
        if earlier.exists() and not path.exists():
            os.rename(earlier, path)
        raise
