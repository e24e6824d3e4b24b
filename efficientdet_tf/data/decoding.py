"""Decoding of image files to RGB pixels, with TensorFlow ops only.

The same graph decodes in the input pipeline and inside an exported SavedModel.
"""

import functools

import tensorflow as tf

# Factors by which a JPEG can be decoded smaller than it is, in part of the time.
REDUCTIONS = (1, 2, 4, 8)

_EXIF_HEADER = b"Exif\x00\x00"
_ORIENTATION_TAG = [0x01, 0x12]
# What the bytes of a number count.
_BIG_ENDIAN = [1 << 24, 1 << 16, 1 << 8, 1]
# Type of an unsigned integer of four bytes in TIFF; the orientation's should have two.
_LONG = 4
_APP1 = b"\xff\xe1"
# Bits of the flags of a WebP file.
_WEBP_ALPHA, _WEBP_ANIMATION = 0x10, 0x02


def decode_image(
    encoded: tf.Tensor, apply_exif: bool | tf.Tensor = True, reduction: tf.Tensor | None = None
) -> tf.Tensor:
    """Decode a JPEG, PNG, GIF, BMP or WebP file to upright RGB pixels.

    Grey, palette and CMYK images are converted to RGB, 16-bit samples keep their
    high byte, transparency is dropped, and the first frame of an animation is used.

    Args:
      encoded: string scalar, the bytes of the file.
      apply_exif: bool, Python or scalar tensor: whether to apply the EXIF
        orientation of a JPEG. Ignored for other formats.
      reduction: index of `REDUCTIONS`, int32 scalar, the factor by which a JPEG is decoded
        smaller, its sides rounded up; other formats have their size. None for none. Default None.

    Returns:
      uint8 [height, width, 3].

    Raises:
      tf.errors.InvalidArgumentError: if the bytes cannot be decoded.
    """
    is_jpeg = tf.strings.substr(encoded, 0, 3) == b"\xff\xd8\xff"
    image = tf.cond(
        is_jpeg,
        lambda: _decode_jpeg(encoded) if reduction is None else _reduced_jpeg(encoded, reduction),
        lambda: _decode_other_than_jpeg(encoded),
    )
    image = tf.ensure_shape(image, [None, None, 3])
    orientation = tf.cond(
        tf.logical_and(is_jpeg, apply_exif),
        lambda: exif_orientation(encoded),
        lambda: tf.constant(1),
    )
    return tf.cond(orientation == 1, lambda: image, lambda: _turn(image, orientation))


def exif_orientation(encoded: tf.Tensor) -> tf.Tensor:
    """Read the EXIF orientation of a JPEG file.

    Args:
      encoded: string scalar, the bytes of the file.

    Returns:
      int32 scalar 1..8; 1 (upright) if the file has no valid orientation.
    """
    # Splitting is the fastest search for the header: no loop over the bytes.
    parts = tf.raw_ops.StringSplitV2(input=[encoded], sep=_EXIF_HEADER, maxsplit=1).values
    length = tf.strings.length(parts[0])
    # The marker and the segment's size precede it. The marker cannot occur by
    # chance in compressed data, where 0xFF is always followed by zero.
    marker = tf.strings.substr(parts[0], tf.maximum(length - 4, 0), 2)
    return tf.cond(
        (tf.size(parts) == 2) & (length >= 4) & (marker == _APP1),
        lambda: _orientation_in_segment(parts[0], parts[1]),
        lambda: tf.constant(1),
    )


def _orientation_in_segment(before: tf.Tensor, after: tf.Tensor) -> tf.Tensor:
    """Read the orientation from the bytes before and after a segment's EXIF header."""
    size = tf.cast(tf.io.decode_raw(before, tf.uint8)[-2:], tf.int32)
    # The size counts itself and the header; what follows is a TIFF structure.
    tiff_size = tf.maximum(size[0] * 256 + size[1] - 2 - len(_EXIF_HEADER), 0)
    tiff = tf.cast(tf.io.decode_raw(tf.strings.substr(after, 0, tiff_size), tf.uint8), tf.int32)
    # Bytes after a truncated structure read as zeros, which is no valid orientation.
    tiff = tf.pad(tiff, [[0, 16]])
    is_big_endian = tiff[0] == ord("M")
    # What the bytes of a number count, of two and of four.
    two = tf.where(is_big_endian, [256, 1], [1, 256])
    four = tf.where(is_big_endian, _BIG_ENDIAN, _BIG_ENDIAN[::-1])
    tag = tf.where(is_big_endian, _ORIENTATION_TAG, _ORIENTATION_TAG[::-1])

    last = tf.size(tiff) - 2
    directory = tf.clip_by_value(tf.reduce_sum(tiff[4:8] * four), 0, last)
    count = tf.reduce_sum(tf.slice(tiff, [directory], [2]) * two)
    count = tf.minimum(count, (last - directory) // 12)
    entries = tf.reshape(tf.slice(tiff, [directory + 2], [12 * count]), [-1, 12])
    # After them one that says upright, for files without an orientation: 256 % 256 is 0.
    upright = tf.concat([tag, tf.zeros([6], tf.int32), two % 256, [0, 0]], axis=0)
    entries = tf.concat([entries, [upright]], axis=0)
    first = tf.argmax(tf.reduce_all(entries[:, :2] == tag, axis=1))
    entry = tf.gather(entries, first)
    # A number of four bytes fills its place, one of two bytes is at its begin.
    is_long = tf.reduce_sum(entry[2:4] * two) == _LONG
    value = tf.reduce_sum(tf.where(is_long, entry[8:] * four, tf.pad(entry[8:10] * two, [[0, 2]])))
    return tf.where((value >= 1) & (value <= 8), value, 1)


def _turn(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turn `image` upright; orientations as in EXIF 2.3, 4.6.4."""
    image = tf.cond(orientation >= 5, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    mirror = tf.reduce_any(orientation == [2, 3, 6, 7])
    image = tf.cond(mirror, lambda: tf.reverse(image, [1]), lambda: image)
    upside_down = tf.reduce_any(orientation == [3, 4, 7, 8])
    return tf.cond(upside_down, lambda: tf.reverse(image, [0]), lambda: image)


def _decode_jpeg(encoded: tf.Tensor, ratio: int = 1) -> tf.Tensor:
    # Other readers use the accurate transform; the default differs from them by
    # several grey levels.
    return tf.io.decode_jpeg(encoded, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")


def _reduced_jpeg(encoded: tf.Tensor, reduction: tf.Tensor) -> tf.Tensor:
    branches = [functools.partial(_decode_jpeg, encoded, ratio) for ratio in REDUCTIONS]
    return tf.switch_case(reduction, branches)


def _decode_other_than_jpeg(encoded: tf.Tensor) -> tf.Tensor:
    is_bmp = tf.strings.substr(encoded, 0, 2) == b"BM"
    return tf.cond(is_bmp, lambda: _decode_bmp(encoded), lambda: _decode_other_than_bmp(encoded))


def _decode_other_than_bmp(encoded: tf.Tensor) -> tf.Tensor:
    return tf.cond(
        _is_webp(encoded),
        lambda: _decode_webp(encoded),
        # PNG and GIF, and the error message for anything else.
        lambda: tf.io.decode_image(encoded, channels=3, expand_animations=False),
    )


def _is_webp(encoded: tf.Tensor) -> tf.Tensor:
    """Tell whether files are WebP, by their header: bool, of the shape of `encoded`, string."""
    is_riff = tf.strings.substr(encoded, 0, 4) == b"RIFF"
    # Padded, as shorter files have no such bytes.
    padded = tf.strings.join([encoded, b" " * 12])
    return is_riff & (tf.strings.substr(padded, 8, 4) == b"WEBP")


def _decode_webp(encoded: tf.Tensor) -> tf.Tensor:
    """Decode the first frame of a WebP file: uint8 [h, w, 3].

    `tf.io.decode_image` rather than `tf.io.decode_webp`: it also exists before
    TensorFlow 2.20, so an exported model loads there, only without WebP. The file
    determines the number of channels: unlike for PNG, three are refused for a
    transparent image.
    """
    encoded = _declare_animation_transparent(encoded)
    image = tf.io.decode_image(encoded, channels=0, expand_animations=False)
    return image[:, :, :3]


def _declare_animation_transparent(encoded: tf.Tensor) -> tf.Tensor:
    """Set the transparency flag of `encoded` WebP if it is an animation.

    The decoder of TensorFlow 2.20 writes four channels of each frame into a buffer
    for three if the flag is not set, and the process crashes. The flags are byte 20
    of a file with an extended header
    (https://developers.google.com/speed/webp/docs/riff_container).
    """
    position = 20
    flags = tf.strings.substr(tf.strings.join([encoded, b"\x00" * 21]), position, 1)
    flags = tf.io.decode_raw(flags, tf.uint8)[0]
    is_extended = tf.strings.substr(tf.strings.join([encoded, b" " * 16]), 12, 4) == b"VP8X"

    def transparent() -> tf.Tensor:
        every_byte = tf.constant([bytes([value]) for value in range(256)])
        byte = every_byte[tf.cast(tf.bitwise.bitwise_or(flags, _WEBP_ALPHA), tf.int32)]
        rest = tf.strings.substr(encoded, position + 1, tf.strings.length(encoded))
        return tf.strings.join([tf.strings.substr(encoded, 0, position), byte, rest])

    is_animation = tf.bitwise.bitwise_and(flags, _WEBP_ANIMATION) != 0
    return tf.cond(is_extended & is_animation, transparent, lambda: encoded)


def _decode_bmp(encoded: tf.Tensor) -> tf.Tensor:
    image = tf.io.decode_bmp(encoded)
    return tf.cond(
        tf.shape(image)[-1] == 1,
        lambda: _apply_bmp_palette(encoded, image),
        lambda: image[:, :, :3],
    )


def _apply_bmp_palette(encoded: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
    """Look up the colours of an 8-bit BMP, of which `decode_bmp` returns palette indices."""
    data = tf.io.decode_raw(encoded, tf.uint8)
    header_size = tf.bitcast(data[14:18], tf.int32)
    pixel_offset = tf.bitcast(data[10:14], tf.int32)
    # The palette (blue, green, red, unused) lies between header and pixels;
    # indices beyond a short one are black.
    palette = tf.pad(data[14 + header_size : pixel_offset], [[0, 1024]])[:1024]
    colours = tf.reshape(palette, [256, 4])[:, 2::-1]
    return tf.gather(colours, tf.cast(indices[:, :, 0], tf.int32))
