"""Output files of the commands, which never overwrite a user's file.

Images written by a command are marked (PNG text, JPEG or SVG comment), so that a later call
recognises and replaces them even when they were moved.
"""

import contextlib
import io
import math
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator

import PIL.Image
import PIL.PngImagePlugin

from efficientdet_tf.errors import UserError
from efficientdet_tf.files import WriteError, replacing

# Comment in written files of formats with comments.
MARK = "written by efficientdet_tf"


# Longest side of an image in pixels, by format.
_LONGEST_SIDE = {"JPEG": 65_500, "WEBP": 16_383, "GIF": 65_535}


class OutputError(UserError):
    """An output that cannot be written, or would overwrite a user's file."""


def check_replaceable(
    path: pathlib.Path, is_own: Callable[[pathlib.Path], bool], flag: str = "output"
) -> None:
    """Check that a path is free, or holds an earlier output of the program.

    Args:
      path: file or folder to write.
      is_own: predicate, whether the file or folder at `path` was written by this program.
      flag: flag that names the path, for the message. Default "output".

    Raises:
      OutputError: when something else would be overwritten.
    """
    if os.path.lexists(path) and not is_own(path):
        raise OutputError(
            f"--{flag}: {path} exists and was not written by this command; "
            "choose another name or folder, or move it away"
        )


def check_not_input(path: pathlib.Path, *inputs: str | os.PathLike | None) -> None:
    """Check that an output file is not an input of the command.

    Args:
      path: file to write.
      inputs: paths of files or folders to read; None and "" are ignored.

    Raises:
      OutputError: when an input would be overwritten.
    """
    for given in inputs:
        if given and path.exists() and os.path.exists(given) and os.path.samefile(path, given):
            raise OutputError(
                f"--output: {path} is the input, which would be overwritten; choose another folder"
            )


@contextlib.contextmanager
def replacing_output(path: pathlib.Path, flag: str = "output") -> Iterator[pathlib.Path]:
    """Replace an output file as `files.replacing` does; its folder is made.

    Raises:
      OutputError: for any `OSError` within the context, which should only write.
    """
    with naming_errors(path, flag):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            yield partial


@contextlib.contextmanager
def naming_errors(path: pathlib.Path, flag: str = "output") -> Iterator[None]:
    """Raise an `OutputError` that names `path` for any `OSError` within the context."""
    try:
        yield
    except WriteError as error:
        raise OutputError(f"--{flag}: {error}") from error
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"--{flag}: {path}: cannot be written: {reason}") from error


def write_image(image: PIL.Image.Image, path: pathlib.Path) -> None:
    """Write an image as the file of --output; see `encode_image`.

    Raises:
      OutputError: when it cannot be written, or there is no writable format for the suffix.
    """
    content = encode_image(image, path.suffix)
    with replacing_output(path) as partial:
        partial.write_bytes(content)


def image_format(suffix: str) -> str:
    """Return Pillow's image format for a file name's suffix.

    Raises:
      OutputError: when there is no writable format for it.
    """
    format = PIL.Image.registered_extensions().get(suffix.lower())
    if format not in PIL.Image.SAVE:
        given = f"suffix {suffix!r}" if suffix else "a name without a suffix"
        raise OutputError(f"--output: {given} has no image format; use e.g. .png")
    return format


def encode_image(image: PIL.Image.Image, suffix: str) -> bytes:
    """Encode an image file that `is_own_image` recognises, if the format supports comments.

    Args:
      image: RGB image.
      suffix: suffix of the file name, e.g. ".png"; determines the format.

    Raises:
      OutputError: when there is no writable format for the suffix, the image is too large for
        it, or Pillow cannot write it, e.g. because the format has no colours.
    """
    format = image_format(suffix)
    text = PIL.PngImagePlugin.PngInfo()
    text.add_text("Comment", MARK)
    file = io.BytesIO()
    try:
        image.save(file, format, quality=92, comment=MARK, pnginfo=text)
    # Pillow has errors of many kinds.
    except Exception as error:
        if max(image.size) > _LONGEST_SIDE.get(format, math.inf):
            reason = f"cannot hold an image of {image.width} x {image.height} pixels"
        else:
            reason = f"cannot be written: {' '.join(str(error).split()) or type(error).__name__}"
        raise OutputError(f"--output: {format} {reason}; use .png") from error
    return file.getvalue()


def is_own_image(path: pathlib.Path) -> bool:
    """Whether a file is an image written by `encode_image`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
            with PIL.Image.open(path) as image:
                return MARK in (image.info.get("Comment"), _text(image.info.get("comment")))
    except (PIL.Image.DecompressionBombWarning, PIL.Image.DecompressionBombError):
        # A grid of large images is not opened, but its comment is among the first bytes.
        return MARK.encode() in _head(path)
    except (OSError, SyntaxError, ValueError):
        return False


def is_own_text(path: pathlib.Path) -> bool:
    """Whether a file is text that begins with a comment with `MARK`."""
    try:
        with open(path, "rb") as file:
            return MARK in file.readline().decode()
    except (OSError, UnicodeDecodeError):
        return False


def _head(path: pathlib.Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(4096)


def _text(comment: bytes | str | None) -> str | None:
    return comment.decode(errors="replace") if isinstance(comment, bytes) else comment
