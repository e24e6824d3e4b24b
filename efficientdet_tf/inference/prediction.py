"""Detection in images, videos and cameras, with results and drawn images as files."""

import contextlib
import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from tqdm import tqdm

from efficientdet_tf.data.image_files import ImageError
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.inference import drawn_files, explained_files, labelled_data_sets
from efficientdet_tf.inference.detections import Detections
from efficientdet_tf.inference.result_files import Write
from efficientdet_tf.inference.result_formats import FORMATS, check_names
from efficientdet_tf.inference.server import ServerError
from efficientdet_tf.inference.sources import (
    Frame,
    Source,
    SourceError,
    count_frames,
    find_sources,
    read_frames,
)
from efficientdet_tf.output_files import check_replaceable

if TYPE_CHECKING:
    from efficientdet_tf.detector import Detector
    from efficientdet_tf.inference.explanation import Explainer

# Images in a row without an answer of a server after which no more are sent: each may have taken
# a minute.
MOST_REFUSED = 10


@dataclasses.dataclass(frozen=True)
class PredictionFiles:
    """Sources, and output files for them.

    Attributes:
      sources: images, videos, or a camera.
      drawn: name of the source -> path of the image or video with detections; empty for none.
      results: name of the format -> path of the file or folder of results.
      explained: name of the image -> path of the image with its heat maps; empty for none.
    """

    sources: Sequence[Source]
    drawn: dict[str, pathlib.Path]
    results: dict[str, pathlib.Path]
    explained: dict[str, pathlib.Path] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Counts:
    """What a prediction was made in.

    Attributes:
      images: number of images.
      frames: number of frames of videos.
      detections: number of detections in them.
      unreadable: number of images and videos that could not be read, or not to the end.
      refused: number of images and frames for which a server had no answer.
      refused_in_a_row: number of the last ones among them, without one that was answered.
    """

    images: int = 0
    frames: int = 0
    detections: int = 0
    unreadable: int = 0
    refused: int = 0
    refused_in_a_row: int = 0

    @property
    def is_given_up(self) -> bool:
        """Whether so many had no answer that no more are sent."""
        return self.refused_in_a_row >= MOST_REFUSED

    def add(self, frame: Frame, found: Detections) -> None:
        """Count an image or frame, and its detections."""
        self.images += frame.index is None
        self.frames += frame.index is not None
        self.detections += len(found)

    def __str__(self) -> str:
        """Format as "5 detections in 2 images and 30 frames"."""
        parts = [f"{self.images} images"] if self.images or not self.frames else []
        parts += [f"{self.frames} frames"] if self.frames else []
        return f"{self.detections} detections in {' and '.join(parts)}"


def plan(
    given: str,
    output: pathlib.Path,
    formats: Sequence[str] = ("json",),
    with_images: bool = True,
    with_heat_maps: bool = False,
) -> PredictionFiles:
    """Find the sources, and check that no user file would be overwritten.

    Files of an earlier call in `output` are replaced, and are not sources when `output`
    lies inside the folder of the sources.

    Args:
      given: see `sources.find_sources`.
      output: folder to write to; it need not exist.
      formats: names of `result_formats.FORMATS`. Default JSON.
      with_images: whether drawn images and videos are written. Default True.
      with_heat_maps: whether heat maps of the detections in images are written. Default False.

    Raises:
      UserError: for an unknown format.
      SourceError: when there is no source, or none with heat maps, or two have the same output
        file.
      VideoError: for a video or a camera, when PyAV is not installed.
      OutputError: when a file not written by predict would be overwritten.
    """
    check_names(formats)
    sources = find_sources(given, output, _own_files(output))
    drawn = {}
    if with_images:
        drawn = {source.name: drawn_files.drawn_path(source, output) for source in sources}
    explained = explained_files.explained_paths(sources, output) if with_heat_maps else {}
    results = {name: output / FORMATS[name].file_name for name in formats}
    for name, path in results.items():
        FORMATS[name].check(path, sources)
    files = PredictionFiles(sources, drawn, results, explained)
    _check_drawn(files)
    return files


def _check_drawn(files: PredictionFiles) -> None:
    """Check that drawn files overwrite neither a user's file, nor each other, nor results."""
    names: dict[pathlib.Path, str] = {}
    for name, path in itertools.chain(files.drawn.items(), files.explained.items()):
        check_replaceable(path, drawn_files.is_own)
        if path in names:
            raise SourceError(
                f"--input: {names[path]} and {name} would both be written to {path}; rename one"
            )
        names[path] = name
        for result in {path, *path.parents} & set(files.results.values()):
            flag = "save_images" if name in files.drawn else "explain"
            raise SourceError(
                f"--input: {name} would be drawn to {path}, where results are: {result}; use "
                f"--{flag}=false"
            )


def _own_files(output: pathlib.Path) -> Callable[[pathlib.Path], bool]:
    """Return the predicate of images and videos that an earlier call wrote to a folder."""
    folders = [output / format.file_name for format in FORMATS.values()]
    data_sets = [folder.resolve() for folder in folders if labelled_data_sets.is_own(folder)]

    def is_own(path: pathlib.Path) -> bool:
        return drawn_files.is_own(path) or not set(data_sets).isdisjoint(path.resolve().parents)

    return is_own


def predict(
    detector: "Detector",
    files: PredictionFiles,
    score_threshold: float,
    *,
    batch_size: int = 8,
    stride: int = 1,
    num_frames: int = 0,
    explainer: "Explainer | None" = None,
) -> Counts:
    """Write detections, and images with them.

    At most the images of two batches are in memory, and no results. What cannot be read, or has no
    answer of a server, is reported on standard error and skipped; after `MOST_REFUSED` without an
    answer in a row, the rest is not sent. A camera is read until Ctrl-C, or
    for `num_frames`.

    Args:
      detector: detector of any artifact.
      files: sources and output files from `plan`.
      score_threshold: minimum score of a detection, 0..1.
      batch_size: number of images per call of the network. Default 8.
      stride: distance of the frames of a video that are read. Default 1.
      num_frames: largest number of frames that are read of each video; 0 for all. Default 0.
      explainer: network of `detector`, for `files.explained`. Default None, without heat maps.

    Raises:
      OutputError: when a file cannot be written.
    """
    counts = Counts()
    with contextlib.ExitStack() as stack:
        writers = _opened(files, detector.label_map, stack)
        if explainer is not None:
            explaining = explained_files.writing(files.explained, explainer, score_threshold)
            writers.append(stack.enter_context(explaining))
        total = count_frames(files.sources, stride, num_frames)
        # Closed at the end, so that later output starts on a new line.
        bar = stack.enter_context(
            tqdm(total=total, desc="predicting", unit="image", dynamic_ncols=True, disable=None)
        )
        if any(source.kind == "camera" for source in files.sources):
            stack.enter_context(contextlib.suppress(KeyboardInterrupt))
        frames = _read_all(files.sources, stride, num_frames, counts)
        for batch in _batches(frames, batch_size):
            for frame, found in _detect(detector, batch, counts):
                found = found.above(score_threshold)
                for write in writers:
                    write(frame, found)
                counts.add(frame, found)
            bar.update(len(batch))
            if counts.is_given_up:
                break
    return counts


def _opened(
    files: PredictionFiles, label_map: LabelMap, stack: contextlib.ExitStack
) -> list[Write]:
    """Open all outputs, which are complete when the stack is closed."""
    contexts = [FORMATS[name].writing(path, label_map) for name, path in files.results.items()]
    if files.drawn:
        contexts.append(drawn_files.writing(files.drawn, label_map))
    return [stack.enter_context(context) for context in contexts]


def _read_all(
    sources: Sequence[Source], stride: int, num_frames: int, counts: Counts
) -> Iterator[Frame]:
    """Read the sources one after the other; report and count those that cannot be read."""
    for source in sources:
        try:
            yield from itertools.islice(read_frames(source, stride), num_frames or None)
        except ImageError as error:
            counts.unreadable += 1
            tqdm.write(f"skipped {error}", file=sys.stderr)


def _detect(
    detector: "Detector", frames: Sequence[Frame], counts: Counts
) -> list[tuple[Frame, Detections]]:
    """Detect in a batch; report and count images for which a server has no answer."""
    try:
        found = detector.detect([frame.pixels for frame in frames], len(frames))
    except ServerError as error:
        if len(frames) > 1:
            # Which of them it was is not known.
            return [
                pair
                for frame in frames
                if not counts.is_given_up
                for pair in _detect(detector, [frame], counts)
            ]
        [frame] = frames
        counts.refused += 1
        counts.refused_in_a_row += 1
        where = "" if frame.index is None else f", frame {frame.index}"
        tqdm.write(f"skipped {frame.source.location}{where}: {error}", file=sys.stderr)
        return []
    counts.refused_in_a_row = 0
    return list(zip(frames, found))


def _batches(frames: Iterator[Frame], size: int) -> Iterator[list[Frame]]:
    while batch := list(itertools.islice(frames, size)):
        yield batch
