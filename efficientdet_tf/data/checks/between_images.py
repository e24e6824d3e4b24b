"""Faults between images: equal images within a set and in both splits."""

import collections
from collections.abc import Sequence

from efficientdet_tf.data.checks.checked_set import CheckedImage, CheckedSet
from efficientdet_tf.data.checks.duplicates import find_duplicates
from efficientdet_tf.data.faults import Fault
from efficientdet_tf.data.leakage import content_digest


def equal_images(sets: Sequence[CheckedSet]) -> list[list[tuple[CheckedSet, CheckedImage]]]:
    """Group the images of equal content, see `find_duplicates`.

    Args:
      sets: the sets.

    Returns:
      Groups of two or more (set, image), in the order of the sets and their images.
    """
    images = [(part, each) for part in sets for each in part.images]
    groups: dict[int, list[tuple[CheckedSet, CheckedImage]]] = collections.defaultdict(list)
    for pair, first in zip(images, find_duplicates([each.fingerprint for _, each in images])):
        groups[first].append(pair)
    return [group for group in groups.values() if len(group) > 1]


def repeated_images(sets: Sequence[CheckedSet]) -> dict[str, list[Fault]]:
    """Find images of equal content, see `find_duplicates`.

    Args:
      sets: the sets, the training set first.

    Returns:
      Faults by split: `image_duplicate` for each image of which the same set has an earlier
      one, `leakage` for each image of a later set that an earlier set has.
    """
    images = [(part, each) for part in sets for each in part.images]
    first = find_duplicates([each.fingerprint for _, each in images])
    # By group and set the first image; the sets in their order.
    seen: dict[int, dict[str, CheckedImage]] = collections.defaultdict(dict)
    faults: dict[str, list[Fault]] = {part.split: [] for part in sets}
    for (part, image), root in zip(images, first):
        found = faults[part.split]
        outside = next((other for split, other in seen[root].items() if split != part.split), None)
        if outside:
            found.append(_fault("leakage", image, outside, "the other split"))
        inside = seen[root].setdefault(part.split, image)
        if inside is not image:
            found.append(_fault("image_duplicate", image, inside, "this set"))
    return faults


def _fault(kind: str, image: CheckedImage, other: CheckedImage, place: str) -> Fault:
    digests = {content_digest(each.image.image) for each in (image, other)}
    likeness = "the same file as" if len(digests) == 1 else "looks the same as"
    name, other_name = image.image.name, other.image.name
    likeness = "the same path as" if name == other_name else likeness
    line = f"{name}: {likeness} {other_name} of {place}"
    return Fault(kind, line, file=name, image=name, other=other_name)
