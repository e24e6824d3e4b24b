"""Explanation of detections: heat maps of where the network looked.

The contribution of a position is the gradient of the detection's class logit with respect to
the feature maps, times these maps, summed over channels: HiResCAM (Draelos and Carin, "Use
HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural networks", 2020,
https://arxiv.org/abs/2011.08891), for one anchor and over all levels. To first order it is what
the logit would lose if the features there were zero.

The feature maps are the inputs of the feature network: the finest has a cell of 8 x 8 pixels for
detections of any size, and what the feature network fetches from around the box is visible. Its
outputs, of which the logit reads one level within a few cells, would show little but the box, and
deleting the places that they mark most lowers the logit less (docs/results.md).
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras

from efficientdet_tf import anchors as anchor_grid
from efficientdet_tf import devices
from efficientdet_tf.boxes import pairwise_overlaps
from efficientdet_tf.config import Config
from efficientdet_tf.data.image_files import Image, read_image
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.errors import UserError
from efficientdet_tf.inference.detection_function import InputResize, build_postprocessing
from efficientdet_tf.run_directory import RunDirectory
from keras_layers.level_maps import by_anchor, class_logits_by_anchor, class_map

# Of an image, as panels that are still distinguishable on a screen.
MAX_DETECTIONS = 8
# Of one backward pass: eight detections at D0's 512 x 512 take 0.4 GiB; D7 has one in a pass.
_PIXELS_OF_PASS = 8 * 512 * 512
# Of the same detection in two runs of a network: NMS leaves no other box of the class so close.
_SAME_BOX_IOU = 0.9


class ExplanationError(UserError):
    """A model whose detections cannot be explained."""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Detection, and what each position contributed to its class logit.

    Attributes:
      box: float32 [4], ymin, xmin, ymax, xmax in pixels of the upright image, clipped to it.
      score: score after NMS, 0..1.
      class_index: class index of the detector's label map.
      anchor: index of the anchor that made the detection, in the order of
        `efficientdet_tf.anchors.from_config`.
      logit: class logit of the anchor. Its sigmoid is the score before soft-NMS lowers it.
      contributions: {level: float32 [h, w]}, logits for each cell of the level's map, of
        either sign.
      input_size: (height, width) of the network's input in pixels.
      image_part: (height, width) of the part of the input that the image fills, in pixels.
      image_size: (height, width) of the image in pixels.
    """

    box: np.ndarray
    score: float
    class_index: int
    anchor: int
    logit: float
    contributions: dict[int, np.ndarray]
    input_size: tuple[int, int]
    image_part: tuple[int, int]
    image_size: tuple[int, int]

    def heat_map(self, size: tuple[int, int] | None = None) -> np.ndarray:
        """Compute the heat map: the positive part of the contributions, summed over levels.

        A cell's contribution is spread over its pixels, so that a coarse level weighs as much as
        a fine one; maps are upsampled bilinearly.

        Args:
          size: (height, width) of the result; None is the size of the image. Default None.

        Returns:
          float32 [height, width] of the whole image, 0 or more, in logits for each pixel of the
          network's input. Zero where nothing spoke for the class.
        """
        height, width = self.input_size
        total = np.zeros(self.input_size, np.float32)
        for cells in self.contributions.values():
            share = cells.size / (height * width)
            total += share * _resize(cells, self.input_size)
        rows, columns = self.image_part
        return _resize(np.maximum(total, 0.0)[:rows, :columns], size or self.image_size)


class Explainer:
    """Network of a run that explains its detections.

    Examples:
      explainer = Explainer.load("runs/mine")
      for found in explainer.explain("image.jpg"):
          print(explainer.label_map.names[found.class_index], found.score, found.heat_map().shape)

    Args:
      model: model of `efficientdet_tf.model.build(config)`; its weights are read at every call.
      config: `model`, `anchors` and `detection` are read.
      label_map: classes.

    Attributes:
      model, config, label_map: as given.
    """

    def __init__(self, model: keras.Model, config: Config, label_map: LabelMap) -> None:
        self.model = model
        self.config = config
        self.label_map = label_map
        self._anchors = anchor_grid.from_config(config)
        self._input_resize = InputResize.from_config(config)
        self._postprocessing = build_postprocessing(config)
        network = model.get_layer("feature_network")
        # A network that runs the backbone again reads images too: its outputs take their place.
        features = (network if network.needs_backbone else model.get_layer("extra_levels")).output
        levels = range(config.model.min_level, config.model.max_level + 1)
        class_maps = {class_map(level): model.output[class_map(level)] for level in levels}
        self._network = keras.Model(model.inputs, (features, model.output))
        self._class_network = keras.Model(features, class_maps)
        # Traced once, and not at the first call, as several threads may share an explainer.
        image = tf.TensorSpec([None, None, 3], tf.uint8)
        self._detect = _trace(self._detect_in_image, image)
        maps = {level: tf.TensorSpec([1, *x.shape[1:]], x.dtype) for level, x in features.items()}
        self._contribute = _trace(self._contributions, maps, *[tf.TensorSpec([None], tf.int32)] * 2)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Explainer":
        """Load the best weights of a run directory.

        Raises:
          ExplanationError: when the path is no run directory, e.g. an exported model.
          UserError: when the run is damaged.
        """
        devices.let_memory_grow()
        run = RunDirectory(path)
        if not run.path.exists():
            raise ExplanationError(f"{path}: no such file or folder")
        if not run.exists():
            raise ExplanationError(
                f"{path}: heat maps need gradients, which only a run has; use the run directory "
                "(with config.yaml)"
            )
        return cls(run.load_model(), run.config(), run.label_map())

    def explain(
        self, image: Image, score_threshold: float = 0.3, max_detections: int = MAX_DETECTIONS
    ) -> list[Explanation]:
        """Detect in an image, and explain the detections of highest score.

        Args:
          image: path or bytes of an image file, or pixels, uint8 [h, w, 3] RGB; see
            `efficientdet_tf.data.image_files.read_image`.
          score_threshold: minimum score of a detection, 0..1. Default 0.3.
          max_detections: largest number of detections. Default 8.

        Returns:
          Up to `max_detections` explanations, best score first.

        Raises:
          ImageError: when the image cannot be read.
        """
        seen = self._see(image)
        return self._explain(seen, np.flatnonzero(seen.scores >= score_threshold)[:max_detections])

    def explain_box(self, image: Image, box: np.ndarray, class_index: int) -> Explanation | None:
        """Explain a detection of this network that an earlier call found.

        Args:
          image: see `explain`.
          box: float [4], ymin, xmin, ymax, xmax in pixels of the upright image.
          class_index: class index of the label map.

        Returns:
          The explanation; None when the network has no such detection.

        Raises:
          ImageError: when the image cannot be read.
        """
        seen = self._see(image)
        overlaps, _ = pairwise_overlaps(seen.boxes, np.reshape(box, (1, 4)))
        overlaps = overlaps[:, 0] * (seen.class_indices == class_index)
        best = np.argsort(-overlaps)[:1]
        return next(iter(self._explain(seen, best[overlaps[best] >= _SAME_BOX_IOU])), None)

    def _see(self, image: Image) -> "_SeenImage":
        pixels = read_image(image)
        features, part, *found = self._detect(tf.constant(pixels))
        height, width = pixels.shape[:2]
        rows, columns = part.numpy()
        return _SeenImage(
            (height, width), (int(rows), int(columns)), features, *(x.numpy() for x in found)
        )

    def _explain(self, seen: "_SeenImage", chosen: np.ndarray) -> list[Explanation]:
        """Explain detections by index, as many in a backward pass as memory allows."""
        height, width = self.config.model.image_size
        size = max(1, _PIXELS_OF_PASS // (height * width))
        explanations = []
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            anchors, classes = (tf.constant(x[part]) for x in (seen.anchors, seen.class_indices))
            maps = self._contribute(seen.features, anchors, classes)
            arrays = {level: cells.numpy() for level, cells in maps.items()}
            explanations += [
                Explanation(
                    box=seen.boxes[index],
                    score=float(seen.scores[index]),
                    class_index=int(seen.class_indices[index]),
                    anchor=int(seen.anchors[index]),
                    logit=float(seen.logits[index]),
                    contributions={level: cells[row] for level, cells in arrays.items()},
                    input_size=(height, width),
                    image_part=seen.part,
                    image_size=seen.size,
                )
                for row, index in enumerate(part)
            ]
        return explanations

    def _detect_in_image(self, image: tf.Tensor) -> tuple:
        """Return feature maps, part of the input, and detections of an image, as `_SeenImage`."""
        pixels, scale, size = self._input_resize(image)
        features, outputs = self._network(pixels[None], training=False)
        found = self._postprocessing(
            outputs, self._anchors, scale[None], size[None], with_anchors=True
        )
        logits, _ = by_anchor(outputs)
        count = found["num_detections"][0]
        boxes, scores, classes, anchors = (
            found[name][0, :count] for name in ("boxes", "scores", "classes", "anchors")
        )
        logits = tf.gather_nd(tf.concat(logits, axis=1)[0], tf.stack([anchors, classes], axis=1))
        part = tf.cast(tf.round(tf.cast(size, tf.float32) / scale), tf.int32)
        return features, tf.maximum(part, 1), boxes, scores, classes, anchors, logits

    def _contributions(
        self, features: dict[int, tf.Tensor], anchors: tf.Tensor, classes: tf.Tensor
    ) -> dict[int, tf.Tensor]:
        """Compute gradient times activation, summed over channels.

        Args:
          features: {level: float [1, h, w, C]}.
          anchors, classes: int32 [n].

        Returns:
          {level: float32 [n, h, w]}.
        """
        count = tf.shape(anchors)[0]
        # Copies of the image, of which each has the gradients of one detection.
        features = {level: tf.repeat(x, count, axis=0) for level, x in features.items()}
        with tf.GradientTape() as tape:
            tape.watch(features)
            outputs = self._class_network(features, training=False)
            logits = class_logits_by_anchor(outputs, self.config.model.num_classes)
            chosen = tf.gather_nd(logits, tf.stack([tf.range(count), anchors, classes], axis=1))
        gradients = tape.gradient(
            chosen, features, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return {
            level: tf.reduce_sum(
                tf.cast(x, tf.float32) * tf.cast(gradients[level], tf.float32), axis=-1
            )
            for level, x in features.items()
        }


class _SeenImage(NamedTuple):
    """Image that the network has seen, with its n detections.

    Attributes:
      size: (height, width) of the image in pixels.
      part: (height, width) of the part of the input that the image fills, in pixels.
      features: {level: float [1, h, w, C]}.
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels of the image, clipped to it.
      scores: float32 [n], descending.
      class_indices, anchors: int32 [n].
      logits: float32 [n].
    """

    size: tuple[int, int]
    part: tuple[int, int]
    features: dict[int, tf.Tensor]
    boxes: np.ndarray
    scores: np.ndarray
    class_indices: np.ndarray
    anchors: np.ndarray
    logits: np.ndarray


def explain(
    path: str | os.PathLike,
    image: Image,
    score_threshold: float = 0.3,
    max_detections: int = MAX_DETECTIONS,
) -> list[Explanation]:
    """Detect in an image with the best weights of a run, and explain the detections.

    For several images, make an `Explainer` once.

    Args:
      path: path of the run directory.
      image, score_threshold, max_detections: see `Explainer.explain`.

    Returns:
      Up to `max_detections` explanations, best score first. Their `heat_map()` is float32
      [height, width] of the image.

    Raises:
      ExplanationError: when the path is no run directory, e.g. an exported model.
      UserError: when the run is damaged, or the image cannot be read.
    """
    return Explainer.load(path).explain(image, score_threshold, max_detections)


def _trace(function: Callable, *signature: Any) -> Callable:
    return tf.function(function, autograph=False).get_concrete_function(*signature)


def _resize(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a map, float32 [h, w], bilinearly to (height, width)."""
    return tf.image.resize(cells[..., None], size)[..., 0].numpy()
