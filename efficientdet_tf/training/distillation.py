"""Knowledge distillation: dense outputs of a frozen teacher as targets of the student.

Anchors depend on the input size and a few settings only, not on the network, so that the outputs
of two networks can be compared anchor by anchor, before NMS.
"""

import dataclasses
import hashlib
from collections.abc import Callable

import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.config import Config, DistillationConfig, format_value
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.errors import UserError
from efficientdet_tf.losses import huber_loss
from efficientdet_tf.run_directory import RunDirectory, RunDirectoryError
from keras_layers.level_maps import by_anchor

# Anchors of two networks are equal at an equal input size if these settings are.
_ANCHORS = (
    *("model.min_level", "model.max_level"),
    *("anchors.scale", "anchors.num_scales", "anchors.aspect_ratios"),
)
_DIGITS_OF_DIGEST = 16


class TeacherError(UserError):
    """A teacher that cannot be used."""


def quality_focal_loss(targets: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Compute the quality focal loss (Li et al. 2020, https://arxiv.org/abs/2006.04388, eq. 2).

    The cross-entropy with a soft target, times the squared distance of the probability from it: a
    target of 0 or 1 gives the focal loss of gamma 2 without alpha. Value and gradient are zero
    where the probability is the target, and small for the many anchors on which both agree.

    Args:
      targets: float32 [...], probabilities 0..1, without gradient.
      logits: float [...].

    Returns:
      float32 [...], not normalised.
    """

    # The only tensor saved for the backward pass is the slope, as in `losses.focal_loss`.
    @tf.custom_gradient
    def loss(logits: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        probability = tf.sigmoid(logits)
        cross_entropy = tf.nn.softplus(logits) - targets * logits
        distance = probability - targets
        slope = 2.0 * probability * (1.0 - probability) * cross_entropy + distance**2
        slope *= distance
        return distance**2 * cross_entropy, lambda upstream: upstream * slope

    return loss(tf.cast(logits, tf.float32))


@dataclasses.dataclass(frozen=True)
class Distillation:
    """Distillation loss: dense outputs of the student against those of a frozen teacher.

    Classes: `quality_focal_loss` of every anchor with the teacher's probabilities as soft targets,
    instead of boxes after NMS, as in Dense Teacher (Zhou et al. 2022,
    https://arxiv.org/abs/2207.02541). Boxes: `huber_loss` of the encoded boxes, weighted by the
    teacher's score, of anchors where this is at least `score_threshold`; elsewhere the teacher's
    boxes were never trained. Both are divided by one plus the sum of these scores, image by image,
    and averaged over images: no image depends on the others of its batch, so that micro-batches
    and replicas add up to the same loss.

    Attributes:
      config: settings of the distillation.
      huber_delta: delta of the box loss.
      teacher: frozen model of `efficientdet_tf.model.build`, with the student's input size.
      padding: RGB with which the student's images are padded.
      teacher_padding: RGB with which the teacher's images were padded: both pad with the mean that
        they subtract.
    """

    config: DistillationConfig
    huber_delta: float
    teacher: keras.Model
    padding: tuple[float, float, float]
    teacher_padding: tuple[float, float, float]

    @classmethod
    def from_config(cls, config: Config) -> "Distillation | None":
        """Build the distillation of a config, under the current precision policy; None if off.

        Raises:
          UserError: when the teacher is missing or has other anchors.
        """
        if not config.distillation.teacher:
            return None
        run = _run(config.distillation)
        teacher_config = run.config()
        _check_anchors(teacher_config, config)
        # A convolutional network may be applied at another size than that of its training.
        teacher = run.load_model("best", image_size=config.model.image_size)
        return cls(
            config.distillation,
            config.loss.huber_delta,
            teacher,
            config.model.pixel_mean,
            teacher_config.model.pixel_mean,
        )

    def __call__(self, images: tf.Tensor, outputs: dict[str, tf.Tensor]) -> tf.Tensor:
        """Compute the loss.

        Args:
          images: float32 [B, H, W, 3], RGB 0..255, the student's input.
          outputs: the student's, see `efficientdet_tf.model.build`.

        Returns:
          float32 scalar, mean over the images.
        """
        expected = self.teacher(self.teacher_images(images), training=False)
        expected = tf.nest.map_structure(tf.stop_gradient, expected)
        # Level by level: concatenated logits would double the memory.
        levels = zip(zip(*by_anchor(expected)), zip(*by_anchor(outputs)), strict=True)
        losses, scores = zip(*(self._level_loss(*level) for level in levels), strict=True)
        return tf.reduce_mean(tf.add_n(losses) / (1.0 + tf.add_n(scores)))

    def teacher_images(self, images: tf.Tensor) -> tf.Tensor:
        """Convert the student's images to the teacher's: float32 [B, H, W, 3], RGB 0..255.

        Each network normalises pixels itself; only the colour of the padding differs.
        """
        if self.padding == self.teacher_padding:
            return images
        is_padding = tf.reduce_all(images == self.padding, axis=-1, keepdims=True)
        return tf.where(is_padding, self.teacher_padding, images)

    def _level_loss(
        self, teacher: tuple[tf.Tensor, tf.Tensor], student: tuple[tf.Tensor, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Compute the loss of a level, and the sum of the scores that weight boxes: float32 [B].

        Args:
          teacher, student: class logits [B, n, classes] and encoded boxes [B, n, 4].
        """
        (teacher_logits, teacher_deltas), (logits, deltas) = teacher, student
        probabilities = tf.sigmoid(teacher_logits)
        scores = tf.reduce_max(probabilities, axis=-1)
        scores = tf.where(scores >= self.config.score_threshold, scores, 0.0)
        class_loss = tf.reduce_sum(quality_focal_loss(probabilities, logits), axis=[1, 2])
        # A box has four coordinates, as in `DetectionLoss`.
        box_losses = tf.reduce_mean(huber_loss(teacher_deltas, deltas, self.huber_delta), axis=-1)
        box_loss = tf.reduce_sum(scores * box_losses, axis=1)
        loss = self.config.class_weight * class_loss + self.config.box_weight * box_loss
        return loss, tf.reduce_sum(scores, axis=1)


def settings(config: DistillationConfig) -> dict[str, str]:
    """Compute the digest of the teacher's weights, as an override for `Config`.

    Args:
      config: settings of the distillation.

    Raises:
      TeacherError: when the teacher is no run directory with weights.
    """
    digest = ""
    if config.teacher:
        run = _run(config)
        try:
            with run.weights_file("best").open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS_OF_DIGEST]
        except (OSError, RunDirectoryError) as error:
            raise TeacherError(f"distillation.teacher: {error}") from error
    return {"distillation.teacher_digest": digest}


def check_classes(config: DistillationConfig, label_map: LabelMap) -> None:
    """Check that the teacher has the classes of the training set; category ids may differ.

    Args:
      config: settings of the distillation; without a teacher, nothing is checked.
      label_map: classes of the training set.

    Raises:
      UserError: when the names or their order differ.
    """
    if not config.teacher:
        return
    there, here = _run(config).label_map().names, label_map.names
    if there == here:
        return
    what = f"has {len(there)} classes, the training data {len(here)}"
    for number, (one, other) in enumerate(zip(there, here), 1):
        if one != other:
            what = f"its class {number} is {one!r}, that of the training data {other!r}"
            break
    raise TeacherError(
        f"distillation.teacher: {config.teacher}: {what}; use a teacher trained with the same "
        "classes in the same order"
    )


def _run(config: DistillationConfig) -> RunDirectory:
    """Return the run directory of the teacher."""
    run = RunDirectory(config.teacher)
    if not run.exists():
        raise TeacherError(
            f"distillation.teacher: {config.teacher}: no config.yaml; use a run directory"
        )
    return run


def _check_anchors(teacher: Config, student: Config) -> None:
    """Check that two networks have equal anchors at an equal input size."""
    differences = student.differences(teacher)
    found = {key: differences[key] for key in _ANCHORS if key in differences}
    if not found:
        return
    values = [
        f"{key} {format_value(there)}, not {format_value(here)}"
        for key, (here, there) in found.items()
    ]
    assignments = [
        f"--set {key}={format_value(there).replace(' ', '')}" for key, (_, there) in found.items()
    ]
    raise TeacherError(
        f"distillation.teacher: {student.distillation.teacher} has {' and '.join(values)}; train "
        f"the student with {' '.join(assignments)}, or use a teacher with the same anchors"
    )
