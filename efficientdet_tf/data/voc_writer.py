"""Writer of Pascal VOC annotations: the XML text of an image."""

from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np

from efficientdet_tf.data.decimals import shortest
from efficientdet_tf.output_files import MARK


def annotation_xml(
    file_name: str,
    image_size: tuple[int, int],
    boxes: np.ndarray,
    class_names: Sequence[str],
    is_difficult: Sequence[bool] | np.ndarray = (),
    scores: Sequence[float] | np.ndarray = (),
) -> str:
    """Format the annotation file of an image.

    Args:
      file_name: name of the image file.
      image_size: (height, width) of the image in pixels.
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels. Written without the original
        Pascal data's offset of one pixel, and with decimals if they are not whole.
      class_names: [n], names without control characters.
      is_difficult: bool [n], or empty for none. Default empty.
      scores: float [n] in 0..1, written as `confidence`, which predictions have; empty for
        ground truth. Default empty.

    Returns:
      An XML document with a comment that names this program.
    """
    root = ElementTree.Element("annotation")
    root.append(ElementTree.Comment(f" {MARK} "))
    _add(root, "filename", file_name)
    size = ElementTree.SubElement(root, "size")
    for name, value in zip(("width", "height", "depth"), (*image_size[::-1], 3)):
        _add(size, name, value)
    _add(root, "segmented", 0)
    for index, (ymin, xmin, ymax, xmax) in enumerate(shortest(boxes)):
        item = ElementTree.SubElement(root, "object")
        _add(item, "name", class_names[index])
        _add(item, "difficult", int(is_difficult[index]) if len(is_difficult) else 0)
        if len(scores):
            _add(item, "confidence", shortest(scores[index]))
        box = ElementTree.SubElement(item, "bndbox")
        for name, value in zip(("xmin", "ymin", "xmax", "ymax"), (xmin, ymin, xmax, ymax)):
            _add(box, name, value)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _add(parent: ElementTree.Element, name: str, value: object) -> None:
    ElementTree.SubElement(parent, name).text = str(value)
