"""Files that the commands write: never over a file of the user's.

An image that a command writes says so in its own file (PNG text or JPEG comment),
so that it is recognised and replaced by a later call wherever it was moved to.
"""

import io
import os
import pathlib
from collections.abc import Callable

import PIL.Image
import PIL.PngImagePlugin

from efficientdet_tf.errors import UserError

# What files say that have room for a remark.
MARK = "written by efficientdet_tf"


class OutputError(UserError):
    """An output that cannot be written, or would overwrite a file of the user's."""


def check_replaceable(path: pathlib.Path, is_own: Callable[[pathlib.Path], bool]) -> None:
    """Pass when nothing is at a path, or only what the program itself wrote there.

    Args:
      path: of the file or folder to write.
      is_own: whether the file or folder at `path` was written by this program.

    Raises:
      OutputError: naming what would be overwritten.
    """
    if os.path.lexists(path) and not is_own(path):
        raise OutputError(
            f"--output: {path} exists and was not written by this command; "
            "choose another name or folder, or move it away"
        )


def check_not_input(path: pathlib.Path, *inputs: str | os.PathLike | None) -> None:
    """Pass when a file to write is none of those that the command reads.

    Args:
      path: of the file to write.
      inputs: paths of files or folders to read; None and "" are passed over.

    Raises:
      OutputError: naming the file that would be overwritten.
    """
    for given in inputs:
        if given and path.exists() and os.path.exists(given) and os.path.samefile(path, given):
            raise OutputError(
                f"--output: {path} is the input, which would be overwritten; choose another folder"
            )


def image_format(suffix: str) -> str:
    """Return Pillow's name of the format that a file name's suffix stands for.

    Raises:
      OutputError: when it stands for none that can be written.
    """
    format = PIL.Image.registered_extensions().get(suffix.lower())
    if format not in PIL.Image.SAVE:
        given = f"{suffix!r} is" if suffix else "a name without a suffix is"
        raise OutputError(f"--output: {given} of no image format; use e.g. .png")
    return format


def encode_image(image: PIL.Image.Image, suffix: str) -> bytes:
    """Return an image file that `is_own_image` recognises, where the format has room for text.

    Args:
      image: RGB.
      suffix: of the file's name, e.g. ".png"; decides the format.

    Raises:
      OutputError: for a suffix that stands for no format to write.
    """
    format = image_format(suffix)
    text = PIL.PngImagePlugin.PngInfo()
    text.add_text("Comment", MARK)
    file = io.BytesIO()
    image.save(file, format, quality=92, comment=MARK, pnginfo=text)
    return file.getvalue()


def is_own_image(path: pathlib.Path) -> bool:
    """Whether a file is an image of `encode_image`."""
    try:
        with PIL.Image.open(path) as image:
            return MARK in (image.info.get("Comment"), _text(image.info.get("comment")))
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError):
        return False


def _text(comment: bytes | str | None) -> str | None:
    return comment.decode(errors="replace") if isinstance(comment, bytes) else comment
