"""Encoded image files to RGB pixels, with TensorFlow ops only.

The same graph decodes in the input pipeline and inside an exported SavedModel.
"""

import tensorflow as tf

_EXIF_HEADER = b"Exif\x00\x00"
_ORIENTATION_TAG = 0x0112
_START_OF_SCAN = 0xDA
_APP1 = 0xE1


def decode_image(encoded: tf.Tensor, apply_exif: bool | tf.Tensor = True) -> tf.Tensor:
    """The pixels of a JPEG, PNG, GIF or BMP file as upright RGB.

    Grey and palette images become RGB, CMYK is converted, 16-bit samples keep
    their high byte, transparency is dropped, and of an animation the first
    frame is taken.

    Args:
      encoded: string scalar, the file's bytes.
      apply_exif: bool, Python or scalar tensor: whether a JPEG is turned by the
        orientation tag of its EXIF data. Other formats are never turned.

    Returns:
      uint8 [height, width, 3].

    Raises:
      tf.errors.InvalidArgumentError: when the bytes are no such file.
    """
    is_jpeg = tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff"
    is_bmp = tf.strings.substr(encoded, 0, 2) == b"BM"
    image = tf.case(
        [(is_jpeg, lambda: _decode_jpeg(encoded)), (is_bmp, lambda: _decode_bmp(encoded))],
        # PNG and GIF, and the error message for anything else.
        default=lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
        exclusive=True,
    )
    image = tf.ensure_shape(image, [None, None, 3])
    orientation = tf.cond(
        tf.logical_and(is_jpeg, apply_exif),
        lambda: exif_orientation(encoded),
        lambda: tf.constant(1),
    )
    return tf.cond(orientation == 1, lambda: image, lambda: _turn(image, orientation))


def exif_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """The EXIF orientation of a JPEG file.

    Args:
      encoded: string scalar, the file's bytes.

    Returns:
      int32 scalar 1..8; 1 (upright) where the file says nothing usable.
    """
    data = tf.cast(tf.io.decode_raw(encoded, tf.uint8), tf.int32)
    start, end = _exif_segment(encoded, data)
    # What lies behind a truncated structure reads as zeros, which mean nothing.
    tiff = tf.pad(data[start:end], [[0, 16]])
    big_endian = tiff[0] == ord("M")

    def number(position, width):
        """The unsigned integers of `width` bytes at `position`, of any shape."""
        weights = [1 << 8 * i for i in reversed(range(width))]
        weights = tf.where(big_endian, weights, weights[::-1])
        return tf.reduce_sum(tf.gather(tiff, position[..., None] + tf.range(width)) * weights, -1)

    last = tf.size(tiff) - 2
    directory = tf.clip_by_value(number(tf.constant(4), 4), 0, last)
    count = tf.minimum(number(directory, 2), (last - directory) // 12)
    entries = directory + 2 + 12 * tf.range(count)
    entries = tf.boolean_mask(entries, number(entries, 2) == _ORIENTATION_TAG)
    values = number(entries + 8, 2)
    value = tf.concat([values, [1]], axis=0)[0]
    return tf.where((value >= 1) & (value <= 8), value, 1)


def _exif_segment(encoded: tf.Tensor, data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Where the TIFF structure of a JPEG's EXIF segment starts and ends; 0, 0 if it has none."""
    size = tf.size(data)

    def more(position, start, end):
        at = tf.minimum(position, size - 2)
        in_headers = (data[at] == 0xFF) & (data[at + 1] != _START_OF_SCAN)
        return (end == 0) & (position + 10 < size) & in_headers

    def step(position, start, end):
        is_exif = (data[position + 1] == _APP1) & (
            tf.strings.substr(encoded, position + 4, len(_EXIF_HEADER)) == _EXIF_HEADER
        )
        # A marker may be preceded by fill bytes of 0xFF.
        is_fill = data[position + 1] == 0xFF
        length = data[position + 2] * 256 + data[position + 3] + 2
        following = position + tf.where(is_fill, 1, length)
        start = tf.where(is_exif, position + 4 + len(_EXIF_HEADER), start)
        return following, start, tf.where(is_exif, following, end)

    _, start, end = tf.while_loop(more, step, [tf.constant(2), tf.constant(0), tf.constant(0)])
    return start, end


def _turn(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """`image` as it is meant to be seen; orientations as in EXIF 2.3, 4.6.4."""
    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    mirror = tf.reduce_any(orientation == [2, 3, 6, 7])
    image = tf.cond(mirror, lambda: tf.reverse(image, [1]), lambda: image)
    upside_down = tf.reduce_any(orientation == [3, 4, 7, 8])
    return tf.cond(upside_down, lambda: tf.reverse(image, [0]), lambda: image)


def _decode_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    # The accurate transform is what other readers use; the default differs
    # from them by several grey levels.
    return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")


def _decode_bmp(encoded: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_bmp(encoded)
    return tf.cond(
        tf.shape(image)[-1] == 1,
        lambda: _apply_bmp_palette(encoded, image),
        lambda: image[:, :, :3],
    )


def _apply_bmp_palette(encoded: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """The colours of an 8-bit BMP, which `decode_bmp` leaves as palette indices."""
    data = tf.io.decode_raw(encoded, tf.uint8)
    header_size = tf.bitcast(data[14:18], tf.int32)
    pixel_offset = tf.bitcast(data[10:14], tf.int32)
    # The palette (blue, green, red, unused) lies between header and pixels;
    # indices beyond a short one are black.
    palette = tf.pad(data[14 + header_size : pixel_offset], [[0, 1024]])[:1024]
    colours = tf.reshape(palette, [256, 4])[:, 2::-1]
    return tf.gather(colours, tf.cast(indices[:, :, 0], tf.int32))
