"""Preprocessing of decoded pixels to the network's input.

Training, evaluation, prediction and the exported models all use these
functions, so that an image gives the same input everywhere.
"""

from collections.abc import Sequence

import tensorflow as tf


def resize(
    image: tf.Tensor, image_size: tuple[int, int], method: str, pad_value: Sequence[float]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Resize an image to the network's input.

    Bilinear without antialiasing, as the published models were trained.

    Args:
      image: uint8 or float32 [h, w, 3], RGB, 0..255.
      image_size: (height, width) of the network's input in pixels.
      method: "pad" keeps the aspect ratio and pads at the bottom and right, as published;
        "stretch" fills the input.
      pad_value: RGB of the padding, 0..255: the mean that the network subtracts,
        so that the padding becomes zero.

    Returns:
      float32 [height, width, 3], RGB, 0..255, and `scale_to_original`, float32 [2]:
      original pixels per network pixel, vertically and horizontally, the factors from
      boxes in network pixels to boxes in original pixels.
    """
    original_size = tf.shape(image)[:2]
    scale = fit(original_size, image_size, image_size if method == "stretch" else None)
    scaled_size = image_size if method == "stretch" else _scaled_size(original_size, scale)
    image = tf.image.resize(image, scaled_size)
    return pad(image, image_size, pad_value), 1.0 / scale


def fit(
    original_size: tf.Tensor,
    limit: tuple[int, int] | tf.Tensor,
    stretched: tuple[int, int] | None = None,
) -> tf.Tensor:
    """Compute the largest scale at which an image fits into a size.

    Args:
      original_size: [2], height and width of the image in pixels.
      limit: (height, width) to fit into, in pixels.
      stretched: size whose aspect ratio every image is given; None to keep the image's.
        Default None.

    Returns:
      Pixels per original pixel, vertically and horizontally: float32 [2].
    """
    size = tf.cast(original_size, tf.float32)
    limit = tf.cast(tf.stack(limit), tf.float32)
    if stretched is None:
        return tf.fill([2], tf.reduce_min(limit / size))
    shape = tf.constant(stretched, tf.float32)
    return shape / size * tf.reduce_min(limit / shape)


def pad(image: tf.Tensor, image_size: tuple[int, int], pad_value: Sequence[float]) -> tf.Tensor:
    """Pad an image at the bottom and right.

    Args:
      image: float32 [h, w, 3] with h <= height and w <= width.
      image_size: (height, width) of the result in pixels, integers or int32 scalars.
      pad_value: three numbers, the colour of the padding.

    Returns:
      float32 [height, width, 3].
    """
    height, width = image_size
    image = _fill_up(image, 1, width, pad_value)
    image = _fill_up(image, 0, height, pad_value)
    static_size = [None if tf.is_tensor(side) else side for side in (height, width)]
    return tf.ensure_shape(image, [*static_size, 3])


def _fill_up(image: tf.Tensor, axis: int, length: int, pad_value: Sequence[float]) -> tf.Tensor:
    """Pad the end of `axis` to `length` pixels with a colour."""
    shape = tf.shape(image)
    missing = length - shape[axis]

    def filled() -> tf.Tensor:
        height, width = (missing, shape[1]) if axis == 0 else (shape[0], missing)
        # By row, as broadcasting three numbers takes twice as long.
        row = tf.tile(tf.constant(pad_value, tf.float32), [width])
        filling = tf.reshape(tf.broadcast_to(row, [height, 3 * width]), [height, width, 3])
        return tf.concat([image, filling], axis=axis)

    # Many images fit one side exactly; a copy would be wasted.
    return tf.cond(missing == 0, lambda: image, filled)


def clip_boxes(boxes: tf.Tensor, image_size: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Clip boxes to the last pixel of the image and drop the empty ones.

    Args:
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels.
      image_size: (height, width) in pixels, integers or int32 scalars.

    Returns:
      The kept boxes, float32 [m, 4], and their indices among the n, int32 [m].
    """
    limit = tf.cast(tf.stack([image_size[0] - 1, image_size[1] - 1] * 2), tf.float32)
    boxes = tf.clip_by_value(boxes, 0.0, limit)
    kept = tf.where(tf.reduce_all(boxes[:, 2:] > boxes[:, :2], axis=1))[:, 0]
    return tf.gather(boxes, kept), tf.cast(kept, tf.int32)


def _scaled_size(original_size: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """Scale a size: int32 [2], truncated as in the published models, but never zero."""
    scaled = tf.cast(tf.cast(original_size, tf.float32) * scale, tf.int32)
    return tf.maximum(scaled, 1)
