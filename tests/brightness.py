"""Runtime of a detector that needs no network: the class is the brightness of the image."""

from collections.abc import Sequence

import numpy as np

from clips import number_of
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.inference.runtimes import Found

LABELS = LabelMap((900, 3, 7), ("ant", "bee", "Kuh ä"))
# ymin, xmin, ymax, xmax in pixels.
BOX = (4.125, 8, 24, 40)


class Brightness:
    """Detects `BOX` twice in each image, with the class index `number_of(image) % 3`.

    Attributes:
      batches: number of images in each call.
    """

    def __init__(self):
        self.batches = []

    def detect(self, images: Sequence[np.ndarray]) -> list[Found]:
        self.batches.append(len(images))
        return [
            (
                np.array([BOX, BOX], np.float32),
                np.array([0.9, 0.2], np.float32),
                np.full(2, number_of(image) % 3, np.int32),
            )
            for image in images
        ]
