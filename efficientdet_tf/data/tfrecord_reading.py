"""Reading of images from the middle of TFRecord files, in a graph.

The operations are raw ones as `tf.data.TFRecordDataset` only reads files from the start.
"""

import tensorflow as tf

# The size of a read where that of the record is not known.
_READ_BYTES = 256 << 10


def encoded_images(
    file: tf.Tensor,
    offset: tf.Tensor,
    count: tf.Tensor | int = 1,
    read_bytes: tf.Tensor | int = _READ_BYTES,
) -> tf.Tensor:
    """Read the encoded images of consecutive records; checksums are verified.

    Args:
      file: string scalar, path of a TFRecord file of tf.train.Example.
      offset: int64 scalar, position of the first record's first byte.
      count: number of records, int64 scalar or a Python number. Default 1.
      read_bytes: number of bytes to read at once, int64 scalar or a Python number.
        Default 256 KiB.

    Returns:
      string [count], "image/encoded" of each record, empty where it has none.

    Raises:
      tf.errors.OpError: if the file cannot be read, is damaged there, or ends earlier.
    """
    strings = {"output_types": [tf.string], "output_shapes": [tf.TensorShape([])]}
    records = tf.raw_ops.TFRecordDatasetV2(
        filenames=file,
        compression_type="",
        buffer_size=tf.cast(read_bytes, tf.int64),
        byte_offsets=offset,
    )
    count = tf.cast(count, tf.int64)
    records = tf.raw_ops.TakeDataset(input_dataset=records, count=count, **strings)
    batch = {"output_types": [tf.string], "output_shapes": [tf.TensorShape([None])]}
    records = tf.raw_ops.BatchDatasetV2(
        input_dataset=records, batch_size=count, drop_remainder=True, **batch
    )
    (serialized,) = tf.raw_ops.DatasetToSingleElement(dataset=records, **batch)
    feature = tf.io.FixedLenFeature([], tf.string, default_value=b"")
    return tf.io.parse_example(serialized, {"image/encoded": feature})["image/encoded"]
