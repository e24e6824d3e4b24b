"""Frames of video files and cameras, and videos as output, by PyAV (the extra `[video]`).

PyAV is FFmpeg with its codecs. It is imported where it is needed.
"""

import contextlib
import dataclasses
import pathlib
import types
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import PIL.Image

from efficientdet_tf.data.image_files import ImageError
from efficientdet_tf.inference.container_size import is_cut_off
from efficientdet_tf.output_files import MARK, OutputError, replacing_output

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".3gp", ".ogv", ".mts", ".m2ts"),
)
CAMERA_DEVICES = "/dev/video"
# Of a stream that stops.
_SECONDS = 30
# Units of time in written files: a multiple of all usual frame rates.
_TICK = Fraction(1, 90_000)
# Half the processor time of the codec's default, at nearly the same size of the file.
_ENCODING = {"preset": "veryfast"}
# Frames per second of a stream that does not say.
_USUAL_RATE = Fraction(25)


class VideoError(ImageError):
    """A video or camera that cannot be read."""


@dataclasses.dataclass(frozen=True)
class VideoFrame:
    """One frame of a video.

    Attributes:
      index: number of the frame in the video, from 0.
      time: seconds since the start of the video.
      rate: frames per second, on average, of those that are read.
      pixels: uint8 [h, w, 3], RGB, upright.
    """

    index: int
    time: float
    rate: Fraction
    pixels: np.ndarray


def require_pyav(name: str) -> types.ModuleType:
    """Import PyAV.

    Args:
      name: name of the video in the message.

    Raises:
      VideoError: when it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise VideoError(f"{name}: videos need PyAV; run pip install '.[video]'") from error
    return av


def num_frames(location: str) -> int | None:
    """Return the number of frames that a video says or suggests it has; None if unknown.

    Args:
      location: see `read_frames`.
    """
    try:
        with _opened(location) as stream:
            if stream.frames:
                return stream.frames
            duration, rate = stream.container.duration, stream.average_rate
            # Microseconds.
            return round(duration * rate / 1_000_000) if duration and rate else None
    except VideoError:
        return None


def read_frames(location: str, stride: int = 1) -> Iterator[VideoFrame]:
    """Read every `stride`-th frame of a video, one after the other.

    Args:
      location: path or URL of a file, or path of a camera's device.
      stride: distance of two frames, at least 1. Default 1.

    Raises:
      VideoError: when it is not a video; at the end, if frames were damaged, which are counted
        and not yielded, or if the file is cut off and frames are lost.
    """
    index, damaged, start = 0, 0, None
    with _opened(location) as stream:
        rate = stream.average_rate or stream.guessed_rate or _USUAL_RATE
        for frame in _decoded(stream, location):
            if frame is None:
                damaged += 1
            else:
                time = float(index / rate if frame.time is None else frame.time)
                start = time if start is None else start
                if index % stride == 0:
                    yield VideoFrame(index, time - start, rate / stride, _upright_pixels(frame))
            index += 1
    if is_cut_off(location):
        total = num_frames(location)
        if total is None or index - damaged < total:
            of_all = "" if total is None else f" of about {total}"
            raise VideoError(f"{location}: cut off: {index - damaged} frames{of_all} are left")
    if damaged or not index:
        raise VideoError(f"{location}: {damaged} damaged frames of {index}")


@contextlib.contextmanager
def writing(path: pathlib.Path, rate: Fraction) -> Iterator[Callable]:
    """Write an H.264 video, which replaces `path` at the end of the context.

    A last odd row or column of pixels is cut off, which H.264 cannot have.

    Args:
      path: path of an .mp4 file.
      rate: frames per second, as players show it; the times of the frames decide.

    Yields:
      Function of an RGB image and its time in seconds, above that of the image before.

    Raises:
      OutputError: when it cannot be written.
    """
    av = require_pyav(str(path))
    try:
        with (
            replacing_output(path) as partial,
            av.open(str(partial), "w", format="mp4") as container,
        ):
            container.metadata["comment"] = MARK
            stream = container.add_stream("libx264", rate=rate, options=_ENCODING)
            yield _Encoder(stream, av.VideoFrame).write
            container.mux(stream.encode(None))
    except av.FFmpegError as error:
        raise OutputError(f"--output: {path}: cannot be written: {error.strerror}") from error


def is_own_video(path: pathlib.Path) -> bool:
    """Whether a file is a video that `writing` wrote; False without PyAV."""
    try:
        with _opened(str(path)) as stream:
            return stream.container.metadata.get("comment") == MARK
    except VideoError:
        return False


class _Encoder:
    """Stream of a video file, of the size of its first image."""

    def __init__(self, stream: Any, frame_type: Any) -> None:
        self._stream, self._frame_type = stream, frame_type
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = _TICK
        # Width and height, 0 before the first image.
        self._size = (0, 0)
        self._last = -1

    def write(self, image: PIL.Image.Image, time: float) -> None:
        if not any(self._size):
            self._size = max(2, image.width // 2 * 2), max(2, image.height // 2 * 2)
            self._stream.width, self._stream.height = self._size
        frame = self._frame_type.from_image(image.crop((0, 0, *self._size)))
        self._last = max(self._last + 1, round(time / _TICK))
        frame.pts, frame.time_base = self._last, _TICK
        self._stream.container.mux(self._stream.encode(frame))


@contextlib.contextmanager
def _opened(location: str) -> Iterator[Any]:
    """Open the first video stream of a file or camera; it is closed with its container."""
    av = require_pyav(location)
    format = "v4l2" if location.startswith(CAMERA_DEVICES) else None
    try:
        container = av.open(location, format=format, timeout=_SECONDS)
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{location}: not a readable video: {error.strerror}") from error
    with container:
        if not container.streams.video:
            raise VideoError(f"{location}: no video in it")
        yield container.streams.video[0]


def _decoded(stream: Any, location: str) -> Iterator[Any]:
    """Yield the frames of a stream, and None for a damaged one."""
    av = require_pyav(location)
    try:
        for packet in stream.container.demux(stream):
            try:
                frames = packet.decode()
            except av.InvalidDataError:
                frames = [None]
            yield from frames
    except (av.FFmpegError, OSError) as error:
        raise VideoError(f"{location}: cannot be read to its end: {error.strerror}") from error


def _upright_pixels(frame: Any) -> np.ndarray:
    """Convert to uint8 [h, w, 3] RGB, turned as the file says: phones film sideways."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90)))
