"""Registry of the formats of a prediction's results."""

import pathlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.errors import UserError
from efficientdet_tf.inference import labelled_data_sets, result_files
from efficientdet_tf.inference.result_files import Write
from efficientdet_tf.inference.sources import Source
from efficientdet_tf.output_files import check_replaceable


class ResultFormat(NamedTuple):
    """A format of results.

    Attributes:
      file_name: name of its file or folder in the output folder.
      check: function of that path and the sources, which raises an `OutputError` when results
        of them cannot be written to it.
      writing: context that writes results to a path, and yields the function for it.
    """

    file_name: str
    check: Callable[[pathlib.Path, Sequence[Source]], None]
    writing: Callable[[pathlib.Path, LabelMap], AbstractContextManager[Write]]


def _file(name: str, is_own: Callable[[pathlib.Path], bool], writing: Callable) -> ResultFormat:
    return ResultFormat(name, lambda path, _: check_replaceable(path, is_own), writing)


FORMATS = {
    "json": _file("detections.json", result_files.is_own_json, result_files.writing_json),
    "jsonl": _file(
        "detections.jsonl", result_files.is_own_json_lines, result_files.writing_json_lines
    ),
    "csv": _file("detections.csv", result_files.is_own_csv, result_files.writing_csv),
    "coco": ResultFormat("coco", labelled_data_sets.check_nested, labelled_data_sets.writing_coco),
    "yolo": ResultFormat("yolo", labelled_data_sets.check_flat, labelled_data_sets.writing_yolo),
    "voc": ResultFormat("voc", labelled_data_sets.check_flat, labelled_data_sets.writing_voc),
}


def check_names(names: Sequence[str]) -> None:
    """Check the names of formats.

    Raises:
      UserError: for an unknown name, or when there is none.
    """
    for name in names or [""]:
        if name not in FORMATS:
            raise UserError(f"--format: {name!r} is unknown; use {', '.join(FORMATS)}")
