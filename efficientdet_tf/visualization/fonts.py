"""Fonts of labels in any script."""

import functools
import pathlib

import PIL.ImageFont

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
    missing = frozenset(text) - _letters(_dejavu())
    path = _system_font(frozenset(text)) if missing else _dejavu()
    if path is None:
        for letter in missing:
            text = text.replace(letter, letter.encode("ascii", "backslashreplace").decode())
    return PIL.ImageFont.truetype(path or _dejavu(), size), text


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
