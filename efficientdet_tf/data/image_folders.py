"""Search for image files by name, without regard to case where none is exact."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path


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
