"""Parts of a COCO file: the entries of some of its images, with all their fields."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from efficientdet_tf.data import coco_file
from efficientdet_tf.data.annotations import as_id


class _Entry(msgspec.Struct):
    """The id of an image, or that of an annotation's image."""

    id: Any = None
    image_id: Any = None


def select_images(path: str, files: Mapping[int, str], folder: Path) -> bytes:
    """Return a COCO file with the entries of some images.

    The entries stay as they are written, but for the file names of the images, which become
    relative to the folder. Of image entries with the same id the first is taken, as by `coco.read`.

    Args:
      path: the COCO file.
      files: image id -> path of the image file.
      folder: the folder that the new file is for.

    Raises:
      DataError: if the file cannot be read.
    """
    content = _read(path)
    parts = []
    for key, value in content.items():
        if key == "images":
            first: dict[int | None, bytes] = {}
            for entry in _entries(value):
                first.setdefault(_owner(entry).id, entry)
            images = [_image(entry, files, folder) for entry in first.values()]
            value = b"[" + b",".join(image for image in images if image) + b"]"
        elif key == "annotations":
            kept = [entry for entry in _entries(value) if _owner(entry).image_id in files]
            value = b"[" + b",".join(kept) + b"]"
        parts.append(json.dumps(key).encode() + b":" + value)
    return b"{" + b",".join(parts) + b"}"


def _read(path: str) -> dict[str, bytes]:
    """Return the text of each key of a file."""
    try:
        text = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf")
        return dict(msgspec.json.decode(text, type=dict[str, msgspec.Raw]))
    except (OSError, ValueError, RecursionError):
        # Python's parser takes more, e.g. NaN, and its messages name the line.
        return {key: _text(value) for key, value in coco_file.parse(path).items()}


def _entries(text: bytes) -> list[bytes]:
    """Return the texts of the entries of a list."""
    try:
        return list(msgspec.json.decode(text, type=list[msgspec.Raw]))
    except ValueError:
        return [_text(entry) for entry in json.loads(bytes(text))]


def _owner(text: bytes) -> _Entry:
    """Return the ids of an entry, as integers; None for invalid ones."""
    try:
        entry = msgspec.json.decode(text, type=_Entry)
    except ValueError:
        content = json.loads(bytes(text))
        content = content if isinstance(content, dict) else {}
        entry = _Entry(content.get("id"), content.get("image_id"))
    return _Entry(as_id(entry.id), as_id(entry.image_id))


def _image(text: bytes, files: Mapping[int, str], folder: Path) -> bytes:
    """Return an image's entry with its new file name; b"" if it is not selected."""
    file = files.get(_owner(text).id)
    if file is None:
        return b""
    # Of a folder that is reached by a link, ".." leads elsewhere than its path tells. An image
    # that is a link itself keeps its name.
    parent, name = os.path.split(file)
    relative = os.path.relpath(os.path.realpath(parent), os.path.realpath(folder))
    file_name = os.path.normpath(os.path.join(relative, name))
    return _text(json.loads(bytes(text)) | {"file_name": file_name})


def _text(value: Any) -> bytes:
    return json.dumps(value).encode()
