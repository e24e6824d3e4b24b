"""Operations of augmentation policies on pixels and boxes.

Pixel operations are tf-models-official's. The geometric ones are ours, for three
reasons: there, a box outside the image returns with a twentieth of the image's
side, the border is filled with a mirror image whose objects have no boxes, and
draws are not seeded.

Levels range from 0 to 10 and are those published with AutoAugment for detection
(https://arxiv.org/abs/1906.11172), except that distances, there in pixels of
COCO's images, are proportional to the image size here.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from official.vision.ops import augment

MAX_LEVEL = 10
# Grey value of pixels without content.
_FILLING = 128
# The longer side of most of COCO's images.
_COCO_LENGTH = 640
# Factor of the probability of steps that change each box's content separately.
_BOX_SHARE = 1 / 3


def apply(
    name: str,
    image: tf.Tensor,
    boxes: tf.Tensor,
    *,
    level: float,
    probability: float,
    seed: tf.Tensor,
    reach: float = 1.0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Apply one step with a probability.

    Args:
      name: one of `NAMES`.
      image: uint8 [h, w, 3], RGB.
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels of the image.
      level: strength of the step, 0..`MAX_LEVEL`.
      probability: probability of the step, 0..1. A step on the content of boxes
        is drawn for each box, with a third of it.
      seed: int [2].
      reach: factor of all distances. Default 1.

    Returns:
      The image of the same shape, and its n boxes, clipped. A box outside the
      image, or an empty one, becomes a point.
    """
    decision_seed, step_seed = tf.unstack(tf.random.split(seed))
    unit = reach * tf.cast(tf.reduce_max(tf.shape(image)[:2]), tf.float32) / _COCO_LENGTH
    if name in _IN_BOXES:
        draws = tf.random.stateless_uniform(tf.shape(boxes)[:1], decision_seed)
        chosen = tf.boolean_mask(boxes, draws < probability * _BOX_SHARE)
        return _change_in_boxes(_IN_BOXES[name], image, chosen, level, unit, step_seed), boxes

    def changed() -> Any:
        if name in _PIXELS:
            return tf.ensure_shape(_PIXELS[name](image, level), image.shape), boxes
        return _WITH_BOXES[name](image, boxes, level, unit, step_seed)

    if probability == 1:
        return changed()
    draw = tf.random.stateless_uniform([], decision_seed)
    return tf.cond(draw < probability, changed, lambda: (image, boxes))


def move(image: tf.Tensor, boxes: tf.Tensor, forward: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Transform an image and its boxes by an affine map.

    Args:
      image: uint8 [h, w, 3].
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels of the image.
      forward: float32 [3, 3], the matrix that multiplies points (x, y, 1). The
        image spans 0 to its width and height.

    Returns:
      The image, grey outside the source, and the clipped upright bounding box of
      each moved box; a point for a box outside the image.
    """
    # The operation takes the inverse map, with the origin at the first pixel's centre.
    middle = tf.constant([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    backward = tf.linalg.inv(middle) @ tf.linalg.inv(forward) @ middle
    moved = augment.transform(
        image,
        tf.reshape(backward, [9])[:8],
        interpolation="bilinear",
        fill_mode="constant",
        fill_value=float(_FILLING),
    )
    ymin, xmin, ymax, xmax = tf.unstack(boxes, axis=1)
    x = tf.stack([xmin, xmax, xmin, xmax], axis=1)
    y = tf.stack([ymin, ymin, ymax, ymax], axis=1)
    corners = tf.stack([x, y, tf.ones_like(x)], axis=2)
    corners = tf.einsum("nck,jk->ncj", corners, forward[:2])
    low, high = tf.reduce_min(corners, axis=1), tf.reduce_max(corners, axis=1)
    boxes = tf.concat([low[:, ::-1], high[:, ::-1]], axis=1)
    return tf.ensure_shape(moved, image.shape), _clip(boxes, image)


def _clip(boxes: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    boxes = tf.clip_by_value(boxes, 0.0, tf.tile(size, [2]))
    empty = tf.reduce_any(boxes[:, 2:] <= boxes[:, :2], axis=1, keepdims=True)
    # Points stay points under rotation.
    return tf.where(empty, tf.tile(boxes[:, :2], [1, 2]), boxes)


def _signed(amount: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Negate `amount` with a probability of 1/2."""
    amount = tf.convert_to_tensor(amount, tf.float32)
    return tf.where(tf.random.stateless_uniform([], seed) < 0.5, amount, -amount)


def _affine(rows: Sequence[Sequence[float]]) -> tf.Tensor:
    return tf.stack([tf.stack([tf.cast(x, tf.float32) for x in row]) for row in (*rows, (0, 0, 1))])


def _rotate(
    image: tf.Tensor, boxes: tf.Tensor, level: float, unit: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Rotate by up to 30 degrees about the centre."""
    del unit  # No distance.
    angle = _signed(level / MAX_LEVEL * math.pi / 6, seed)
    sine, cosine = tf.sin(angle), tf.cos(angle)
    y, x = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32) / 2)
    rows = (
        (cosine, -sine, x - cosine * x + sine * y),
        (sine, cosine, y - sine * x - cosine * y),
    )
    return move(image, boxes, _affine(rows))


def _shear_x(
    image: tf.Tensor, boxes: tf.Tensor, level: float, unit: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Shift each row by up to 0.3 of its distance from the top."""
    del unit
    amount = _signed(level / MAX_LEVEL * 0.3, seed)
    return move(image, boxes, _affine(((1, amount, 0), (0, 1, 0))))


def _shear_y(
    image: tf.Tensor, boxes: tf.Tensor, level: float, unit: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Shift each column by up to 0.3 of its distance from the left."""
    del unit
    amount = _signed(level / MAX_LEVEL * 0.3, seed)
    return move(image, boxes, _affine(((1, 0, 0), (amount, 1, 0))))


def _translate_x(
    image: tf.Tensor, boxes: tf.Tensor, level: float, unit: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    amount = _signed(level / MAX_LEVEL * 250 * unit, seed)
    return move(image, boxes, _affine(((1, 0, amount), (0, 1, 0))))


def _translate_y(
    image: tf.Tensor, boxes: tf.Tensor, level: float, unit: tf.Tensor, seed: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    amount = _signed(level / MAX_LEVEL * 250 * unit, seed)
    return move(image, boxes, _affine(((1, 0, 0), (0, 1, amount))))


def _cutout(
    image: tf.Tensor,
    boxes: tf.Tensor,
    level: float,
    unit: tf.Tensor,
    seed: tf.Tensor,
    most: int = 100,
) -> tf.Tensor:
    """Grey a square at a random place, of up to `most` units on each side of its centre."""
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    center = tf.random.stateless_uniform([2], seed) * size
    half = level / MAX_LEVEL * most * unit
    inside = _inside(image, tf.concat([center - half, center + half], axis=0))
    return tf.where(inside, tf.constant(_FILLING, image.dtype), image), boxes


def _cutout_in_a_box(
    image: tf.Tensor, boxes: tf.Tensor, level: float, unit: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    """Grey a random part of a random box, of up to three quarters of its sides."""
    del unit
    choice_seed, place_seed = tf.unstack(tf.random.split(seed))

    def greyed() -> tf.Tensor:
        index = tf.random.stateless_uniform([], choice_seed, 0, tf.shape(boxes)[0], tf.int32)
        low, high = tf.split(boxes[index], 2)
        center = low + tf.random.stateless_uniform([2], place_seed) * (high - low)
        half = level / MAX_LEVEL * 0.75 * (high - low) / 2
        inside = _inside(image, tf.concat([center - half, center + half], axis=0))
        return tf.where(inside, tf.constant(_FILLING, image.dtype), image)

    return tf.cond(tf.shape(boxes)[0] > 0, greyed, lambda: image), boxes


def _inside(image: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """Return the mask of pixels whose centre is in a box, float32 [4]: bool [h, w, 1]."""
    rows = tf.range(tf.shape(image)[0], dtype=tf.int32)
    columns = tf.range(tf.shape(image)[1], dtype=tf.int32)
    y, x = tf.cast(rows, tf.float32) + 0.5, tf.cast(columns, tf.float32) + 0.5
    in_rows, in_columns = (y >= box[0]) & (y < box[2]), (x >= box[1]) & (x < box[3])
    return (in_rows[:, None] & in_columns)[:, :, None]


def _change_in_boxes(
    change: Callable,
    image: tf.Tensor,
    boxes: tf.Tensor,
    level: float,
    unit: tf.Tensor,
    seed: tf.Tensor,
) -> tf.Tensor:
    """Change the content of each box, sequentially."""
    size = tf.shape(image)[:2]
    low = tf.maximum(tf.cast(tf.floor(boxes[:, :2]), tf.int32), 0)
    high = tf.minimum(tf.cast(tf.math.ceil(boxes[:, 2:]), tf.int32), size)
    filled = tf.reduce_all(high > low, axis=1)
    low, high = tf.boolean_mask(low, filled), tf.boolean_mask(high, filled)

    def change_one(index: tf.Tensor, image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        (top, left), (bottom, right) = tf.unstack(low[index]), tf.unstack(high[index])
        content = image[top:bottom, left:right]
        content = change(content, level, unit, tf.random.fold_in(seed, index))
        margins = [[top, size[0] - bottom], [left, size[1] - right], [0, 0]]
        box = tf.cast(tf.stack([top, left, bottom, right]), tf.float32)
        changed = tf.where(_inside(image, box), tf.pad(content, margins), image)
        return index + 1, tf.ensure_shape(changed, image.shape)

    count = tf.shape(low)[0]
    return tf.while_loop(lambda index, _: index < count, change_one, (tf.constant(0), image))[1]


def _translate_content(
    content: tf.Tensor, level: float, unit: tf.Tensor, seed: tf.Tensor
) -> tf.Tensor:
    # Half of a small object stays in its box; otherwise the label would name a grey area.
    half = tf.cast(tf.shape(content)[0], tf.float32) / 2
    amount = _signed(tf.minimum(level / MAX_LEVEL * 120 * unit, half), seed)
    return move(content, tf.zeros([0, 4]), _affine(((1, 0, 0), (0, 1, amount))))[0]


def _in_content(step: Callable, **options: Any) -> Callable:
    """Wrap a step on an image and boxes as a change of a box's content."""
    return lambda content, level, unit, seed: step(
        content, tf.zeros([0, 4]), level, unit, seed, **options
    )[0]


def _enhancement(level: float) -> float:
    """Return the factor of colour, contrast, brightness and sharpness; 1 is the identity."""
    return level / MAX_LEVEL * 1.8 + 0.1


def _solarize(image: tf.Tensor, level: float) -> tf.Tensor:
    threshold = int(level / MAX_LEVEL * 256)
    # At the highest level no pixel is bright enough.
    return augment.solarize(image, threshold) if threshold < 256 else image


def _sharpen(image: tf.Tensor, level: float) -> tf.Tensor:
    # A pixel needs neighbours on all sides.
    large_enough = tf.reduce_all(tf.shape(image)[:2] >= 3)
    return tf.cond(
        large_enough, lambda: augment.sharpness(image, _enhancement(level)), lambda: image
    )


_PIXELS = {
    "AutoContrast": lambda image, level: augment.autocontrast(image),
    "Equalize": lambda image, level: augment.equalize(image),
    "Invert": lambda image, level: augment.invert(image),
    "Posterize": lambda image, level: augment.posterize(image, max(1, int(level / MAX_LEVEL * 4))),
    "Solarize": _solarize,
    "SolarizeAdd": lambda image, level: augment.solarize_add(image, int(level / MAX_LEVEL * 110)),
    "Color": lambda image, level: augment.color(image, _enhancement(level)),
    "Contrast": lambda image, level: augment.contrast(image, _enhancement(level)),
    "Brightness": lambda image, level: augment.brightness(image, _enhancement(level)),
    "Sharpness": _sharpen,
}
_WITH_BOXES = {
    "Rotate_BBox": _rotate,
    "ShearX_BBox": _shear_x,
    "ShearY_BBox": _shear_y,
    "TranslateX_BBox": _translate_x,
    "TranslateY_BBox": _translate_y,
    "Cutout": _cutout,
    "BBox_Cutout": _cutout_in_a_box,
}
_IN_BOXES = {
    "ShearX_Only_BBoxes": _in_content(_shear_x),
    "ShearY_Only_BBoxes": _in_content(_shear_y),
    "TranslateY_Only_BBoxes": _translate_content,
    "Cutout_Only_BBoxes": _in_content(_cutout, most=50),
    "Equalize_Only_BBoxes": lambda content, level, unit, seed: augment.equalize(content),
}
NAMES = (*_PIXELS, *_WITH_BOXES, *_IN_BOXES)
