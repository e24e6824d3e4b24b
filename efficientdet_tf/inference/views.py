"""Views of an image for test-time augmentation: mirrored, shrunk and enlarged.

Views are made of pixels, so that they work for every model file. A network has an input of fixed
size, to which images are resized: objects shrink on a canvas that is larger than the image, and
grow in crops of it. Inputs of other sizes instead are faster and gave up to 0.02 more AP, but only
Keras can have them; see docs/results.md.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from efficientdet_tf.config.sections import DetectionConfig
from efficientdet_tf.errors import UserError
from efficientdet_tf.inference.array_postprocessing import suppress
from efficientdet_tf.inference.detections import Detections

# Names of views that `build_views` combines.
NAMES = ("flip", "scale")
_SCALES = (1.0, 5 / 6, 6 / 5)
# RGB mean of ImageNet: the padding that D models were trained with, and close to that of Lite.
_PADDING = (124, 116, 104)
# Pixels from the side of a crop within which a box counts as cut.
_MARGIN = 2


class ViewError(UserError):
    """An unknown name of a view."""


@dataclasses.dataclass(frozen=True)
class View:
    """View of an image, and the way of its detections back.

    Attributes:
      is_mirrored: whether left and right are exchanged.
      scale: size of objects relative to the image as it is, 0.5 to 2. Below 1, the image is on a
        canvas of 1 / scale times its height and width, at the top left. Above 1, it is cut into
        crops of 1 / scale of its height and width from its four corners, which overlap.
    """

    is_mirrored: bool = False
    scale: float = 1.0

    def images(self, image: np.ndarray) -> list[np.ndarray]:
        """Make the images of the view: four crops for a scale above 1, else one image.

        Args:
          image: uint8 [h, w, 3] RGB.
        """
        if self.is_mirrored:
            image = image[:, ::-1]
        height, width = self._frame_size(image.shape[:2])
        if self.scale < 1:
            canvas = np.full((height, width, 3), _PADDING, np.uint8)
            canvas[: image.shape[0], : image.shape[1]] = image
            return [canvas]
        corners = self._corners(image.shape[:2])
        return [np.ascontiguousarray(image[y : y + height, x : x + width]) for y, x in corners]

    def detections(self, found: Sequence[Detections], image_size: tuple[int, int]) -> Detections:
        """Map the detections in the images of the view to the image.

        Args:
          found: detections in each of `images`, in its pixels.
          image_size: (height, width) of the image.

        Returns:
          Detections in pixels of the image, clipped to it. Boxes in the padding and those that
          the inner side of a crop cuts are left out.
        """
        corners = self._corners(image_size)
        moved = [self._moved(*pair, image_size) for pair in zip(found, corners, strict=True)]
        merged = moved[0] if len(moved) == 1 else _merged(moved)
        if not self.is_mirrored:
            return merged
        ymin, xmin, ymax, xmax = merged.boxes.T
        boxes = np.stack([ymin, image_size[1] - xmax, ymax, image_size[1] - xmin], axis=1)
        return dataclasses.replace(merged, boxes=boxes)

    def _frame_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width of each image of the view."""
        height, width = (max(1, round(side / self.scale)) for side in image_size)
        return height, width

    def _corners(self, image_size: tuple[int, int]) -> list[tuple[int, int]]:
        """Return the distinct top left corners (y, x) of the images of the view."""
        frame = self._frame_size(image_size)
        rows, columns = (sorted({0, max(0, s - f)}) for s, f in zip(image_size, frame))
        return [(y, x) for y in rows for x in columns]

    def _moved(
        self, found: Detections, corner: tuple[int, int], image_size: tuple[int, int]
    ) -> Detections:
        """Move the detections in one image of the view, and leave out those that are cut."""
        far_corner = np.add(corner, self._frame_size(image_size))
        # Top, left, bottom, right: whether the image continues beyond this side of the crop.
        is_inner = np.concatenate([np.greater(corner, 0), far_corner < image_size])
        boxes = found.boxes + np.tile(corner, 2)
        is_near = np.abs(boxes - np.concatenate([corner, far_corner])) < _MARGIN
        boxes = np.clip(boxes, 0, np.tile(image_size, 2)).astype(np.float32)
        has_size = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        kept = has_size & ~(is_near & is_inner).any(axis=1)
        return Detections(boxes[kept], found.scores[kept], found.class_indices[kept])


def build_views(names: Sequence[str]) -> list[View]:
    """Build the views of some names; the first is the image as it is.

    Args:
      names: of "flip", for the mirrored image, and "scale", for objects of 5/6 and 6/5 of their
        size; both together also for the mirrored image at these sizes. None is an empty sequence.

    Raises:
      ViewError: for another name.
    """
    for name in names:
        if name not in NAMES:
            raise ViewError(f"view {name!r}: unknown; use {' or '.join(NAMES)}, or both")
    mirrorings = (False, True) if "flip" in names else (False,)
    scales = _SCALES if "scale" in names else (1.0,)
    return [View(is_mirrored, scale) for scale in scales for is_mirrored in mirrorings]


def _merged(parts: Sequence[Detections]) -> Detections:
    """Join the detections in overlapping crops; of those of the same object, keep the best."""
    boxes, scores, class_indices = (
        np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(Detections)
    )
    nms = DetectionConfig(nms="hard", score_threshold=0.0, max_detections=max(1, len(scores)))
    kept, _ = suppress(boxes, scores, class_indices, nms)
    return Detections(boxes[kept], scores[kept], class_indices[kept])
