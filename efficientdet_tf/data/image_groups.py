"""Groups of images that belong together, e.g. copies, from pairs of them."""

from collections.abc import Iterable


def first_of_groups(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Find the first member of each position's group.

    Args:
      count: number of positions.
      pairs: pairs of positions that are in one group.

    Returns:
      `count` positions: the lowest of the group, which may be the position itself.
    """
    first = list(range(count))

    def root(position: int) -> int:
        while first[position] != position:
            # Halving the path keeps long chains short.
            first[position] = position = first[first[position]]
        return position

    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        first[high] = low
    return [root(position) for position in range(count)]
