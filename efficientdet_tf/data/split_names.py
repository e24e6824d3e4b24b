"""Splits in the names of files: "train-00000-of-00004.tfrecord", "validation-annotations.csv"."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

File = TypeVar("File", str, Path)

# Split -> words in a file's name that identify it.
WORDS = {
    "train": ("train", "training", "trainval"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


def words_of(split: str) -> tuple[str, ...]:
    """Return the words that identify a split; a split of another name is its own word."""
    return WORDS.get(split, (split,))


def words_in(name: str) -> list[str]:
    """Return the words of a file's name that identify any of the known splits."""
    known = {word for words in WORDS.values() for word in words}
    return [word for word in _words(name) if word in known]


def is_of_split(split: str, file: str | Path) -> bool:
    """Tell whether a file's name identifies it as part of a split, e.g. "train"."""
    return not set(words_of(split)).isdisjoint(_words(os.path.basename(file)))


def files_of_split(split: str, files: Sequence[File]) -> list[File]:
    """Return the files of a split: those named by it, or all if none is named by a split."""
    named = [file for file in files if is_of_split(split, file)]
    return named or ([] if any(words_in(os.path.basename(f)) for f in files) else list(files))


def _words(name: str) -> list[str]:
    return re.split("[^a-z]+", name.lower())
