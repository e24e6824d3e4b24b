"""Detection in an image or a folder of images, with drawn images and JSON as output.

Each image is written with its boxes, names and scores, under its own name
(with .png added to what is neither JPEG nor PNG). `detections.json` is a list
with one entry for each image:

    {"file": "a.jpg", "width": 640, "height": 480, "detections": [
        {"category_id": 3, "category_name": "dog", "bbox": [12.5, 3.0, 40.1, 77.0],
         "score": 0.93}]}

As in COCO results `bbox` is [xmin, ymin, width, height] in pixels of the upright
image, and `category_id` the data set's own id. The best score comes first.
"""

import dataclasses
import json
import pathlib
import sys
from typing import TYPE_CHECKING

from tqdm import tqdm

from efficientdet_tf.boxes import to_xywh
from efficientdet_tf.data.annotations import IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES
from efficientdet_tf.data.image_files import ImageError, read_image
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.errors import UserError
from efficientdet_tf.files import WriteError, write_atomically
from efficientdet_tf.inference.detections import Detections
from efficientdet_tf.output_files import (
    OutputError,
    check_replaceable,
    encode_image,
    is_own_image,
)
from efficientdet_tf.visualization.drawing import draw_detections

if TYPE_CHECKING:
    from efficientdet_tf.detector import Detector

# Suffixes of images that are written in their own format.
_WRITTEN_AS_THEY_ARE = (".jpg", ".jpeg", ".png")
_ENTRY_KEYS = {"file", "width", "height", "detections"}


class PredictionError(UserError):
    """An input or output that cannot be used."""


@dataclasses.dataclass(frozen=True)
class PredictionFiles:
    """Input images, and output files for them.

    Attributes:
      images: name relative to the input folder -> path of the image.
      drawn: name relative to the input folder -> path of the image with detections.
      json: path of `detections.json`.
    """

    images: dict[str, pathlib.Path]
    drawn: dict[str, pathlib.Path]
    json: pathlib.Path


def plan(source: pathlib.Path, output: pathlib.Path) -> PredictionFiles:
    """Find the images, and check that no user file would be overwritten.

    Files of an earlier call in `output` are replaced, and are not inputs when `output`
    lies inside `source`.

    Args:
      source: image, or folder that is searched recursively for images.
      output: folder to write to; it need not exist.

    Raises:
      PredictionError: when there is no image, or two images have the same output file.
      OutputError: when a file not written by predict would be overwritten.
    """
    if not source.exists():
        raise PredictionError(f"--input: {source}: no such file or folder")
    root = source if source.is_dir() else source.parent
    if output.resolve() == root.resolve():
        raise OutputError(f"--output: {output} is the folder of the input; choose another folder")
    paths = _images_in(source, output) if source.is_dir() else [source]
    if all(path.suffix.lower() in OTHER_IMAGE_SUFFIXES for path in paths):
        known = ", ".join(IMAGE_SUFFIXES)
        raise PredictionError(f"--input: {source}: no images ({known}) in it")
    images = {str(path.relative_to(root)): path for path in paths}
    files = PredictionFiles(
        images, {name: _drawn_path(output / name) for name in images}, output / "detections.json"
    )
    names: dict[pathlib.Path, str] = {}
    for name, path in files.drawn.items():
        check_replaceable(path, is_own_image)
        if path in names:
            raise PredictionError(
                f"--input: {names[path]} and {name} would both be written to {path}; rename one"
            )
        names[path] = name
    check_replaceable(files.json, _is_own_json)
    return files


def predict(
    detector: "Detector", files: PredictionFiles, score_threshold: float
) -> tuple[list[dict], list[str]]:
    """Write images with their detections, and `detections.json`.

    An unreadable image is reported on standard error and skipped.

    Args:
      detector: detector of any artifact.
      files: input and output files from `plan`.
      score_threshold: minimum score of a detection, 0..1.

    Returns:
      The entries of `detections.json`, and one line for each unreadable image.

    Raises:
      OutputError: when a file cannot be written.
    """
    entries, problems = [], []
    # Closes the bar on exit, so that later output starts on a new line.
    with tqdm(
        files.images.items(), "predicting", unit="image", dynamic_ncols=True, disable=None
    ) as bar:
        for name, path in bar:
            try:
                pixels = read_image(path)
            except ImageError as error:
                problems.append(str(error))
                tqdm.write(f"skipped {error}", file=sys.stderr)
                continue
            [found] = detector.detect([pixels])
            found = found.above(score_threshold)
            names = [detector.label_map.names[index] for index in found.class_indices]
            drawn = draw_detections(pixels, found.boxes, names, found.scores)
            target = files.drawn[name]
            _write(target, encode_image(drawn, target.suffix))
            entries.append(_entry(name, pixels.shape, found, detector.label_map))
    text = json.dumps(entries, ensure_ascii=False, indent=1)
    _write(files.json, text.encode())
    return entries, problems


def _images_in(folder: pathlib.Path, output: pathlib.Path) -> list[pathlib.Path]:
    """List the image files in a folder, recursively, without those predict wrote to `output`.

    Unsupported formats are included, to be reported.
    """
    output = output.resolve()
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in (*IMAGE_SUFFIXES, *OTHER_IMAGE_SUFFIXES)
        and not (output in path.resolve().parents and is_own_image(path))
    ]


def _drawn_path(path: pathlib.Path) -> pathlib.Path:
    is_writable = path.suffix.lower() in _WRITTEN_AS_THEY_ARE
    return path if is_writable else path.with_name(path.name + ".png")


def _is_own_json(path: pathlib.Path) -> bool:
    """Whether a file is a `detections.json` of `predict`."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(entries, list) and all(
        isinstance(entry, dict) and entry.keys() == _ENTRY_KEYS for entry in entries
    )


def _entry(name: str, shape: tuple[int, ...], found: Detections, label_map: LabelMap) -> dict:
    boxes = to_xywh(found.boxes).round(2).tolist()
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
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except WriteError as error:
        raise OutputError(f"--output: {error}") from error
    except OSError as error:
        raise OutputError(f"--output: {path}: cannot be written: {error.strerror}") from error
