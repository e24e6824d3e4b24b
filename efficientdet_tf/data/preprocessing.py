"""From decoded pixels to the network's input.

Training, evaluation, prediction and the exported models all use these
functions, so that a image gives the same input everywhere.
"""

from collections.abc import Sequence

import tensorflow as tf


def resize_and_pad(
    image: tf.Tensor, image_size: tuple[int, int], pad_value: Sequence[float]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Fits an image into the top left of the network's input.

    The aspect ratio is kept; the rest is filled at the bottom or right.
    Bilinear without antialiasing, as the published models were trained.

    Args:
      image: uint8 or float32 [h, w, 3], RGB, 0..255.
      image_size: (height, width) of the network's input in pixels.
      pad_value: RGB of the filling on the same scale: the mean that
        the network subtracts, so that the filling becomes zero.

    Returns:
      float32 [height, width, 3], RGB, 0..255, and a float32 scalar, the number
      of original pixels in one network pixel, by which boxes in network pixels
      are multiplied to get boxes in original pixels.
    """
    original_size = tf.shape(image)[:2]
    scale = _fit(original_size, image_size)
    image = tf.image.resize(image, _scaled_size(original_size, scale))
    return pad(image, image_size, pad_value), 1.0 / scale


def pad(image: tf.Tensor, image_size: tuple[int, int], pad_value: Sequence[float]) -> tf.Tensor:
    """Fills up at the bottom and right.

    Args:
      image: float32 [h, w, 3] with h <= height and w <= width.
      image_size: (height, width) of the result, whole numbers or int32 scalars.
      pad_value: three numbers, the colour of the filling.

    Returns:
      float32 [height, width, 3].
    """
    height, width = image_size
    image = _fill_up(image, 1, width, pad_value)
    image = _fill_up(image, 0, height, pad_value)
    static_size = [None if tf.is_tensor(side) else side for side in (height, width)]
    return tf.ensure_shape(image, [*static_size, 3])


def _fill_up(image: tf.Tensor, axis: int, length: int, pad_value: Sequence[float]) -> tf.Tensor:
    """`image` with as much of a colour behind it as makes `axis` `length` pixels long."""
    shape = tf.shape(image)
    missing = length - shape[axis]

    def filled() -> tf.Tensor:
        filling_shape = tf.tensor_scatter_nd_update(shape, [[axis]], [missing])
        filling = tf.broadcast_to(tf.constant(pad_value, tf.float32), filling_shape)
        return tf.concat([image, filling], axis=axis)

    # Many images fit one side exactly; they need not be copied for nothing.
    return tf.cond(missing == 0, lambda: image, filled)


def clip_boxes(boxes: tf.Tensor, image_size: tuple[int, int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Clips boxes to the last pixel of the image and drops the empty ones.

    Args:
      boxes: float32 [n, 4], ymin, xmin, ymax, xmax in pixels.
      image_size: (height, width) in pixels, whole numbers or int32 scalars.

    Returns:
      float32 [m, 4] and int32 [m], which of the n they are.
    """
    limit = tf.cast(tf.stack([image_size[0] - 1, image_size[1] - 1] * 2), tf.float32)
    boxes = tf.clip_by_value(boxes, 0.0, limit)
    kept = tf.where(tf.reduce_all(boxes[:, 2:] > boxes[:, :2], axis=1))[:, 0]
    return tf.gather(boxes, kept), tf.cast(kept, tf.int32)


def _fit(original_size: tf.Tensor, image_size: tuple[int, int]) -> tf.Tensor:
    """Network pixels in one original pixel (float32 scalar)."""
    target = tf.constant(image_size, tf.float32)
    return tf.reduce_min(target / tf.cast(original_size, tf.float32))


def _scaled_size(original_size: tf.Tensor, scale: tf.Tensor) -> tf.Tensor:
    """int32 [2]; truncated as the published models do, but never zero."""
    scaled = tf.cast(tf.cast(original_size, tf.float32) * scale, tf.int32)
    return tf.maximum(scaled, 1)
