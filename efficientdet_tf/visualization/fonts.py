"""Fonts of labels in any script."""

import functools
import pathlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import PIL.ImageFont

if TYPE_CHECKING:
    from matplotlib.text import Text

# Of Matplotlib: a placeholder for each letter there is.
_PLACEHOLDERS = "LastResort"


def font_and_text(text: str, size: int) -> tuple[PIL.ImageFont.FreeTypeFont, str]:
    """Choose a font that has the letters of a label.

    Matplotlib's DejaVu Sans if it has them, else the first of the system's fonts: names in
    Chinese, Japanese, Korean, Hindi or Thai need one of those.

    Args:
      text: label.
      size: height in pixels.

    Returns:
      The font, and the label; without such a font, letters are written as their
      code points, so that classes can be told apart.
    """
    path, text = _path_and_text(text)
    return PIL.ImageFont.truetype(path, size), text


def set_fonts(labels: Iterable["Text"]) -> None:
    """Give labels of a Matplotlib chart fonts that have their letters, as `font_and_text`.

    What is between two dollar signs is text, too, and no formula.

    Args:
      labels: labels; changed.
    """
    from matplotlib.font_manager import FontProperties

    for label in labels:
        path, text = _path_and_text(label.get_text())
        label.set_text(text)
        label.set_fontproperties(FontProperties(fname=path, size=label.get_fontsize()))
        label.set_parse_math(False)


def shorten(name: str) -> str:
    """Cut a name of more than 24 letters, for charts."""
    return name if len(name) <= 24 else name[:23] + "\u2026"


def _path_and_text(text: str) -> tuple[str, str]:
    """Choose the file of the font; the rest as in `font_and_text`."""
    missing = frozenset(text) - _letters(_dejavu())
    path = _system_font(frozenset(text)) if missing else _dejavu()
    if path is None:
        for letter in missing:
            text = text.replace(letter, letter.encode("ascii", "backslashreplace").decode())
    return path or _dejavu(), text


@functools.cache
def _dejavu() -> str:
    import matplotlib

    return str(pathlib.Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


@functools.cache
def _letters(path: str) -> frozenset[str]:
    """Return the letters that a font has."""
    from matplotlib import ft2font

    return frozenset(map(chr, ft2font.FT2Font(path).get_charmap()))


@functools.cache
def _system_font(letters: frozenset[str]) -> str | None:
    """Return the path of a font with some letters; None if there is none."""
    # Late: it looks for all fonts of the system.
    from matplotlib import font_manager

    paths = sorted({entry.fname for entry in font_manager.fontManager.ttflist})
    known = (path for path in paths if _PLACEHOLDERS not in path)
    return next((path for path in known if letters <= _letters(path)), None)
