"""YOLO: a data.yaml that names the classes and the image folders of each split.

Each image has a text file of the same name in the folder "labels" beside the
folder "images" (or beside the image itself): one line an object, with class,
x_center, y_center, width and height, the last four as fractions of the image's
size. An image without such a file shows background only. Category ids are the
class numbers, from 0. Images are ordered, and counted from 1, by path.
"""

from pathlib import Path

import yaml

from efficientdet_tf.data.annotations import (
    IMAGE_SUFFIXES,
    AnnotatedImage,
    Annotations,
    boxes_array,
)
from efficientdet_tf.data.records import DataError, LabelMap

_FIELDS = "class x_center y_center width height"


def recognises(path: str) -> bool:
    """Whether `path` is a YAML file or a folder with a data.yaml."""
    return path.lower().endswith((".yaml", ".yml")) or (Path(path) / "data.yaml").is_file()


def read(path: str, *, images: str, split: str) -> Annotations:
    """Reads a split.

    Args:
      path: the YAML file, or the folder that holds data.yaml.
      images: an image folder to use instead of the one the YAML file names.
      split: the key of the YAML file that names the image folder.

    Raises:
      DataError: when the YAML file or the image folder is missing or wrong, or
        no image has a label file.
    """
    file = Path(path) / "data.yaml" if Path(path).is_dir() else Path(path)
    content = _load(file)
    label_map = _label_map(file, content.get("names"))
    annotated = [
        _annotated_image(image_id, image)
        for image_id, image in enumerate(_image_files(file, content, images, split), 1)
    ]
    if not any(Path(image.annotation_file).is_file() for image in annotated):
        example = annotated[0].annotation_file
        raise DataError(f"{file}: {split}: no image has a label file, e.g. {example}")
    return Annotations(
        images=annotated,
        label_map=label_map,
        class_indices={number: index for index, number in enumerate(label_map.ids)},
        source=f"{file} ({split})",
        object_word="line",
        box_field="box",
        label_field="class",
        fractions=True,
    )


def _load(file: Path) -> dict:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise DataError(f"{file}: {line}not valid YAML") from error
    if not isinstance(content, dict):
        raise DataError(f"{file}: must hold keys and values; is it a YOLO data.yaml?")
    return content


def _label_map(file: Path, names) -> LabelMap:
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DataError(f"{file}: names: must be the list of the class names")
    if not all(isinstance(number, int) for number in names):
        raise DataError(f"{file}: names: class numbers must be whole numbers")
    numbers = sorted(names)
    return LabelMap(tuple(numbers), tuple(str(names[number]) for number in numbers))


def _image_files(file: Path, content: dict, images: str, split: str) -> list[Path]:
    if images:
        entries = [images]
    elif split in content:
        entries = content[split] if isinstance(content[split], list) else [content[split]]
    else:
        raise DataError(f"{file}: {split}: is missing; it names the image folder of this split")
    places = [_existing(file, content, str(entry), split) for entry in entries]
    found = {image for place in places for image in _images_at(place)}
    if not found:
        raise DataError(f"{file}: {split}: there are no images in {places[0]}")
    return sorted(found)


def _existing(file: Path, content: dict, entry: str, split: str) -> Path:
    """The folder or list that `entry` means.

    Paths are relative to the key "path" or to the YAML file. Exported data sets
    often have a "../" too many.
    """
    roots = [file.parent / str(content.get("path") or ""), file.parent, Path()]
    guesses = [root / name for root in roots for name in (entry, entry.removeprefix("../"))]
    for guess in guesses:
        if guess.exists():
            return guess
    raise DataError(f"{file}: {split}: no such folder or list of images: {guesses[0]}")


def _images_at(place: Path) -> list[Path]:
    if place.is_dir():
        return [item for item in place.rglob("*") if item.suffix.lower() in IMAGE_SUFFIXES]
    lines = place.read_text(encoding="utf-8").splitlines()
    return [place.parent / line.strip() for line in lines if line.strip()]


def _label_file(image: Path) -> Path:
    parts = list(image.parts)
    for i in reversed(range(len(parts) - 1)):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def _annotated_image(image_id: int, image: Path) -> AnnotatedImage:
    label_file = _label_file(image)
    boxes, labels, numbers, unplaced = [], [], [], []
    for number, line in _lines(label_file):
        try:
            label, box = _read_line(line)
        except (ValueError, OverflowError):
            unplaced.append(f"{label_file}: line {number}: must be five numbers, {_FIELDS}")
            continue
        boxes.append(box)
        labels.append(label)
        numbers.append(number)
    return AnnotatedImage(
        image_id=image_id,
        image=str(image),
        name=str(image),
        annotation_file=str(label_file),
        size=None,
        boxes=boxes_array(boxes),
        labels=labels,
        numbers=numbers,
        unplaced=unplaced,
    )


def _lines(label_file: Path) -> list[tuple[int, str]]:
    """The lines that are not empty, with their numbers; none if there is no such file."""
    if not label_file.is_file():
        return []
    lines = label_file.read_text(encoding="utf-8", errors="replace").splitlines()
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _read_line(line: str) -> tuple[float, tuple[float, float, float, float]]:
    """The class, and the box as ymin, xmin, ymax, xmax; ValueError if it is none."""
    number, x, y, width, height = (float(value) for value in line.split())
    label = int(number) if number == int(number) else number
    return label, (y - height / 2, x - width / 2, y + height / 2, x + width / 2)
