"""Checks of options, and suggestions for unknown names.

The message of an error begins with the option's name. This module imports no TensorFlow, so that
a command can check settings before that import.
"""

import difflib
import numbers
from collections.abc import Iterable
from typing import Any


def check_choice(field: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise ValueError if a value is none of the choices."""
    # In a list, as a value need not be hashable.
    if value not in list(choices):
        raise ValueError(f"{field}: {value!r} is not one of {', '.join(map(str, choices))}")


def check_integer(field: str, value: Any, least: int = 1) -> None:
    """Raise ValueError if a value is no whole number, or below `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{field}: {value!r} is not a whole number")
    if value < least:
        raise ValueError(f"{field}: {value} is below {least}")


def check_rate(field: str, value: Any) -> None:
    """Raise ValueError if a value is not a number of 0 or more, below 1."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value < 1:
        raise ValueError(f"{field}: {value!r} is not 0 or more, below 1")


def check_bool(field: str, value: Any) -> None:
    """Raise ValueError if a value is neither true nor false."""
    if not isinstance(value, bool):
        raise ValueError(f"{field}: {value!r} is not true or false")


def did_you_mean(word: Any, known: Iterable[str]) -> str:
    """Return the suggestion at the end of a message about an unknown word."""
    near = nearest(str(word), known)
    return f"; did you mean {near!r}?" if near else f"; known: {', '.join(known)}"


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """Return the known word most like a word, of at least a likeness of 0..1; None for none."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=likeness)), None)
