"""Images and videos with their detections, drawn while they are predicted."""

import contextlib
import pathlib
from collections.abc import Callable, Iterator, Mapping

from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.inference import video
from efficientdet_tf.inference.detections import Detections
from efficientdet_tf.inference.result_files import Write
from efficientdet_tf.inference.sources import Frame, Source
from efficientdet_tf.output_files import encode_image, is_own_image, replacing_output
from efficientdet_tf.visualization.drawing import draw_detections

# Suffixes of images that are written in their own format.
_WRITTEN_AS_THEY_ARE = (".jpg", ".jpeg", ".png")


def drawn_path(source: Source, output: pathlib.Path) -> pathlib.Path:
    """Return the path of a drawn file: that of the source, with a suffix where it needs one."""
    path = output / source.name
    if source.kind == "image":
        is_writable = path.suffix.lower() in _WRITTEN_AS_THEY_ARE
        return path if is_writable else path.with_name(path.name + ".png")
    return path if path.suffix.lower() == ".mp4" else path.with_name(path.name + ".mp4")


def is_own(path: pathlib.Path) -> bool:
    """Whether a file was written by this module."""
    return video.is_own_video(path) if path.suffix.lower() == ".mp4" else is_own_image(path)


@contextlib.contextmanager
def writing(paths: Mapping[str, pathlib.Path], label_map: LabelMap) -> Iterator[Write]:
    """Draw images to files, and the frames of each video to one video.

    Args:
      paths: name of the source -> path of the file.
      label_map: classes of the detections.

    Yields:
      Function of a frame and its detections; the frames of a source come one after the other.

    Raises:
      OutputError: when a file cannot be written.
    """
    with contextlib.ExitStack() as opened:
        current: tuple[str, Callable] | None = None

        def write(frame: Frame, found: Detections) -> None:
            nonlocal current
            path = paths[frame.source.name]
            names = [label_map.names[index] for index in found.class_indices]
            drawn = draw_detections(frame.pixels, found.boxes, names, found.scores)
            if frame.rate is None:
                with replacing_output(path) as partial:
                    partial.write_bytes(encode_image(drawn, path.suffix))
                return
            if current is None or current[0] != frame.source.name:
                # Ends the video before this one.
                opened.close()
                write_video = opened.enter_context(video.writing(path, frame.rate))
                current = frame.source.name, write_video
            current[1](drawn, frame.time)

        yield write
