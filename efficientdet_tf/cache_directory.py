"""Cache directory for files that can be downloaded or computed again."""

import os
import pathlib


def cache_directory() -> pathlib.Path:
    """Return `$EFFICIENTDET_CACHE`, else ~/.cache/efficientdet; it need not exist."""
    chosen = os.environ.get("EFFICIENTDET_CACHE")
    return pathlib.Path(chosen) if chosen else pathlib.Path.home() / ".cache" / "efficientdet"
