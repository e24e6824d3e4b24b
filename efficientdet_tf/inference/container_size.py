"""Sizes that the containers of videos declare, to find files that were cut off.

FFmpeg ends such files as if they were whole, where the cut leaves no half of a frame.
"""

import os
import pathlib
import struct
from typing import IO

# Elements of Matroska and WebM, which begin every file, in this order.
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
# Some programs declare the size of an AVI file with the eight bytes before what it counts.
_TOLERANCE = 8


def is_cut_off(location: str) -> bool:
    """Whether a Matroska, WebM, AVI, MP4 or MOV file is shorter than it declares.

    Args:
      location: path of a file; False for a URL or a device.
    """
    path = pathlib.Path(location)
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            return _declared_size(file, size) > size + _TOLERANCE
    except (OSError, struct.error, IndexError):
        # Cut off within its first bytes, among others: not a readable video anyhow.
        return False


def _declared_size(file: IO[bytes], size: int) -> int:
    """Return the size in bytes that a container declares; 0 if it does not."""
    head = file.read(12)
    file.seek(0)
    if head.startswith(_EBML):
        return _matroska_size(file)
    if head.startswith(b"RIFF"):
        return 8 + struct.unpack("<4xI4x", head)[0]
    if head[4:8] == b"ftyp":
        return _boxes_size(file, size)
    return 0


def _matroska_size(file: IO[bytes]) -> int:
    """Return the end of the segment, which follows the header; 0 if it is unknown."""
    end = 0
    for identifier in (_EBML, _SEGMENT):
        file.seek(end)
        head = file.read(12)
        if not head.startswith(identifier):
            return 0
        # The number of leading zeros is that of further bytes.
        length = 9 - max(1, head[4].bit_length())
        number = int.from_bytes(head[4 : 4 + length], "big")
        most = (1 << 7 * length) - 1
        content = number & most
        if content == most:
            # A recording that was not finished, or a stream.
            return 0
        end += 4 + length + content
    return end


def _boxes_size(file: IO[bytes], size: int) -> int:
    """Return the end of the last box that begins within the file."""
    end = 0
    while end + 8 <= size:
        file.seek(end)
        box, kind = struct.unpack(">I4s", file.read(8))
        if not kind.isalnum():
            # What some cameras append.
            return 0
        if box == 1:
            box = struct.unpack(">Q", file.read(8))[0]
        if box < 8:
            # 0: up to the end of the file.
            return 0
        end += box
    return end
