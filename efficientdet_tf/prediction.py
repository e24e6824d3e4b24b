"""Detects in a picture or a folder of them, and writes what was found.

Each picture is written with its boxes, names and scores, under its own name
(with .png added to what is neither JPEG nor PNG). `detections.json` is a list
with one entry for each picture:

    {"file": "a.jpg", "width": 640, "height": 480, "detections": [
        {"category_id": 3, "category_name": "dog", "bbox": [12.5, 3.0, 40.1, 77.0],
         "score": 0.93}]}

As in COCO results `bbox` is [xmin, ymin, width, height] in pixels of the upright
picture, and `category_id` the data set's own id. The best score comes first.
"""

import io
import json
import pathlib
import sys

import numpy as np
from tqdm import tqdm

from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.detector import Detections, Detector, ImageError, read_image
from efficientdet_tf.drawing import draw_detections
from efficientdet_tf.errors import UserError
from efficientdet_tf.files import WriteError, write_atomically

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp")


class PredictionError(UserError):
    """An input or output that cannot be used."""


def predict(
    detector: Detector, source: pathlib.Path, output: pathlib.Path, score_threshold: float
) -> tuple[list[dict], list[str]]:
    """Writes pictures with their detections, and `detections.json`.

    A picture that cannot be read is named on standard error and left out.

    Args:
      detector: what detects.
      source: a picture, or a folder that is searched for pictures in depth.
      output: folder to write to, made if needed; not that of the pictures.
      score_threshold: what scores less is left out, 0..1.

    Returns:
      The entries of `detections.json`, and one line for each unreadable picture.

    Raises:
      PredictionError: when there is no picture, or the output cannot be written.
    """
    root, pictures = _pictures(source, output)
    entries, problems = [], []
    for path in tqdm(pictures, "predicting", unit="image", dynamic_ncols=True, disable=None):
        name = path.relative_to(root)
        try:
            pixels = read_image(path)
        except ImageError as error:
            problems.append(str(error))
            tqdm.write(f"skipped {error}", file=sys.stderr)
            continue
        [found] = detector.detect([pixels])
        found = found.above(score_threshold)
        _write(_drawn_path(output / name), _drawn(pixels, found, detector.label_map, name.suffix))
        entries.append(_entry(str(name), pixels.shape, found, detector.label_map))
    text = json.dumps(entries, ensure_ascii=False, indent=1)
    _write(output / "detections.json", text.encode())
    return entries, problems


def _pictures(
    source: pathlib.Path, output: pathlib.Path
) -> tuple[pathlib.Path, list[pathlib.Path]]:
    """The folder that names are relative to, and the pictures."""
    if not source.exists():
        raise PredictionError(f"--input: {source}: no such file or folder")
    root = source if source.is_dir() else source.parent
    if output.resolve() == root.resolve():
        raise PredictionError(f"--output: {output} holds the input, which would be overwritten")
    if not source.is_dir():
        return root, [source]
    # Without those that an earlier call wrote below the folder.
    pictures = [
        path
        for path in sorted(source.rglob("*"))
        if path.suffix.lower() in SUFFIXES and output.resolve() not in path.resolve().parents
    ]
    if not pictures:
        raise PredictionError(f"--input: {source}: no pictures ({', '.join(SUFFIXES)}) in it")
    return root, pictures


def _drawn_path(path: pathlib.Path) -> pathlib.Path:
    is_writable = path.suffix.lower() in (".jpg", ".jpeg", ".png")
    return path if is_writable else path.with_name(path.name + ".png")


def _drawn(pixels: np.ndarray, found: Detections, label_map: LabelMap, suffix: str) -> bytes:
    """The picture with its detections as a JPEG file, or PNG where the source is no JPEG."""
    names = [label_map.names[index] for index in found.class_indices]
    picture = draw_detections(pixels, found.boxes, names, found.scores)
    file = io.BytesIO()
    if suffix.lower() in (".jpg", ".jpeg"):
        picture.save(file, "JPEG", quality=92)
    else:
        picture.save(file, "PNG")
    return file.getvalue()


def _entry(name: str, shape: tuple[int, ...], found: Detections, label_map: LabelMap) -> dict:
    ymin, xmin, ymax, xmax = found.boxes.T.astype(float)
    boxes = np.stack([xmin, ymin, xmax - xmin, ymax - ymin], axis=1).round(2).tolist()
    return {
        "file": name,
        "width": shape[1],
        "height": shape[0],
        "detections": [
            {
                "category_id": label_map.ids[index],
                "category_name": label_map.names[index],
                "bbox": box,
                "score": round(float(score), 4),
            }
            for box, score, index in zip(boxes, found.scores, found.class_indices)
        ],
    }


def _write(path: pathlib.Path, content: bytes) -> None:
    """Writes a file that is whole or not there at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except WriteError as error:
        raise PredictionError(f"--output: {error}") from error
    except OSError as error:
        raise PredictionError(f"--output: {path}: cannot be written: {error.strerror}") from error
