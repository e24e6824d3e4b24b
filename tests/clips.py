"""Small videos, made with PyAV."""

import pathlib
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np


def write_clip(
    path: pathlib.Path,
    images: Sequence[np.ndarray],
    rate: int = 25,
    codec: str = "libx264",
    **options: str,
) -> pathlib.Path:
    """Write a video of uint8 [h, w, 3] RGB images of even sides, in nearly their colours."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        # Each frame by itself.
        stream.gop_size = 1
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def grey(number: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """Return an image whose brightness is 20 times `number`."""
    return np.full((*size, 3), 20 * number, np.uint8)


def number_of(image: np.ndarray) -> int:
    """Return the `number` of a `grey` image that was compressed."""
    return round(float(image.mean()) / 20)
