"""Annotations of a COCO file as columns, grouped by image."""

import dataclasses
import math
import reprlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Annotated, Any

import msgspec
import numpy as np

from efficientdet_tf.boxes import from_xywh
from efficientdet_tf.data.annotations import LARGEST_ID, as_id, boxes_array
from efficientdet_tf.data.coco_file import Block
from efficientdet_tf.data.outlines import box_of_points
from efficientdet_tf.data.record_columns import offsets_of

# Values of a flag such as `iscrowd` that writers of COCO files use for the format's 1.
_TRUE = (1, "1", "true", "True")
# Above any image's area, and within float32.
_LARGEST_AREA = 1e30

# An id as nearly all files write it; any other is examined on its own.
PlainId = Annotated[int, msgspec.Meta(ge=-LARGEST_ID, le=LARGEST_ID)]


_NO_MASK = msgspec.Raw(b"[]")
_EMPTY = (b"[]", b"null", b"{}", b'""')


class _PlainAnnotation(msgspec.Struct, gc=False):
    """An annotation as nearly all files write it."""

    id: PlainId
    image_id: PlainId
    category_id: PlainId
    bbox: tuple[float, float, float, float]
    iscrowd: Any = 0
    area: float | None = None
    ignore: Any = 0
    # Only whether there is one: no objects are made of polygons.
    segmentation: msgspec.Raw = _NO_MASK
    num_keypoints: Any = 0


@dataclasses.dataclass(frozen=True)
class CocoObjects:
    """The annotations of all images with a readable box.

    Attributes:
      offsets: int64 [images + 1]; the objects of image i are offsets[i] to offsets[i + 1].
      boxes: float64 [n, 4], ymin, xmin, ymax, xmax in pixels.
      labels: [n], category ids, int64 or, where a file has other values, objects.
      numbers: [n], annotation ids for messages, int64 or objects.
      is_crowd: bool [n].
      area: float64 [n] in pixels, NaN if missing.
      is_difficult: bool [n], annotations with `"ignore": 1`.
      unplaced: one line for each annotation without a readable box, by index of its image.
      repeated_ids: annotation ids that occur more than once, in the order of the file.
      box_only: see `annotations.Annotations`.
    """

    offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    numbers: np.ndarray
    is_crowd: np.ndarray
    area: np.ndarray
    is_difficult: np.ndarray
    unplaced: Mapping[int, Sequence[str]]
    repeated_ids: Sequence[int]
    box_only: Mapping[str, int]


@dataclasses.dataclass
class _Columns:
    """The columns of a block, before grouping: the image's id, and the fields of an object."""

    images: Any
    boxes: Any
    labels: Any
    numbers: Any
    is_crowd: Any
    area: Any
    is_difficult: Any
    has_mask: Any
    has_keypoints: Any
    ids: Any

    @classmethod
    def empty(cls) -> "_Columns":
        nothing = np.zeros(0, np.int64)
        flags, area = np.zeros(0, bool), np.zeros(0)
        return cls(
            *(nothing, np.zeros((0, 4)), nothing, nothing),
            *(flags, area, flags, flags, flags, nothing),
        )


def read_objects(
    blocks: Iterable[Block], image_ids: Mapping[int, int], problems: list[str]
) -> CocoObjects:
    """Read the annotations, and group them by image.

    Args:
      blocks: the blocks of the file's annotations.
      image_ids: index of each image by its id.
      problems: extended by one line for each annotation that belongs to no image.
    """
    unplaced: dict[int, list[str]] = {}
    parts = [_Columns.empty()]
    for block in blocks:
        plain = block.typed(_PlainAnnotation)
        if plain is None:
            parts.append(_examined(block, image_ids, problems, unplaced))
        else:
            parts.append(_of_known_images(block, _plain_columns(plain), image_ids, problems))
    columns = {
        field.name: [getattr(part, field.name) for part in parts]
        for field in dataclasses.fields(_Columns)
    }
    del parts
    images = np.concatenate(columns.pop("images"))
    repeated_ids = _repeated(np.concatenate(columns.pop("ids")))
    counts = {
        "segmentation": sum(int(part.sum()) for part in columns.pop("has_mask")),
        "keypoints": sum(int(part.sum()) for part in columns.pop("has_keypoints")),
    }
    order = np.argsort(images, kind="stable")
    return CocoObjects(
        offsets=offsets_of(np.bincount(images, minlength=len(image_ids))),
        # One after the other: each takes its memory twice.
        **{name: np.concatenate(columns.pop(name))[order] for name in list(columns)},
        unplaced=unplaced,
        repeated_ids=repeated_ids,
        box_only={kind: count for kind, count in counts.items() if count},
    )


def _plain_columns(annotations: list[_PlainAnnotation]) -> _Columns:
    ids = np.array([a.id for a in annotations], np.int64)
    area = [math.nan if a.area is None else a.area for a in annotations]
    return _Columns(
        images=np.array([a.image_id for a in annotations], np.int64),
        boxes=_boxes([a.bbox for a in annotations]),
        labels=np.array([a.category_id for a in annotations], np.int64),
        numbers=ids,
        is_crowd=np.array([a.iscrowd in _TRUE for a in annotations], bool),
        area=np.where(np.abs(area) < _LARGEST_AREA, area, math.nan),
        is_difficult=np.array([a.ignore in _TRUE for a in annotations], bool),
        has_mask=np.array([bytes(a.segmentation) not in _EMPTY for a in annotations], bool),
        has_keypoints=np.array([bool(a.num_keypoints) for a in annotations], bool),
        ids=ids,
    )


def _of_known_images(
    block: Block, columns: _Columns, image_ids: Mapping[int, int], problems: list[str]
) -> _Columns:
    """Replace image ids by indices, and drop and report the objects of unknown images."""
    images = np.array([image_ids.get(number, -1) for number in columns.images.tolist()], np.int64)
    for i in np.flatnonzero(images < 0).tolist():
        where = f"{block.path}: annotation {columns.numbers[i]}"
        problems.append(f"{where}: image_id: {columns.images[i]} is not among the images")
    fields = {
        field.name: getattr(columns, field.name)[images >= 0]
        for field in dataclasses.fields(_Columns)
    }
    return _Columns(**{**fields, "images": images[images >= 0], "ids": columns.ids})


def _examined(
    block: Block,
    image_ids: Mapping[int, int],
    problems: list[str],
    unplaced: dict[int, list[str]],
) -> _Columns:
    """Read a block with an annotation that is not plain, one by one."""
    rows, ids = [], []
    for position, annotation in enumerate(block.parsed(), block.first):
        if not isinstance(annotation, dict):
            problems.append(f"{block.path}: annotation {position} of the list: is not an object")
            continue
        ids.append(as_id(annotation.get("id")))
        number = annotation.get("id", position)
        where = f"{block.path}: annotation {short(number)}"
        image_id = as_id(annotation.get("image_id"))
        index = image_ids.get(image_id) if image_id is not None else None
        box = _box(annotation.get("bbox") or _box_of_polygons(annotation.get("segmentation")))
        if index is None:
            unknown = _unknown(annotation.get("image_id"), image_id)
            problems.append(f"{where}: image_id: {unknown}")
        elif box is None:
            found = short(annotation.get("bbox"))
            line = f"{where}: bbox: must be four numbers, is {found}"
            unplaced.setdefault(index, []).append(line)
        else:
            label, area = _label(annotation.get("category_id")), _area(annotation.get("area"))
            marks = (
                annotation.get("iscrowd") in _TRUE,
                annotation.get("ignore") in _TRUE,
                bool(annotation.get("segmentation")),
                bool(annotation.get("num_keypoints")),
            )
            rows.append((index, box, label, short(number), area, *marks))
    images, boxes, labels, numbers, areas, *flags = zip(*rows) if rows else [()] * 9
    is_crowd, is_difficult, has_mask, has_keypoints = (np.array(each, bool) for each in flags)
    return _Columns(
        images=np.array(images, np.int64),
        boxes=_boxes(boxes),
        labels=_objects(labels),
        numbers=_objects(numbers),
        is_crowd=is_crowd,
        area=np.array(areas, np.float64),
        is_difficult=is_difficult,
        has_mask=has_mask,
        has_keypoints=has_keypoints,
        ids=np.array([number for number in ids if number is not None], np.int64),
    )


def _boxes(boxes: Sequence[Sequence[float]]) -> np.ndarray:
    """Convert [x, y, width, height] of each box to the corners of `CocoObjects.boxes`."""
    x, y, width, height = np.array(boxes, np.float64).reshape(-1, 4).T
    return boxes_array(np.stack(from_xywh(x, y, width, height), axis=1))


def _objects(values: Sequence) -> np.ndarray:
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _repeated(ids: np.ndarray) -> list[int]:
    values, first, counts = np.unique(ids, return_index=True, return_counts=True)
    return values[counts > 1][np.argsort(first[counts > 1])].tolist()


def no_id(what: str, value: Any) -> str:
    """Describe why `value` is no id."""
    if isinstance(value, str):
        return f"{what} {short(value)} is a string; ids must be whole numbers"
    return f"{what} {short(value)} is not a whole number of 64 bits"


def short(value: Any) -> str:
    """Format any value of the file for a message of one line."""
    return reprlib.repr(value)


def _unknown(value: Any, image_id: int | None) -> str:
    if image_id is None:
        return no_id("image id", value)
    return f"{image_id} is not among the images"


def _box(value: Any) -> list[float] | None:
    """Convert the numbers of a box to floats; return None if it is not four numbers."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    if not all(isinstance(n, (int, float)) and not isinstance(n, bool) for n in value):
        return None
    return [_as_float(number) for number in value]


def _box_of_polygons(polygons: Any) -> list[float] | None:
    """Return x, y, width and height of the points of polygons; None if they are none."""
    try:
        points = np.concatenate([np.array(each, np.float64).reshape(-1, 2) for each in polygons])
        ymin, xmin, ymax, xmax = box_of_points(points)
    # A mask as run lengths, or anything else.
    except (TypeError, ValueError, OverflowError):
        return None
    return [xmin, ymin, xmax - xmin, ymax - ymin]


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _label(value: Any) -> Hashable:
    """Convert a category to a hashable key for the lookup of its class index."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number or value is None or isinstance(value, str) else short(value)


def _area(value: Any) -> float:
    """Convert an annotated area to pixels; return NaN if it is missing."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    area = _as_float(value)
    return area if abs(area) < _LARGEST_AREA else math.nan
