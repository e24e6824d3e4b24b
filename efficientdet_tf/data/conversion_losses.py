"""What a conversion to another format loses: one line for each kind, with its number."""

from collections.abc import Callable

import numpy as np

from efficientdet_tf.boxes import areas
from efficientdet_tf.data.image_copies import image_names
from efficientdet_tf.data.layouts import LAYOUTS, Layout
from efficientdet_tf.data.records import DetectionData, Record

# Formats whose image ids and category ids are the data set's own; others number them.
_WITH_IDS = ("coco", "tfrecord", "cvat", "digits", "tfds")
# Relative difference from which an area is not that of the box.
_DIFFERENT = 1e-3


def losses(data: DetectionData, source: str, format: str) -> list[str]:
    """List what is not kept when a data set is written in a format.

    Args:
      data: the data set, loaded with `use_difficult`.
      source: the format that it was read from, a key of `data.FORMATS` or "digits".
      format: a key of `layouts.LAYOUTS`.
    """
    layout = LAYOUTS[format]
    lines = [f"{kind}: {number}; only the box is written" for kind, number in data.box_only.items()]
    if source in _WITH_IDS:
        lines += [_image_ids(data, format, layout), _category_ids(data, format, layout)]
    lines += _objects(data, layout)
    return [line for line in lines if line]


def _image_ids(data: DetectionData, format: str, layout: Layout) -> str:
    if layout.image_ids:
        return ""
    names = image_names(data.records)
    order = sorted(range(len(data)), key=lambda i: names[i].rpartition(".")[0])
    changed = [i for number, i in enumerate(order, 1) if data.records[i].image_id != number]
    if not changed:
        return ""
    first = data.records[changed[0]].image_id
    return f"image ids: {len(changed)}, e.g. {first}; {format} has none, only names of files"


def _category_ids(data: DetectionData, format: str, layout: Layout) -> str:
    if layout.first_category_id is None:
        return ""
    numbered = range(layout.first_category_id, layout.first_category_id + len(data.label_map))
    changed = [(old, new) for old, new in zip(data.label_map.ids, numbered) if old != new]
    if not changed:
        return ""
    old, new = changed[0]
    return f"category ids: {len(changed)}, e.g. {old} becomes {new}; {format} numbers by position"


def _objects(data: DetectionData, layout: Layout) -> list[str]:
    """Describe the objects whose flags or areas the format cannot hold."""

    def count(select: Callable[[Record], np.ndarray]) -> int:
        return sum(int(select(record).sum()) for record in data.records)

    marked = "written as difficult objects" if layout.difficult else "left out"
    unknown = count(lambda r: r.classes < 0)
    invalid = count(lambda r: r.is_ignored & (r.classes >= 0))
    kinds = [
        (not layout.crowd, "crowd regions", count(lambda r: r.is_crowd), marked),
        (
            not layout.difficult,
            "difficult objects",
            count(lambda r: r.is_difficult),
            "written as ordinary objects",
        ),
        (not layout.unknown, "objects of an unknown category", unknown, "left out"),
        (not layout.unknown, "objects without a valid box", invalid, marked),
        (not layout.area, "areas of masks", count(_has_own_area), "the box's area is used"),
    ]
    return [f"{what}: {n}; {result}" for is_lost, what, n, result in kinds if is_lost and n]


def _has_own_area(record: Record) -> np.ndarray:
    return np.abs(record.area - areas(record.boxes)) > _DIFFERENT * areas(record.boxes)
