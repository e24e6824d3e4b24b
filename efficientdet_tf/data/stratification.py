"""Division of a data set into training and validation images, stratified by class.

Iterative stratification (Sechidis et al. 2011, "On the Stratification of Multi-Label
Data"): the class with the fewest images left is shared out first, each of its images to
the part that lacks most of this class. Images that belong together stay together.
"""

import itertools
import re
from collections.abc import Sequence

import numpy as np

from efficientdet_tf.data.image_groups import first_of_groups
from efficientdet_tf.data.record_columns import RecordColumns
from efficientdet_tf.data.records import DataError, DetectionData


def count_images(data: DetectionData) -> np.ndarray:
    """Tell the classes of each image, without crowd regions and ignored objects.

    Returns:
      bool [images, classes], true for a class that the image has.
    """
    records = RecordColumns.build(data.records)
    counted = records.is_counted
    found = np.zeros((len(data), len(data.label_map)), bool)
    found[records.owners[counted], records.classes[counted]] = True
    return found


def group_numbers(names: Sequence[str], pattern: str) -> list[int]:
    """Number the groups of images by a regular expression.

    Args:
      names: paths of the images.
      pattern: regular expression that is searched in each path; what its first group
        matches, or all of it, names the group.

    Returns:
      The number of the group of each image, that of its first image.

    Raises:
      DataError: if the expression is invalid, or not found in a path.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise DataError(f"--by: {pattern!r} is not a regular expression: {error}") from error
    first: dict[str, int] = {}
    numbers = []
    for position, name in enumerate(names):
        match = expression.search(name)
        if match is None:
            raise DataError(f"--by: {pattern!r} is not found in {name}")
        key = match[1] if expression.groups and match[1] is not None else match[0]
        numbers.append(first.setdefault(key, position))
    return numbers


def join_groups(*numberings: Sequence[int]) -> list[int]:
    """Join the groups of several numberings that have an image in common.

    Args:
      numberings: position of the first image of its group, for each image.

    Returns:
      The same, for the joined groups.
    """
    pairs = itertools.chain.from_iterable(map(enumerate, numberings))
    return first_of_groups(len(numberings[0]), pairs)


def divide(
    classes: np.ndarray, groups: Sequence[int], val_fraction: float, seed: int
) -> np.ndarray:
    """Choose the validation images.

    Args:
      classes: bool [images, classes], see `count_images`.
      groups: number of the group of each image; a group is not divided.
      val_fraction: fraction of the images, 0 to 1 exclusively.
      seed: seed of the order of the images.

    Returns:
      bool [images], whether an image is for validation.

    Raises:
      DataError: if one part would have no image.
    """
    numbers, members = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(numbers), classes.shape[1] + 1), np.int32)
    np.add.at(counts[:, :-1], members, classes)
    # The last column counts the images, of which those without objects have nothing else.
    counts[:, -1] = np.bincount(members)
    is_val = _share_out(counts, val_fraction, np.random.default_rng(seed))[members]
    if is_val.all() or not is_val.any():
        raise DataError(
            f"--val_fraction: {len(numbers)} groups of images cannot be divided by {val_fraction:g}"
        )
    return is_val


def _share_out(counts: np.ndarray, val_fraction: float, random: np.random.Generator) -> np.ndarray:
    """Choose the groups for validation: bool [groups], from their counts [groups, columns]."""
    order = random.permutation(len(counts))
    fractions = np.array([1 - val_fraction, val_fraction])
    wanted = fractions[:, None] * counts.sum(axis=0)
    part = np.full(len(counts), -1)
    left = counts.sum(axis=0)
    # Each group has an image.
    while left[-1]:
        # All columns but that of the images, while they have any left.
        rare = np.where(left[:-1] > 0, left[:-1], np.iinfo(np.int64).max)
        column = int(rare.argmin()) if (left[:-1] > 0).any() else len(left) - 1
        having = order[(part[order] < 0) & (counts[order, column] > 0)]
        # Large groups first, which leave the fewest choices.
        for group in having[np.argsort(-counts[having, -1], kind="stable")]:
            chosen = max((0, 1), key=lambda p: (wanted[p, column], wanted[p, -1]))
            part[group] = chosen
            wanted[chosen] -= counts[group]
        left = left - counts[having].sum(axis=0)
    return part == 1
