"""Writer of YOLO labels: the lines of an image, and data.yaml."""

from collections.abc import Mapping, Sequence

import numpy as np
import yaml

from efficientdet_tf.boxes import to_center
from efficientdet_tf.data.decimals import fraction_text, fractions, shortest
from efficientdet_tf.output_files import MARK


def label_lines(
    image_size: tuple[int, int],
    boxes: np.ndarray,
    class_indices: Sequence[int] | np.ndarray,
    scores: Sequence[float] | np.ndarray = (),
) -> str:
    """Format the label file of an image: class, x_center, y_center, width, height in fractions.

    Args:
      image_size: (height, width) of the image in pixels.
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels.
      class_indices: int [n], positions of the classes in `data_yaml`.
      scores: float [n] in 0..1, written as a sixth column, which predictions have; empty for
        ground truth. Default empty.

    Returns:
      One line for each object, "" for none.
    """
    centers = to_center(fractions(boxes, image_size))
    lines = []
    for index, (y, x, height, width) in enumerate(centers.tolist()):
        columns = [str(int(class_indices[index])), *map(fraction_text, (x, y, width, height))]
        columns += [str(shortest(scores[index]))] if len(scores) else []
        lines.append(" ".join(columns) + "\n")
    return "".join(lines)


def data_yaml(class_names: Sequence[str], folders: Mapping[str, str]) -> str:
    """Format data.yaml.

    Args:
      class_names: names in order of class index.
      folders: split, e.g. "train" -> its folder of images, relative to data.yaml.
    """
    content = {**folders, "names": dict(enumerate(class_names))}
    return f"# {MARK}\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
