"""What a reader of a data format hands over, before anything is checked."""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from efficientdet_tf.data.records import LabelMap

# File name endings of the image formats that `decoding.decode_image` reads.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp")


@dataclasses.dataclass(frozen=True)
class AnnotatedImage:
    """One image and its objects as a file tells them.

    Attributes:
      image_id: see `records.Record`.
      image: path of the image file, or its encoded bytes.
      name: what to call the image in messages; its path where it has one.
      annotation_file: the file that lists the objects, for messages.
      size: (height, width) in pixels by the annotation, None where it has none.
      boxes: float64 [n, 4], ymin, xmin, ymax, xmax, in pixels or as fractions
        of the image's size.
      labels: [n], the categories in the format's own terms: an id or a name.
      numbers: [n], how the file numbers the objects, for messages.
      is_crowd: [n], empty for none.
      area: [n] in pixels, empty where the format has none.
      is_difficult: [n], Pascal VOC's flag, empty where the format has none.
      unplaced: one line for each object that is annotated here, but nobody can
        tell where: its box cannot be read. Such an image is left out, because
        the object would be trained as background.
    """

    image_id: int
    image: str | bytes
    name: str
    annotation_file: str
    size: tuple[int, int] | None
    boxes: np.ndarray
    labels: Sequence[Hashable]
    numbers: Sequence[int]
    is_crowd: Sequence[bool] = ()
    area: Sequence[float] = ()
    is_difficult: Sequence[bool] = ()
    unplaced: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Annotations:
    """All of a data set as its files tell it.

    Attributes:
      images: the images in the order of the data set.
      label_map: the categories.
      class_indices: from a label of the format to its index in the label map.
      source: what the data set is called in messages.
      object_word: what the format calls an object, e.g. "annotation".
      box_field: what the format calls its box.
      label_field: what the format calls its category.
      fractions: whether boxes are fractions of the image's size.
      problems: one line for each thing the reader had to leave out.
    """

    images: Sequence[AnnotatedImage]
    label_map: LabelMap
    class_indices: Mapping[Hashable, int]
    source: str
    object_word: str
    box_field: str
    label_field: str
    fractions: bool = False
    problems: Sequence[str] = ()


def boxes_array(boxes: Sequence[Sequence[float]]) -> np.ndarray:
    """float64 [n, 4], also for no boxes at all."""
    return np.array(boxes, np.float64).reshape(-1, 4)
