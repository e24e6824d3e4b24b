"""Decoding of every image format, in graphs and without TensorFlow, agrees with Pillow."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from efficientdet_tf.data import image_files, orientation
from efficientdet_tf.data.decoding import decode_image, exif_orientation

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def image() -> Image.Image:
    """Image of smooth colours, which lossy formats keep, and four different corners."""
    y, x = np.mgrid[0:24, 0:40]
    pixels = np.stack([x * 6, y * 10, 255 - x * 3 - y * 5], axis=-1)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def decode():
    """`decode_image` as a graph, as in the pipeline and an exported model: bytes -> pixels.

    If the image is turned upright, `read_image` gives the same.
    """
    signature = [tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.bool)]
    graph = tf.function(decode_image, input_signature=signature)

    def decode(encoded: bytes, apply_exif: bool) -> np.ndarray:
        pixels = graph(encoded, apply_exif).numpy()
        if apply_exif:
            np.testing.assert_array_equal(image_files.read_image(encoded), pixels)
        return pixels

    return decode


def encode(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("format", "mode"),
    [
        ("JPEG", "RGB"),
        ("JPEG", "L"),
        ("JPEG", "CMYK"),
        ("PNG", "RGB"),
        ("PNG", "L"),
        ("PNG", "1"),
        ("PNG", "P"),
        ("PNG", "LA"),
        ("PNG", "RGBA"),
        ("GIF", "P"),
        ("BMP", "RGB"),
        ("BMP", "L"),
        ("BMP", "P"),
        ("BMP", "RGBA"),
        ("WEBP", "RGB"),
        ("WEBP", "L"),
        ("WEBP", "RGBA"),
    ],
)
def test_decodes_as_pillow_does(image, decode, format, mode):
    encoded = encode(image.convert(mode), format)
    expected = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    decoded = decode(encoded, True)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_16_bit_png_keeps_the_high_byte(decode, mode):
    channels = 3 if mode == "RGB" else 1
    samples = np.arange(24 * 40 * channels).reshape(24, 40, channels) * 20 % 65536
    encoded = tf.io.encode_png(samples.astype(np.uint16)).numpy()
    expected = np.broadcast_to(samples >> 8, (24, 40, 3))
    np.testing.assert_array_equal(decode(encoded, True), expected)


def test_animation_gives_its_first_frame(image, decode):
    frames = [image.convert("P"), image.rotate(180).convert("P")]
    encoded = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    expected = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    np.testing.assert_array_equal(decode(encoded, True), expected)


def test_a_stereo_photograph_gives_its_first_image(image, decode):
    encoded = encode(image, "MPO", save_all=True, append_images=[image.rotate(180)])
    assert Image.open(io.BytesIO(encoded)).format == "MPO"
    expected = np.asarray(Image.open(io.BytesIO(encoded)))
    np.testing.assert_array_equal(decode(encoded, True), expected)


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_webp_with_and_without_transparency_and_metadata(image, decode, mode, lossless):
    """Metadata require an extended header, which has its own transparency flag."""
    metadata = {"exif": Image.Exif().tobytes(), "xmp": b"<x/>"}
    with_alpha = image.convert(mode)
    if mode == "RGBA":
        with_alpha.putalpha(Image.linear_gradient("L").resize(image.size))
    for extra in ({}, metadata):
        encoded = encode(with_alpha, "WEBP", lossless=lossless, **extra)
        assert (encoded[12:16] == b"VP8X") == (bool(extra) or (mode == "RGBA" and not lossless))
        expected = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
        np.testing.assert_array_equal(decode(encoded, True), expected)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_an_animated_webp_gives_its_first_frame(image, decode, mode):
    """TensorFlow's own decoder writes out of bounds in the first case."""
    frames = [image.convert(mode), image.rotate(180).convert(mode)]
    if mode == "RGBA":
        frames[0].putalpha(Image.linear_gradient("L").resize(image.size))
    encoded = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert Image.open(io.BytesIO(encoded)).n_frames == 2
    expected = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    for _ in range(20):
        np.testing.assert_array_equal(decode(encoded, True), expected)


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_exif_orientation_turns_the_image_upright(image, decode, byte_order, tag):
    exif = Image.Exif()
    exif.endian = byte_order
    exif[0x010F] = "a maker"
    exif[ORIENTATION] = tag
    encoded = encode(image, "JPEG", exif=exif.tobytes(), comment=b"before the image data")
    stored = Image.open(io.BytesIO(encoded))
    assert exif_orientation(tf.constant(encoded)) == tag
    np.testing.assert_array_equal(decode(encoded, False), np.asarray(stored))
    upright = np.asarray(ImageOps.exif_transpose(stored))
    np.testing.assert_array_equal(decode(encoded, True), upright)


@pytest.mark.parametrize("tag", [0, 9, 255])
def test_an_impossible_orientation_is_upright(image, tag):
    exif = Image.Exif()
    exif[ORIENTATION] = tag
    assert exif_orientation(tf.constant(encode(image, "JPEG", exif=exif.tobytes()))) == 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("type_", "code"), [(3, "HH"), (4, "I")])
def test_an_orientation_of_two_or_four_bytes_is_read_as_by_pillow(image, order, type_, code):
    value = struct.pack(order + code, *((6, 0) if code == "HH" else (6,)))
    header = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HI", 42, 8)
    entry = struct.pack(order + "HHHI", 1, ORIENTATION, type_, 1) + value + bytes(4)
    encoded = encode(image, "JPEG", exif=b"Exif\0\0" + header + entry)
    assert orientation.exif_orientation(Image.open(io.BytesIO(encoded))) == 6
    assert exif_orientation(tf.constant(encoded)) == 6


@pytest.mark.parametrize("exif_orientation_tag", [None, 1, 6])
def test_pillow_and_the_graph_read_the_same_orientation(image, exif_orientation_tag):
    """Both ignore the orientation of XMP data."""
    exif, xmp = Image.Exif(), b'<rdf tiff:Orientation="8"/>'
    if exif_orientation_tag:
        exif[ORIENTATION] = exif_orientation_tag
    encoded = encode(image, "JPEG", exif=exif.tobytes(), xmp=xmp)
    opened = Image.open(io.BytesIO(encoded))
    assert opened.getexif()[ORIENTATION] == (exif_orientation_tag or 8)
    assert orientation.exif_orientation(opened) == (exif_orientation_tag or 1)
    assert exif_orientation(tf.constant(encoded)) == (exif_orientation_tag or 1)


def test_damaged_exif_data_is_upright(image):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    block = exif.tobytes()
    for length in range(len(b"Exif\0\0"), len(block)):
        encoded = encode(image, "JPEG", exif=block[:length])
        assert exif_orientation(tf.constant(encoded)).numpy() in (1, 6)
    garbage = b"Exif\0\0MM\0*\xff\xff\xff\xff" + b"\xff" * 40
    assert exif_orientation(tf.constant(encode(image, "JPEG", exif=garbage))) == 1


@pytest.mark.parametrize(
    "encoded",
    [
        *(b"", b"text", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"BM" * 40),
        *(b"RIFF", b"RIFF\0\0\0\0WEBP", b"RIFF\0\0\0\0WEBPVP8X", b"RIFF\0\0\0\0WAVEfmt "),
        b"RIFF\xff\0\0\0WEBPVP8X\x0a\0\0\0\x02" + bytes(40),
    ],
)
def test_what_is_no_image_raises(decode, encoded):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(encoded, True)
    with pytest.raises(image_files.ImageError, match="image bytes: (empty|not a readable JPEG, )"):
        image_files.read_image(encoded)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_a_truncated_file_raises(image, decode, format):
    encoded = encode(image, format)
    encoded = encoded[: len(encoded) // 2]
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(encoded, True)
    with pytest.raises(image_files.ImageError, match="image bytes: not a readable JPEG, "):
        image_files.read_image(encoded)


def test_an_image_of_too_many_pixels_is_refused():
    encoded = encode(Image.new("1", (20_000, 10_000)), "PNG")
    with pytest.raises(image_files.ImageError) as error:
        image_files.read_image(encoded)
    assert str(error.value) == "image bytes: more than 178,956,970 pixels; scale it down"


def test_other_formats_are_refused(image):
    with pytest.raises(image_files.ImageError) as error:
        image_files.read_image(encode(image, "TIFF"))
    assert str(error.value) == ("image bytes: not a readable JPEG, PNG, GIF, BMP or WebP image")


def test_decodes_inside_a_saved_model(image, tmp_path):
    module = tf.Module()
    module.decode = tf.function(decode_image, input_signature=[tf.TensorSpec([], tf.string)])
    tf.saved_model.save(module, str(tmp_path))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    encoded = encode(image, "JPEG", exif=exif.tobytes())
    loaded = tf.saved_model.load(str(tmp_path))
    webp = encode(image, "WEBP")
    expected = np.asarray(Image.open(io.BytesIO(webp)))
    np.testing.assert_array_equal(loaded.decode(webp).numpy(), expected)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))))
    np.testing.assert_array_equal(loaded.decode(encoded).numpy(), upright)
