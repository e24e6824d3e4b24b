"""Heat maps of the detections in images, drawn while they are predicted."""

import contextlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image

from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.inference.detections import Detections
from efficientdet_tf.inference.drawn_files import drawn_path
from efficientdet_tf.inference.result_files import Write
from efficientdet_tf.inference.sources import Frame, Source, SourceError
from efficientdet_tf.output_files import encode_image, replacing_output
from efficientdet_tf.visualization.drawing import shrink
from efficientdet_tf.visualization.heat_maps import draw_heat_maps

if TYPE_CHECKING:
    from efficientdet_tf.inference.explanation import Explainer, Explanation

# Of a panel, in pixels, so that eight fit on a screen.
_LONGEST_SIDE = 480


def explained_paths(sources: Sequence[Source], output: pathlib.Path) -> dict[str, pathlib.Path]:
    """Return {name: path} of the heat maps of each image: `a.explained.jpg` beside `a.jpg`.

    Args:
      sources: images, videos, or a camera.
      output: folder to write to.

    Raises:
      SourceError: when there is no image.
    """
    images = [source for source in sources if source.kind == "image"]
    if not images:
        raise SourceError(
            f"--input: {sources[0].location}: a {sources[0].kind} has no heat maps, only images "
            "have; leave --explain out"
        )
    return {source.name: _explained_path(source, output) for source in images}


@contextlib.contextmanager
def writing(
    paths: Mapping[str, pathlib.Path], explainer: "Explainer", score_threshold: float
) -> Iterator[Write]:
    """Draw the heat maps of the best detections in each image to a file.

    Args:
      paths: name of the source -> path of the file; other sources, e.g. videos, are passed over.
      explainer: network of the run that detects.
      score_threshold: minimum score of a detection, 0..1.

    Yields:
      Function of an image and its detections.

    Raises:
      OutputError: when a file cannot be written.
    """

    def write(frame: Frame, found: Detections) -> None:
        path = paths.get(frame.source.name)
        if path is None:
            return
        explained = explainer.explain(frame.pixels, score_threshold)
        drawn = draw_explanations(frame.pixels, explained, explainer.label_map)
        with replacing_output(path) as partial:
            partial.write_bytes(encode_image(drawn, path.suffix))

    yield write


def draw_explanations(
    pixels: np.ndarray, explained: "Sequence[Explanation]", label_map: LabelMap
) -> PIL.Image.Image:
    """Draw a panel for each explanation: heat map over the image, box, class and score.

    Args:
      pixels: uint8 [h, w, 3], RGB, the image that was explained.
      explained: explanations of detections in it.
      label_map: classes.

    Returns:
      An RGB image, see `visualization.heat_maps.draw_heat_maps`.
    """
    image, scale = shrink(PIL.Image.fromarray(pixels), _LONGEST_SIDE)
    width, height = image.size
    return draw_heat_maps(
        image,
        [found.heat_map((height, width)) for found in explained],
        np.array([found.box * scale for found in explained]),
        [label_map.names[found.class_index] for found in explained],
        [found.score for found in explained],
    )


def _explained_path(source: Source, output: pathlib.Path) -> pathlib.Path:
    path = drawn_path(source, output)
    return path.with_name(f"{path.stem}.explained{path.suffix}")
