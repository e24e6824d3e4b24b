"""Reading of the images of records as the input pipeline decodes them."""

import numpy as np
import tensorflow as tf

from efficientdet_tf.data.decoding import decode_image
from efficientdet_tf.data.image_sources import FileRange, read_encoded
from efficientdet_tf.data.records import DataError, Record
from efficientdet_tf.data.tfrecord_reading import encoded_images


def read_record(record: Record) -> np.ndarray:
    """Read the pixels of a record, upright if its `apply_exif` is set.

    Returns:
      uint8 [h, w, 3], RGB.

    Raises:
      DataError: if the image cannot be read; it names the image and the reason.
    """
    reason, pixels = _try_record(record)
    if pixels is None:
        path = record.image if isinstance(record.image, str) else record.name
        file = f"{path}: " if path != record.name else ""
        raise DataError(f"{record.name or record.image_id}: image: {file}{reason}")
    return pixels


def why_unreadable(record: Record) -> str:
    """Read and decode the image of a record again to find the reason of a failure.

    Returns:
      The reason, without the image's name; "" if the image can be read now.
    """
    reason, _ = _try_record(record)
    if not reason and isinstance(record.image, FileRange) and not _is_whole(record.image):
        # The input pipeline refuses it.
        return "its record is damaged: a checksum is wrong"
    return reason


def _try_record(record: Record) -> tuple[str, np.ndarray | None]:
    """Read a record: ("", its pixels), or (the reason of the failure, None)."""
    try:
        encoded = read_encoded(record.image)
    except OSError as error:
        return error.strerror or str(error), None
    if not encoded:
        return "the file is empty", None
    try:
        with tf.device("/CPU:0"):
            return "", _decode(encoded, record.apply_exif).numpy()
    except tf.errors.OpError:
        return "cannot be decoded; it may be damaged", None


def _is_whole(image: FileRange) -> bool:
    """Tell whether the record of an image has the right checksums."""
    try:
        with tf.device("/CPU:0"):
            encoded_images(image.file, image.record_offset)
    except tf.errors.OpError:
        return False
    return True


@tf.function(
    input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.bool)], autograph=False
)
def _decode(encoded: tf.Tensor, apply_exif: tf.Tensor) -> tf.Tensor:
    return decode_image(encoded, apply_exif)
