"""Test-time augmentation and ensembles: one detector made of views of the image, and of models."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.errors import UserError
from efficientdet_tf.inference.box_fusion import weighted_box_fusion
from efficientdet_tf.inference.detections import Detections
from efficientdet_tf.inference.runtimes import Backend, Found
from efficientdet_tf.inference.views import View


class EnsembleError(UserError):
    """Models that have no common classes."""


class FusedBackend:
    """Runtimes that each detect in all views of an image; the detections are fused.

    Args:
      backends: runtimes of models with the same classes; at least one.
      views: views of each image; at least one.
    """

    def __init__(self, backends: Sequence[Backend], views: Sequence[View]) -> None:
        self._backends = backends
        self._views = views

    def detect(self, images: Sequence[np.ndarray]) -> list[Found]:
        """Detect in images; `efficientdet_tf.inference.runtimes.Backend.detect`."""
        sets = [found for view in self._views for found in self._detect_in_view(view, images)]
        fused = map(weighted_box_fusion, zip(*sets, strict=True))
        return [(found.boxes, found.scores, found.class_indices) for found in fused]

    def _detect_in_view(
        self, view: View, images: Sequence[np.ndarray]
    ) -> Iterator[list[Detections]]:
        """Yield the detections of each runtime: those in each image."""
        in_views = [view.images(image) for image in images]
        # The images of a view come one after the other, in batches of as many as were given.
        pixels = [one for several in in_views for one in several]
        batches = [pixels[i : i + len(images)] for i in range(0, len(pixels), len(images))]
        for backend in self._backends:
            found = (Detections(*one) for batch in batches for one in backend.detect(batch))
            yield [
                view.detections([next(found) for _ in several], image.shape[:2])
                for several, image in zip(in_views, images)
            ]


def check_classes(label_maps: Mapping[str, LabelMap]) -> LabelMap:
    """Check that models have the same classes, in the same order.

    Args:
      label_maps: name of the model, such as its path -> its classes; at least one.

    Returns:
      The classes.

    Raises:
      EnsembleError: for the first model with other classes than the first one.
    """
    (first, expected), *others = label_maps.items()
    for name, label_map in others:
        if label_map != expected:
            raise EnsembleError(
                f"{name}: {_difference(label_map, expected)} of {first}; an ensemble needs models "
                "of the same classes"
            )
    return expected


def _difference(label_map: LabelMap, expected: LabelMap) -> str:
    """Say what is different in a label map."""
    if len(label_map) != len(expected):
        return f"the number of classes is {len(label_map)} instead of the {len(expected)}"
    pairs = zip(zip(label_map.names, label_map.ids), zip(expected.names, expected.ids))
    (name, id_), (other, other_id) = next(pair for pair in pairs if pair[0] != pair[1])
    return f"class {name!r} (id {id_}) instead of {other!r} (id {other_id})"
