"""AutoAugment and RandAugment for detection: random sequences of augmentation steps.

AutoAugment's policies were learned on COCO: v0 and v1 are the paper's
(https://arxiv.org/abs/1906.11172), v2 and v3 were published with the models.
RandAugment: https://arxiv.org/abs/1909.13719.
"""

import functools
from collections.abc import Callable, Sequence

import tensorflow as tf

from efficientdet_tf.config import AugmentationConfig
from efficientdet_tf.data import policy_steps

# Policy -> sequences -> steps (name, probability, level).
_V0 = (
    (("TranslateX_BBox", 0.6, 4), ("Equalize", 0.8, 10)),
    (("TranslateY_Only_BBoxes", 0.2, 2), ("Cutout", 0.8, 8)),
    (("Sharpness", 0.0, 8), ("ShearX_BBox", 0.4, 0)),
    (("ShearY_BBox", 1.0, 2), ("TranslateY_Only_BBoxes", 0.6, 6)),
    (("Rotate_BBox", 0.6, 10), ("Color", 1.0, 6)),
)
AUTO_AUGMENT = {
    "v0": _V0,
    "v1": (
        *_V0,
        (("Color", 0.0, 0), ("ShearX_Only_BBoxes", 0.8, 4)),
        # Its second step, a flip of boxes, has probability zero.
        (("ShearY_Only_BBoxes", 0.8, 2),),
        (("Equalize", 0.6, 10), ("TranslateX_BBox", 0.2, 2)),
        (("Color", 1.0, 10), ("TranslateY_Only_BBoxes", 0.4, 6)),
        (("Rotate_BBox", 0.8, 10), ("Contrast", 0.0, 10)),
        (("Cutout", 0.2, 2), ("Brightness", 0.8, 10)),
        (("Color", 1.0, 6), ("Equalize", 1.0, 2)),
        (("Cutout_Only_BBoxes", 0.4, 6), ("TranslateY_Only_BBoxes", 0.8, 2)),
        (("Color", 0.2, 8), ("Rotate_BBox", 0.8, 10)),
        (("Sharpness", 0.4, 4), ("TranslateY_Only_BBoxes", 0.0, 4)),
        (("Sharpness", 1.0, 4), ("SolarizeAdd", 0.4, 4)),
        (("Rotate_BBox", 1.0, 8), ("Sharpness", 0.2, 8)),
        (("ShearY_BBox", 0.6, 10), ("Equalize_Only_BBoxes", 0.6, 8)),
        (("ShearX_BBox", 0.2, 6), ("TranslateY_Only_BBoxes", 0.2, 10)),
        (("SolarizeAdd", 0.6, 8), ("Brightness", 0.8, 10)),
    ),
    "v2": (
        (("Color", 0.0, 6), ("Cutout", 0.6, 8), ("Sharpness", 0.4, 8)),
        (("Rotate_BBox", 0.4, 8), ("Sharpness", 0.4, 2), ("Rotate_BBox", 0.8, 10)),
        (("TranslateY_BBox", 1.0, 8), ("AutoContrast", 0.8, 2)),
        (("AutoContrast", 0.4, 6), ("ShearX_BBox", 0.8, 8), ("Brightness", 0.0, 10)),
        (("SolarizeAdd", 0.2, 6), ("Contrast", 0.0, 10), ("AutoContrast", 0.6, 0)),
        (("Cutout", 0.2, 0), ("Solarize", 0.8, 8), ("Color", 1.0, 4)),
        (("TranslateY_BBox", 0.0, 4), ("Equalize", 0.6, 8), ("Solarize", 0.0, 10)),
        (("TranslateY_BBox", 0.2, 2), ("ShearY_BBox", 0.8, 8), ("Rotate_BBox", 0.8, 8)),
        (("Cutout", 0.8, 8), ("Brightness", 0.8, 8), ("Cutout", 0.2, 2)),
        (("Color", 0.8, 4), ("TranslateY_BBox", 1.0, 6), ("Rotate_BBox", 0.6, 6)),
        (("Rotate_BBox", 0.6, 10), ("BBox_Cutout", 1.0, 4), ("Cutout", 0.2, 8)),
        (("Rotate_BBox", 0.0, 0), ("Equalize", 0.6, 6), ("ShearY_BBox", 0.6, 8)),
        (("Brightness", 0.8, 8), ("AutoContrast", 0.4, 2), ("Brightness", 0.2, 2)),
        (("TranslateY_BBox", 0.4, 8), ("Solarize", 0.4, 6), ("SolarizeAdd", 0.2, 10)),
        (("Contrast", 1.0, 10), ("SolarizeAdd", 0.2, 8), ("Equalize", 0.2, 4)),
    ),
    "v3": (
        (("Posterize", 0.8, 2), ("TranslateX_BBox", 1.0, 8)),
        (("BBox_Cutout", 0.2, 10), ("Sharpness", 1.0, 8)),
        (("Rotate_BBox", 0.6, 8), ("Rotate_BBox", 0.8, 10)),
        (("Equalize", 0.8, 10), ("AutoContrast", 0.2, 10)),
        (("SolarizeAdd", 0.2, 2), ("TranslateY_BBox", 0.2, 8)),
        (("Sharpness", 0.0, 2), ("Color", 0.4, 8)),
        (("Equalize", 1.0, 8), ("TranslateY_BBox", 1.0, 8)),
        (("Posterize", 0.6, 2), ("Rotate_BBox", 0.0, 10)),
        (("AutoContrast", 0.6, 0), ("Rotate_BBox", 1.0, 6)),
        (("Equalize", 0.0, 4), ("Cutout", 0.8, 10)),
        (("Brightness", 1.0, 2), ("TranslateY_BBox", 1.0, 6)),
        (("Contrast", 0.0, 2), ("ShearY_BBox", 0.8, 0)),
        (("AutoContrast", 0.8, 10), ("Contrast", 0.2, 10)),
        (("Rotate_BBox", 1.0, 10), ("Cutout", 1.0, 10)),
        (("SolarizeAdd", 0.8, 6), ("Equalize", 0.8, 8)),
    ),
}
# The steps that RandAugment draws from, besides the identity.
RAND_AUGMENT = (
    *("AutoContrast", "Equalize", "Invert", "Posterize", "Solarize", "SolarizeAdd"),
    *("Color", "Contrast", "Brightness", "Sharpness", "Cutout", "Rotate_BBox"),
    *("ShearX_BBox", "ShearY_BBox", "TranslateX_BBox", "TranslateY_BBox"),
)
# RandAugment's distances are smaller: at most 100 pixels for COCO's images, not 250.
_RAND_REACH = 0.4


def distort(
    image: tf.Tensor, boxes: tf.Tensor, settings: AugmentationConfig, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Apply a random sequence of steps to an image and its boxes.

    Args:
      image: uint8 [h, w, 3], RGB.
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels of the image.
      settings: the augmentation settings; the policy and its magnitude are used.
      seed: int [2].

    Returns:
      The image of the same shape, and its n boxes; those outside the image have
      no area.
    """
    if settings.policy == "none":
        return image, boxes
    if settings.policy == "rand":
        for layer in range(settings.rand_num_layers):
            layer_seed = tf.random.fold_in(seed, layer)
            image, boxes = _random_step(image, boxes, settings.rand_magnitude, layer_seed)
        return image, boxes
    choice_seed, steps_seed = tf.unstack(tf.random.split(seed))
    branches = [
        functools.partial(_in_sequence, steps, image, boxes, steps_seed)
        for steps in AUTO_AUGMENT[settings.policy]
    ]
    return _one_of(branches, choice_seed)


def _random_step(
    image: tf.Tensor, boxes: tf.Tensor, magnitude: float, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    choice_seed, step_seed = tf.unstack(tf.random.split(seed))

    def step(name: str) -> Callable:
        return lambda: policy_steps.apply(
            name, image, boxes, level=magnitude, probability=1, seed=step_seed, reach=_RAND_REACH
        )

    return _one_of([lambda: (image, boxes), *map(step, RAND_AUGMENT)], choice_seed)


def _in_sequence(
    steps: Sequence, image: tf.Tensor, boxes: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    for index, (name, probability, level) in enumerate(steps):
        if probability:
            image, boxes = policy_steps.apply(
                name,
                image,
                boxes,
                level=level,
                probability=probability,
                seed=tf.random.fold_in(seed, index),
            )
    return image, boxes


def _one_of(branches: Sequence[Callable], seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    choice = tf.random.stateless_uniform([], seed, maxval=len(branches), dtype=tf.int32)
    return tf.switch_case(choice, branches)
