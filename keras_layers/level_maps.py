"""Names of the maps of the levels: the one place that knows them.

The model's outputs and the targets are dicts with two maps for each level: that of the
classes and that of the boxes.
"""

from collections.abc import Iterable

_CLASSES, _BOXES = "cls_", "box_"


def class_map(level: int) -> str:
    """Return the name of a level's class map."""
    return f"{_CLASSES}{level}"


def box_map(level: int) -> str:
    """Return the name of a level's box map."""
    return f"{_BOXES}{level}"


def levels_of(names: Iterable[str]) -> list[int]:
    """Return the levels, from the finest, of which there are maps among the names."""
    return sorted(int(name.removeprefix(_BOXES)) for name in names if name.startswith(_BOXES))
