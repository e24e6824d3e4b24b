"""Search for files: images by name in a folder, and files in folders in depth."""

import collections
import functools
import os
from collections.abc import Sequence
from pathlib import Path

from efficientdet_tf.data import split_names


class ImageFolder:
    """A folder that images are searched in."""

    def __init__(self, path: Path):
        """Begin without reading the folder at `path`."""
        self.path = path

    def find(self, names: Sequence[str]) -> Path | None:
        """Find the first of several files; one that differs in case only if none is exact.

        Args:
          names: names of files, or their paths relative to the folder.

        Returns:
          The path; None if there is no such file.
        """
        exact = (self.path / name for name in names)
        if found := next((path for path in exact if os.path.isfile(path)), None):
            return found
        others = (self._by_lower_name.get(name.lower()) for name in names)
        return next((self.path / other for other in others if other), None)

    @functools.cached_property
    def _by_lower_name(self) -> dict[str, str]:
        # Cameras write IMG_1.JPG, and programs on Windows name img_1.jpg.
        names = sorted(os.listdir(self.path)) if self.path.is_dir() else []
        return {name.lower(): name for name in names if os.path.isfile(self.path / name)}


def folders_of_images(file: Path, split: str) -> list[Path]:
    """List where the images of a file of annotations may be, the likeliest folder first.

    Args:
      file: the file, whose name may have the word of a split, as train-annotations.csv.
      split: name of the split, e.g. "train".
    """
    words = [*split_names.words_in(file.name), *split_names.words_of(split)]
    names = [name for word in dict.fromkeys(words) for name in (word, f"images/{word}")]
    names += ["images", "data", ""]
    return [parent / name for parent in (file.parent, file.parent.parent) for name in names]


def files_in_depth(folder: Path) -> list[Path]:
    """List the files in a folder and those inside it, links to folders included.

    Each folder is searched once, by its own path rather than by a link, so links may be loops.
    """
    files: list[Path] = []
    seen: set[str] = set()
    folders, links = collections.deque([folder]), collections.deque[Path]()
    while folders or links:
        place = (folders or links).popleft()
        real = os.path.realpath(place)
        if real in seen or not os.access(place, os.R_OK | os.X_OK):
            continue
        seen.add(real)
        for item in place.iterdir():
            if item.is_dir():
                (links if item.is_symlink() else folders).append(item)
            else:
                files.append(item)
    return files


def notes_on_deeper_files(folder: Path, suffix: str) -> list[str]:
    """Return a note on annotation files in folders inside a folder, but for those of splits."""
    found = sorted(folder.glob(f"*/*{suffix}"))
    deeper = [file for file in found if not split_names.words_in(file.parent.name)]
    where = f"{folder}: {suffix} files in folders inside it"
    return [f"{where}: {len(deeper)}, e.g. {deeper[0]}; not used"] if deeper else []
