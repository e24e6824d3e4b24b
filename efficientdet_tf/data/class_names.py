"""Categories of formats that have names only: numbered from 1, sorted or in the order of a file."""

from collections.abc import Collection, Iterable
from pathlib import Path

from efficientdet_tf.data.annotations import read_text
from efficientdet_tf.data.records import DataError, LabelMap

LABEL_FILE = "labels.txt"


def label_map_of_folder(
    folder: Path, used: Iterable[str], source: Path, reserved: Collection[str] = ()
) -> LabelMap:
    """Number the names of `labels.txt`, one per line, or else the used names, sorted.

    Args:
      folder: the folder that may hold `labels.txt`.
      used: the names in the annotations, only read without that file; "" is no name.
      source: the file or folder of the annotations, for the message.
      reserved: names that are no categories. Default none.

    Raises:
      DataError: if there is no name, or one occurs twice.
    """
    file = folder / LABEL_FILE
    if file.is_file():
        names = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    else:
        names = sorted({*used} - {""})
    names = [name for name in names if name not in reserved]
    if not names:
        raise DataError(f"{source}: there is no object with a name")
    if len(set(names)) != len(names):
        raise DataError(f"{file}: a name occurs twice")
    return numbered(names)


def numbered(names: Iterable[str]) -> LabelMap:
    """Make a label map that numbers names from 1."""
    names = tuple(names)
    return LabelMap(tuple(range(1, len(names) + 1)), names)
