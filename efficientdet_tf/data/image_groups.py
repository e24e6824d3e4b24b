"""Groups of images that belong together, e.g. copies, from pairs of them."""

from collections.abc import Iterable

import numpy as np


class ImageGroups:
    """Groups of positions that grow pair by pair; at first each position is its own group.

    Attributes:
      labels: int [count], equal for positions of one group.
    """

    def __init__(self, count: int):
        """Begin with `count` positions."""
        self.labels = np.arange(count)
        # By label, of groups of two or more.
        self._members: dict[int, list[int]] = {}

    def join(self, one: int, other: int) -> None:
        """Make one group of those of two positions."""
        large, small = int(self.labels[one]), int(self.labels[other])
        if large == small:
            return
        kept, moved = (self._members.pop(label, [label]) for label in (large, small))
        # The smaller group is relabelled, so a position is rarely.
        if len(kept) < len(moved):
            large, kept, moved = small, moved, kept
        self.labels[moved] = large
        kept += moved
        self._members[large] = kept

    def first_of_each(self) -> list[int]:
        """Return the lowest position of each position's group."""
        lowest = np.arange(len(self.labels))
        for members in self._members.values():
            lowest[members] = min(members)
        return lowest.tolist()


def first_of_groups(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Find the first member of each position's group.

    Args:
      count: number of positions.
      pairs: pairs of positions that are in one group.

    Returns:
      `count` positions: the lowest of the group, which may be the position itself.
    """
    groups = ImageGroups(count)
    for one, other in pairs:
        groups.join(one, other)
    return groups.first_of_each()
