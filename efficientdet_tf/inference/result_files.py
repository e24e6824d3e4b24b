"""Results of a prediction as one file: JSON, JSON lines or CSV.

`detections.json` is a list with one entry for each image, and for each frame of a video, which
also has its number from 0 and its time in seconds:

    {"file": "a.jpg", "width": 640, "height": 480, "detections": [
        {"category_id": 3, "category_name": "dog", "bbox": [12.5, 3.0, 40.1, 77.0],
         "score": 0.93}]}
    {"file": "b.mp4", "width": 640, "height": 480, "frame": 7, "time": 0.28, "detections": []}

As in COCO results `bbox` is [xmin, ymin, width, height] in pixels of the upright image, and
`category_id` the data set's own id. The best score comes first. `detections.jsonl` has the same
entries, one a line; `detections.csv` a row for each detection. They are written entry by entry,
so that results of any number fit into memory, and replace those of an earlier call when they are
complete.
"""

import contextlib
import csv
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import IO

from efficientdet_tf.boxes import to_xywh
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.inference.detections import Detections
from efficientdet_tf.inference.sources import Frame
from efficientdet_tf.output_files import replacing_output

# Function that writes the detections in one image or frame.
Write = Callable[[Frame, Detections], None]

_IMAGE_KEYS = {"file", "width", "height", "detections"}
_FRAME_KEYS = {*_IMAGE_KEYS, "frame", "time"}
# Of a file that is looked at to see who wrote it; longer than any entry.
_LOOKED_AT = 1 << 20
_COLUMNS = (
    *("file", "image_width", "image_height", "frame", "time", "category_id", "category_name"),
    *("score", "xmin", "ymin", "xmax", "ymax"),
)


@contextlib.contextmanager
def writing_json(path: pathlib.Path, label_map: LabelMap) -> Iterator[Write]:
    """Write a JSON list; see the module.

    Raises:
      OutputError: when it cannot be written.
    """
    with _opened(path) as file:
        separator = "["

        def write(frame: Frame, found: Detections) -> None:
            nonlocal separator
            text = json.dumps(_entry(frame, found, label_map), ensure_ascii=False, indent=1)
            file.write(separator + "\n " + text.replace("\n", "\n "))
            separator = ","

        yield write
        file.write("[]" if separator == "[" else "\n]")


@contextlib.contextmanager
def writing_json_lines(path: pathlib.Path, label_map: LabelMap) -> Iterator[Write]:
    """Write JSON lines; see the module.

    Raises:
      OutputError: when it cannot be written.
    """
    with _opened(path) as file:

        def write(frame: Frame, found: Detections) -> None:
            entry = _entry(frame, found, label_map)
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")

        yield write


@contextlib.contextmanager
def writing_csv(path: pathlib.Path, label_map: LabelMap) -> Iterator[Write]:
    """Write a table of detections; see the module.

    Raises:
      OutputError: when it cannot be written.
    """
    with _opened(path) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(_COLUMNS)

        def write(frame: Frame, found: Detections) -> None:
            height, width = frame.pixels.shape[:2]
            time = None if frame.time is None else round(frame.time, 3)
            image = (frame.source.name, width, height, frame.index, time)
            for box, score, index in zip(found.boxes, found.scores, found.class_indices):
                category = label_map.ids[index], label_map.names[index], round(float(score), 4)
                ymin, xmin, ymax, xmax = box.astype(float).round(2).tolist()
                rows.writerow((*image, *category, xmin, ymin, xmax, ymax))

        yield write


def is_own_json(path: pathlib.Path) -> bool:
    """Whether a file is a `detections.json` of this module, by its first entry."""
    text = _beginning(path)
    return text == "[]" or (text.startswith("[") and _is_entry(text[1:].lstrip()))


def is_own_json_lines(path: pathlib.Path) -> bool:
    """Whether a file is a `detections.jsonl` of this module, by its first line; an empty one is."""
    text = _beginning(path)
    return path.is_file() and (not text or _is_entry(text))


def is_own_csv(path: pathlib.Path) -> bool:
    """Whether a file is a `detections.csv` of this module, by its header."""
    return _beginning(path).partition("\n")[0] == ",".join(_COLUMNS)


def _entry(frame: Frame, found: Detections, label_map: LabelMap) -> dict:
    height, width = frame.pixels.shape[:2]
    entry = {"file": frame.source.name, "width": width, "height": height}
    if frame.time is not None:
        entry |= {"frame": frame.index, "time": round(frame.time, 3)}
    boxes = to_xywh(found.boxes).round(2).tolist()
    detections = [
        {
            "category_id": label_map.ids[index],
            "category_name": label_map.names[index],
            "bbox": box,
            "score": round(float(score), 4),
        }
        for box, score, index in zip(boxes, found.scores, found.class_indices)
    ]
    return entry | {"detections": detections}


def _is_entry(text: str) -> bool:
    """Whether a text begins with an entry."""
    try:
        entry, _ = json.JSONDecoder().raw_decode(text)
    except ValueError:
        return False
    return isinstance(entry, dict) and entry.keys() in (_IMAGE_KEYS, _FRAME_KEYS)


def _beginning(path: pathlib.Path) -> str:
    """Return the beginning of a text file; "" if it is none."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_LOOKED_AT)
    except OSError:
        return ""


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[IO[str]]:
    # File names that are not UTF-8 are written as \udc.., which is JSON.
    with (
        replacing_output(path) as partial,
        open(partial, "w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        yield file
