"""CVAT reader: the XML file of "CVAT for images 1.1", and a folder of images.

Boxes, polygons, ellipses and masks are objects, of which the box is used; polylines,
points, cuboids, skeletons and tags are not, and are counted in a note. The attributes
"difficult" and "is_crowd" of an object mark it. Category ids count the labels of the
task from 1. Images whose `subset` names a split, such as "Train" and "Validation", belong
to it. Image ids are those of the file, or count the images from 1 if these are repeated.
"""

import collections
import math
import os
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from efficientdet_tf.data import split_names
from efficientdet_tf.data.annotations import AnnotatedImage, Annotations, boxes_array
from efficientdet_tf.data.class_names import numbered
from efficientdet_tf.data.outlines import (
    area_of_polygon,
    box_of_ellipse,
    box_of_points,
    box_of_turned_box,
)
from efficientdet_tf.data.records import DataError, LabelMap

_OBJECTS = ("box", "polygon", "ellipse", "mask")
_NO_OBJECTS = ("polyline", "points", "cuboid", "skeleton", "tag")
# Kind of the boxes that are turned by an angle.
_TURNED = "rotated box"
_FILE = "annotations.xml"


def recognises(path: str) -> bool:
    """Tell whether `path` is an XML file, or a folder with annotations.xml."""
    return path.lower().endswith(".xml") or (Path(path) / _FILE).is_file()


def lacks_validation(path: str) -> str:
    """Explain why `path`, a training set, has no validation images; "" if it has some."""
    elements = _elements(_file(path))
    found = any(item.tag == "image" and _is_of("val", item) for item in elements)
    return "" if found else "no image has the subset Validation"


def read(path: str, *, images: str, split: str) -> Annotations:
    """Read the images of a split.

    Args:
      path: the XML file, or the folder that holds it as annotations.xml.
      images: the image folder; "" searches beside the XML file, in folders named images,
        and in those of the subset.
      split: name of the split; all images are read if no subset names a split.

    Raises:
      DataError: if the file is missing or not CVAT's, or no image belongs to the split.
    """
    file = _file(path)
    found, labels = _images_and_labels(file)
    splits = any(split_names.words_in(item.get("subset", "")) for item in found)
    wanted = [item for item in found if not splits or _is_of(split, item)]
    if not wanted:
        reason = f"no image has a subset {split}" if found else "there is no image"
        raise DataError(f"{file}: {reason}")
    label_map = _label_map(file, labels, found)
    subsets = [item.get("subset", "") for item in found]
    others = collections.Counter(name for name in subsets if not split_names.words_in(name))
    ids = _image_ids(found)
    shapes: collections.Counter[str] = collections.Counter()
    folder = Path(images) if images else None
    annotated = [_annotated_image(ids[id(item)], file, item, folder, shapes) for item in wanted]
    return Annotations(
        images=annotated,
        label_map=label_map,
        class_indices={name: index for index, name in enumerate(label_map.names)},
        source=f"{path} ({split})" if splits else path,
        object_word="shape",
        box_field="box",
        label_field="label",
        notes=[
            f"{file}: {shapes[kind]} of kind {kind!r} are not used as objects"
            for kind in _NO_OBJECTS
            if shapes[kind]
        ]
        + [
            f"{file}: {count} images of subset {name!r} belong to no split, and are not used"
            for name, count in others.items()
            if splits
        ],
        box_only={kind: shapes[kind] for kind in (*_OBJECTS[1:], _TURNED) if shapes[kind]},
    )


def _file(path: str) -> Path:
    return Path(path) / _FILE if Path(path).is_dir() else Path(path)


def _elements(file: Path) -> Iterator[ElementTree.Element]:
    """Yield each image and label of the file; those that the caller drops take no memory."""
    try:
        # Entities of a file or the network are not read by this parser.
        events = ElementTree.iterparse(file, events=("start", "end"))
        _, root = next(events)
        if root.tag != "annotations":
            raise DataError(
                f"{file}: its root is <{root.tag}>, not <annotations> of CVAT for images 1.1; a "
                "Pascal VOC data set is named by its folder"
            )
        for event, item in events:
            if event == "end" and item.tag == "track":
                raise DataError(f"{file}: is CVAT for video; export it as CVAT for images 1.1")
            if event == "end" and item.tag in ("image", "label"):
                yield item
            if event == "end" and item.tag == "image":
                root.clear()
    except ElementTree.ParseError as error:
        raise DataError(f"{file}: line {error.position[0]}: not valid XML") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, LookupError) as error:
        if isinstance(error, DataError):
            raise
        # An encoding that the parser does not support.
        raise DataError(f"{file}: not valid XML: {error}") from error


def _images_and_labels(file: Path) -> tuple[list[ElementTree.Element], list[str]]:
    images, labels = [], []
    for item in _elements(file):
        if item.tag == "image":
            images.append(item)
        elif item.find("name") is not None and item.find("parent") is None:
            labels.append((item.findtext("name") or "").strip())
    return images, labels


def _label_map(file: Path, labels: list[str], images: list[ElementTree.Element]) -> LabelMap:
    """Number the labels of the task, which a project may repeat; without, those of the objects."""
    if not labels:
        shapes = [item for image in images for item in image if item.tag in _OBJECTS]
        labels = sorted({item.get("label", "") for item in shapes})
    names = [name for name in dict.fromkeys(labels) if name]
    if not names:
        raise DataError(f"{file}: there is no label")
    return numbered(names)


def _is_of(split: str, image: ElementTree.Element) -> bool:
    return split_names.is_of_split(split, image.get("subset", ""))


def _image_ids(images: list[ElementTree.Element]) -> dict[int, int]:
    """Return the image id by the identity of each element."""
    texts = [image.get("id", "") for image in images]
    ids = range(1, len(images) + 1)
    if all(text.isdecimal() and len(text) < 19 for text in texts):
        own = [int(text) for text in texts]
        ids = own if len(set(own)) == len(own) else ids  # type: ignore[assignment]
    return {id(image): number for image, number in zip(images, ids)}


def _annotated_image(
    image_id: int,
    file: Path,
    image: ElementTree.Element,
    folder: Path | None,
    shapes: collections.Counter[str],
) -> AnnotatedImage:
    boxes, kept, unplaced = [], [], []
    name = image.get("name", "")
    for number, item in enumerate(image, 1):
        shapes[item.tag] += 1
        if item.tag not in _OBJECTS:
            continue
        try:
            box, area = _box_and_area(item)
        except ValueError:
            unplaced.append(f"{file}: shape {number} of {name}: {item.tag}: has invalid numbers")
            continue
        shapes[_TURNED] += item.tag == "box" and not math.isnan(area)
        boxes.append(box)
        kept.append((number, item, area))
    path = str(_image_file(file, image, folder))
    return AnnotatedImage(
        image_id=image_id,
        image=path,
        name=path,
        annotation_file=str(file),
        size=_size(image),
        boxes=boxes_array(boxes),
        labels=[item.get("label", "") for _, item, _ in kept],
        numbers=[f"{number} of {name}" for number, _, _ in kept],
        is_crowd=[_has_mark(item, "is_crowd") for _, item, _ in kept],
        area=[area for _, _, area in kept],
        is_difficult=[_has_mark(item, "difficult") for _, item, _ in kept],
        unplaced=unplaced,
    )


def _box_and_area(item: ElementTree.Element) -> tuple[tuple[float, float, float, float], float]:
    """Return the box and the area, NaN for that of the box; ValueError if a number is invalid."""

    def numbers(*names: str) -> list[float]:
        return [float(item.get(name, "")) for name in names]

    degrees = float(item.get("rotation", 0))
    if item.tag == "box":
        xmin, ymin, xmax, ymax = numbers("xtl", "ytl", "xbr", "ybr")
        area = (xmax - xmin) * (ymax - ymin)
        if degrees:
            return box_of_turned_box(xmin, ymin, xmax, ymax, degrees), area
        return (ymin, xmin, ymax, xmax), math.nan
    if item.tag == "ellipse":
        x, y, x_radius, y_radius = numbers("cx", "cy", "rx", "ry")
        area = math.pi * x_radius * y_radius
        return box_of_ellipse(x, y, x_radius, y_radius, degrees), area
    if item.tag == "mask":
        left, top, width, height = numbers("left", "top", "width", "height")
        # Run lengths of background and mask in turn.
        runs = [float(run) for run in item.get("rle", "").split(",") if run.strip()]
        return (top, left, top + height, left + width), sum(runs[1::2]) or math.nan
    points = [list(map(float, pair.split(","))) for pair in item.get("points", "").split(";")]
    return box_of_points(points), area_of_polygon(points)


def _has_mark(item: ElementTree.Element, name: str) -> bool:
    marks = [mark for mark in item.findall("attribute") if mark.get("name") == name]
    return any((mark.text or "").strip().lower() in ("true", "1") for mark in marks)


def _size(image: ElementTree.Element) -> tuple[int, int] | None:
    try:
        return int(image.get("height", "")), int(image.get("width", ""))
    except ValueError:
        return None


def _image_file(file: Path, image: ElementTree.Element, folder: Path | None) -> Path:
    """Find the image; return the first guess if it is missing."""
    name, subset = image.get("name", ""), image.get("subset", "")
    places = [folder] if folder else [file.parent / "images", file.parent]
    names = [name, f"{subset}/{name}" if subset else name, Path(name).name]
    guesses = [place / guess for place in places for guess in names]
    return next((guess for guess in guesses if os.path.isfile(guess)), guesses[0])
