"""Sources of prediction: images, folders, globs, lists, URLs, videos and cameras."""

import dataclasses
import glob
import itertools
import os
import pathlib
import posixpath
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import Literal

import numpy as np

from efficientdet_tf.data.annotations import (
    IMAGE_SUFFIXES,
    OTHER_IMAGE_SUFFIXES,
    file_name_problem,
    read_text,
)
from efficientdet_tf.data.image_files import ImageError, read_image
from efficientdet_tf.data.image_folders import files_in_depth
from efficientdet_tf.errors import UserError
from efficientdet_tf.inference import video
from efficientdet_tf.inference.image_download import download_image
from efficientdet_tf.inference.video import VIDEO_SUFFIXES
from efficientdet_tf.output_files import OutputError

_URL = ("http://", "https://")
_CAMERA = "camera:"
_GLOB = re.compile(r"[*?[]")


class SourceError(UserError):
    """An input that cannot be used."""


@dataclasses.dataclass(frozen=True)
class Source:
    """An image, a video or a camera.

    Attributes:
      name: name in results and of the drawn file: a relative path with "/".
      location: path, URL, or path of a camera's device.
      kind: what it is.
    """

    name: str
    location: str
    kind: Literal["image", "video", "camera"]


@dataclasses.dataclass(frozen=True)
class Frame:
    """An image, or a frame of a video or camera.

    Attributes:
      source: where it comes from.
      pixels: uint8 [h, w, 3], RGB, upright.
      file: path or bytes of the image's file; None for a frame of a video.
      index: number of the frame in the video, from 0; None for an image.
      time: seconds since the start of the video; None for an image.
      rate: frames per second that are read of the video; None for an image.
    """

    source: Source
    pixels: np.ndarray
    file: str | bytes | None = None
    index: int | None = None
    time: float | None = None
    rate: Fraction | None = None


def find_sources(
    given: str, output: pathlib.Path, is_own: Callable[[pathlib.Path], bool]
) -> list[Source]:
    """Find the images, videos or the camera that an input names.

    Args:
      given: path of an image, a video, a folder that is searched in depth, or a .txt file with a
        path or URL a line; a glob pattern, in which ** is folders in depth; an http(s) URL of an
        image or a video; or "camera:0".
      output: folder that is written to.
      is_own: predicate of a file in `output`, whether an earlier call wrote it: then it is no
        source, when `output` lies inside a folder that is searched.

    Raises:
      SourceError: when there are none.
      VideoError: for a video or a camera, when PyAV is not installed.
      OutputError: when `output` is the folder of the input.
    """
    path = pathlib.Path(given)
    if given.startswith(_CAMERA):
        found = [_camera(given)]
    elif given.startswith(_URL):
        found = _named([given])
    elif path.suffix.lower() == ".txt" and path.is_file():
        found = _listed(path)
    elif path.is_dir():
        found = _among(files_in_depth(path), path, output, is_own, given)
    elif path.exists():
        _check_other_folder(output, path.parent)
        found = [_source(path.name, given)]
    elif _GLOB.search(given):
        root = pathlib.Path(*itertools.takewhile(lambda part: not _GLOB.search(part), path.parts))
        paths = map(pathlib.Path, glob.iglob(given, recursive=True))
        found = _among(paths, root, output, is_own, given)
    else:
        raise SourceError(f"--input: {given}: no such file or folder")
    if len(found) == 1 and found[0].kind != "image":
        video.require_pyav(f"--input: {given}")
    return found


def read_frames(source: Source, stride: int = 1) -> Iterator[Frame]:
    """Read a source, one image after the other.

    Args:
      source: an image, a video or a camera, which does not end.
      stride: distance of the frames of a video or camera that are read. Default 1.

    Raises:
      ImageError: when it cannot be read; a video's earlier frames are yielded.
    """
    if source.kind == "image":
        yield _read_image(source)
        return
    for frame in video.read_frames(source.location, stride):
        yield Frame(source, frame.pixels, None, frame.index, frame.time, frame.rate)


def count_frames(sources: Sequence[Source], stride: int = 1, limit: int = 0) -> int | None:
    """Return the number of images and of frames that are read; None if unknown.

    Args:
      sources: what is read.
      stride: see `read_frames`.
      limit: largest number of frames of a video or camera; 0 for all. Default 0.
    """
    total = 0
    for source in sources:
        count: int | None = 1
        if source.kind == "camera":
            count = limit or None
        elif source.kind == "video" and (all_frames := video.num_frames(source.location)):
            count = min(-(-all_frames // stride), limit or all_frames)
        elif source.kind == "video":
            count = None
        if count is None:
            return None
        total += count
    return total


def _camera(given: str) -> Source:
    number = given.removeprefix(_CAMERA)
    if not re.fullmatch(r"\d{1,3}", number):
        raise SourceError(f"--input: {given}: not a number of a camera; use {_CAMERA}0")
    device = f"{video.CAMERA_DEVICES}{number}"
    if not os.path.exists(device):
        raise SourceError(f"--input: {given}: no camera at {device}; connect it, or name another")
    return Source(f"camera{number}", device, "camera")


def _listed(file: pathlib.Path) -> list[Source]:
    """Read a list of paths, relative to its folder, and URLs."""
    lines = [line.strip() for line in read_text(file).splitlines()]
    listed = dict.fromkeys(line for line in lines if line and not line.startswith("#"))
    if not listed:
        raise SourceError(f"--input: {file}: lists no images")
    urls = [line for line in listed if line.startswith(_URL)]
    paths = [os.path.abspath(file.parent / line) for line in listed if not line.startswith(_URL)]
    # One file may be written in several ways.
    sources = _named(list(dict.fromkeys(paths))) + _named(urls)
    of_name: dict[str, str] = {}
    for source in sources:
        other = of_name.setdefault(source.name, source.location)
        if other != source.location:
            raise SourceError(
                f"--input: {file}: {other} and {source.location} have the same name, "
                f"{source.name}; list them in two files"
            )
    return sources


def _named(locations: Sequence[str]) -> list[Source]:
    """Name files, or URLs, relative to the folder that they have in common."""
    if not locations:
        return []
    paths = [_path_of_url(location) for location in locations]
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    return [
        _source(os.path.relpath(path, root), location) for path, location in zip(paths, locations)
    ]


def _path_of_url(location: str) -> str:
    """Return /host/path of a URL, without "..", and a path as it is."""
    if not location.startswith(_URL):
        return location
    try:
        parts = urllib.parse.urlsplit(location)
    except ValueError as error:
        raise SourceError(f"--input: {location}: not a URL: {error}") from error
    decoded = urllib.parse.unquote(parts.path)
    path = parts.path if file_name_problem(decoded) else decoded
    return posixpath.normpath(f"/{parts.netloc}/{path}")


def _among(
    paths: Iterable[pathlib.Path],
    root: pathlib.Path,
    output: pathlib.Path,
    is_own: Callable[[pathlib.Path], bool],
    given: str,
) -> list[Source]:
    """Choose the images and videos of a folder or glob, without those that predict wrote.

    Unsupported image formats are included, to be reported.
    """
    _check_other_folder(output, root)
    output = output.resolve()
    known = (*IMAGE_SUFFIXES, *OTHER_IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    chosen = [
        path
        # Several ** of a glob find a file more than once.
        for path in sorted(set(paths))
        if path.suffix.lower() in known
        and not path.is_dir()
        and not (output in path.resolve().parents and is_own(path))
    ]
    if all(path.suffix.lower() in OTHER_IMAGE_SUFFIXES for path in chosen):
        raise SourceError(
            f"--input: {given}: no images ({', '.join(IMAGE_SUFFIXES)}) or videos "
            f"({', '.join(VIDEO_SUFFIXES)}) in it"
        )
    return [_source(str(path.relative_to(root)), str(path)) for path in chosen]


def _check_other_folder(output: pathlib.Path, root: pathlib.Path) -> None:
    if output.resolve() == root.resolve():
        raise OutputError(f"--output: {output} is the folder of the input; choose another folder")


def _source(name: str, location: str) -> Source:
    is_video = posixpath.splitext(name)[1].lower() in VIDEO_SUFFIXES
    return Source(name, location, "video" if is_video else "image")


def _read_image(source: Source) -> Frame:
    """Read an image at a path or URL."""
    location = source.location
    if not location.startswith(_URL):
        return Frame(source, read_image(location), location)
    content = download_image(location)
    try:
        return Frame(source, read_image(content), content)
    except ImageError as error:
        # It names no file.
        reason = str(error).removeprefix("image bytes: ")
        raise ImageError(f"{location}: {reason}") from error
