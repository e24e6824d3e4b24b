"""What a conversion to another format loses: one line for each kind, with its number."""

import numpy as np

from efficientdet_tf.boxes import areas
from efficientdet_tf.data.image_copies import image_names
from efficientdet_tf.data.layouts import LAYOUTS, Layout
from efficientdet_tf.data.record_columns import RecordColumns
from efficientdet_tf.data.records import DetectionData

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
    records = RecordColumns.build(data.records)
    marked = "written as difficult objects" if layout.difficult else "left out"
    is_unknown, box_area = records.classes < 0, areas(records.boxes)
    is_invalid = records.is_ignored & ~is_unknown
    has_own_area = np.abs(records.area - box_area) > _DIFFERENT * box_area
    kinds = [
        (layout.crowd, "crowd regions", records.is_crowd, marked),
        (
            layout.difficult,
            "difficult objects",
            records.is_difficult,
            "written as ordinary objects",
        ),
        (layout.unknown, "objects of an unknown category", is_unknown, "left out"),
        (layout.unknown, "objects without a valid box", is_invalid, marked),
        (layout.area, "areas of masks", has_own_area, "the box's area is used"),
    ]
    return [
        f"{what}: {found.sum()}; {result}"
        for is_kept, what, found, result in kinds
        if not is_kept and found.any()
    ]
