"""Why an image cannot be read."""

import pathlib

import tensorflow as tf

from efficientdet_tf.data.decoding import decode_image
from efficientdet_tf.data.records import Record


def why_unreadable(record: Record) -> str:
    """Read and decode an image once more; say what fails.

    Args:
      record: of the image.

    Returns:
      The reason, without the image's name; "" where it can be read now.
    """
    try:
        encoded = record.image
        if not isinstance(encoded, bytes):
            encoded = pathlib.Path(encoded).read_bytes()
    except OSError as error:
        return error.strerror or str(error)
    if not encoded:
        return "the file is empty"
    try:
        with tf.device("/CPU:0"):
            _decode(encoded, record.apply_exif)
    except tf.errors.OpError:
        return "cannot be decoded; it may be damaged"
    return ""


@tf.function(input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.bool)])
def _decode(encoded: tf.Tensor, apply_exif: tf.Tensor) -> tf.Tensor:
    return tf.shape(decode_image(encoded, apply_exif))
