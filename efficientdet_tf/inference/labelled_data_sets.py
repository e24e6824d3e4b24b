"""Results of a prediction as a data set in COCO's, YOLO's or Pascal VOC's form.

A labelling tool opens such a folder, where detections are corrected instead of drawn by hand;
and training reads it. It holds copies of the image files, and JPEG files of the frames of videos:

    coco/annotations.json   coco/images/deep/a.jpg       with "score"
    yolo/data.yaml          yolo/images/deep_a.jpg       yolo/labels/deep_a.txt
    voc/labels.txt          voc/JPEGImages/deep_a.jpg    voc/Annotations/deep_a.xml, with confidence

An existing folder is never replaced, because its labels may have been corrected. Detections that
clipping to the image left without width or height are in none of them, as they are no labels.
"""

import contextlib
import itertools
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import IO

import numpy as np
import PIL.Image

from efficientdet_tf.boxes import areas, sizes
from efficientdet_tf.data import coco_writer, voc_writer, yolo_writer
from efficientdet_tf.data.annotations import IMAGE_SUFFIXES
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.inference.detections import Detections
from efficientdet_tf.inference.result_files import Write
from efficientdet_tf.inference.sources import Frame, Source
from efficientdet_tf.output_files import MARK, OutputError, encode_image, naming_errors


def check_nested(folder: pathlib.Path, sources: Sequence[Source]) -> None:
    """Check that a folder of `writing_coco` can be written.

    Raises:
      OutputError: when it exists, or two images would have the same file.
    """
    _check_new(folder)
    _check_names(folder, sources, lambda name: name, "image")


def check_flat(folder: pathlib.Path, sources: Sequence[Source]) -> None:
    """Check that a folder of `writing_yolo` or `writing_voc` can be written.

    Raises:
      OutputError: when it exists, or two images or videos would have the same label files.
    """
    _check_new(folder)
    _check_names(folder, sources, lambda name: pathlib.PurePath(_flat(name)).stem, "label")


def _check_new(folder: pathlib.Path) -> None:
    if os.path.lexists(folder):
        raise OutputError(
            f"--output: {folder} exists, and its labels may have been corrected; move it away, "
            "or choose another folder"
        )


def _check_names(
    folder: pathlib.Path, sources: Sequence[Source], key: Callable[[str], str], kind: str
) -> None:
    """Check that the names of the sources lead to different files of a kind."""
    named: dict[str, str] = {}
    for source in sources:
        name = source.name
        file = key(_file_name(name) if source.kind == "image" else _frame_file_name(name, 0))
        other = named.setdefault(file, name)
        if other != name:
            raise OutputError(
                f"--output: {folder}: {other} and {name} would have one {kind} file, {file}; "
                "rename one"
            )


@contextlib.contextmanager
def writing_coco(folder: pathlib.Path, label_map: LabelMap) -> Iterator[Write]:
    """Write `annotations.json` and `images/`; see the module.

    Raises:
      OutputError: when they cannot be written.
    """
    with (
        _new_folder(folder) as partial,
        open(partial / "annotations.json", "w", encoding="utf-8") as file,
        # The list of images comes after that of annotations.
        tempfile.TemporaryFile("w+", encoding="utf-8") as images,
    ):
        categories = json.dumps(coco_writer.category_entries(label_map), ensure_ascii=False)
        file.write(f'{{"info": {{"description": "{MARK}"}},\n"categories": {categories},\n')
        file.write('"annotations": [')
        image_ids, next_id = itertools.count(1), 1

        def write(frame: Frame, found: Detections) -> None:
            nonlocal next_id
            found = _with_size(found)
            name, image_id = _image_name(frame), next(image_ids)
            _save_image(frame, partial / "images" / name)
            entry = coco_writer.image_entry(image_id, name, _size(frame))
            _append(images, [entry], is_first=image_id == 1)
            _append(file, _coco_entries(image_id, found, label_map, next_id), next_id == 1)
            next_id += len(found)

        yield write
        images.seek(0)
        file.write('\n],\n"images": [')
        shutil.copyfileobj(images, file)
        file.write("\n]}\n")


@contextlib.contextmanager
def writing_yolo(folder: pathlib.Path, label_map: LabelMap) -> Iterator[Write]:
    """Write `data.yaml`, `images/` and `labels/`; see the module.

    Label files have no scores, which training with other programs does not accept.

    Raises:
      OutputError: when they cannot be written.
    """
    with _new_folder(folder) as partial:
        text = yolo_writer.data_yaml(label_map.names, {"train": "images"})
        (partial / "data.yaml").write_text(text, encoding="utf-8")

        def write(frame: Frame, found: Detections) -> None:
            found, name = _with_size(found), _flat(_image_name(frame))
            _save_image(frame, partial / "images" / name)
            text = yolo_writer.label_lines(_size(frame), found.boxes, found.class_indices)
            _write_new(partial / "labels" / f"{pathlib.PurePath(name).stem}.txt", text)

        yield write


@contextlib.contextmanager
def writing_voc(folder: pathlib.Path, label_map: LabelMap) -> Iterator[Write]:
    """Write `labels.txt`, `JPEGImages/` and `Annotations/`; see the module.

    Raises:
      OutputError: when they cannot be written.
    """
    with _new_folder(folder) as partial:
        text = "".join(f"{name}\n" for name in label_map.names)
        (partial / "labels.txt").write_text(text, encoding="utf-8")

        def write(frame: Frame, found: Detections) -> None:
            found, name = _with_size(found), _flat(_image_name(frame))
            _save_image(frame, partial / "JPEGImages" / name)
            names = [label_map.names[index] for index in found.class_indices]
            text = voc_writer.annotation_xml(
                name, _size(frame), found.boxes, names, scores=found.scores
            )
            _write_new(partial / "Annotations" / f"{pathlib.PurePath(name).stem}.xml", text)

        yield write


def is_own(folder: pathlib.Path) -> bool:
    """Whether a folder is a data set of this module."""
    marked = [folder / "annotations.json", folder / "data.yaml"]
    marked += itertools.islice((folder / "Annotations").glob("*.xml"), 1)
    for path in marked:
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if MARK.encode() in file.read(200):
                return True
    return False


def _with_size(found: Detections) -> Detections:
    kept = (sizes(found.boxes) > 0).all(axis=-1)
    return Detections(found.boxes[kept], found.scores[kept], found.class_indices[kept])


def _coco_entries(
    image_id: int, found: Detections, label_map: LabelMap, first_id: int
) -> list[dict]:
    none = np.zeros(len(found), bool)
    category_ids = [label_map.ids[index] for index in found.class_indices]
    entries = coco_writer.annotation_entries(
        image_id, found.boxes, category_ids, areas(found.boxes), none, none, first_id
    )
    return [
        entry | {"score": round(float(score), 4)} for entry, score in zip(entries, found.scores)
    ]


def _append(file: IO[str], entries: Sequence[dict], is_first: bool) -> None:
    for entry in entries:
        file.write(("\n" if is_first else ",\n") + json.dumps(entry))
        is_first = False


def _image_name(frame: Frame) -> str:
    if frame.index is not None:
        return _frame_file_name(frame.source.name, frame.index)
    return _file_name(frame.source.name)


def _frame_file_name(video: str, index: int) -> str:
    return f"{video}_{index:06}.jpg"


def _file_name(image: str) -> str:
    """Return the name of an image's file: its own, with a suffix where it has none."""
    return image + ("" if _has_image_suffix(image) else ".png")


def _has_image_suffix(name: str) -> bool:
    return pathlib.PurePath(name).suffix.lower() in IMAGE_SUFFIXES


def _flat(name: str) -> str:
    return name.replace(os.sep, "_").replace("/", "_")


def _size(frame: Frame) -> tuple[int, int]:
    height, width = frame.pixels.shape[:2]
    return height, width


def _save_image(frame: Frame, path: pathlib.Path) -> None:
    """Copy the file of an image; encode a frame, and an image of unknown format."""
    with naming_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if frame.file is None or not _has_image_suffix(frame.source.name):
            path.write_bytes(encode_image(PIL.Image.fromarray(frame.pixels), path.suffix))
        elif isinstance(frame.file, bytes):
            path.write_bytes(frame.file)
        else:
            shutil.copyfile(frame.file, path)


def _write_new(path: pathlib.Path, text: str) -> None:
    with naming_errors(path):
        path.parent.mkdir(exist_ok=True)
        with open(path, "x", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)


@contextlib.contextmanager
def _new_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a folder to write to, which becomes `path` at the end of the context.

    It is removed when the context raises.
    """
    with naming_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="partial.", dir=path.parent) as workspace:
            partial = pathlib.Path(workspace, path.name)
            partial.mkdir()
            yield partial
            os.rename(partial, path)
