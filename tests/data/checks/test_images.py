"""Faults of image files, each with its exact line."""

import io

import numpy as np
import pytest
from PIL import Image, features


def test_good_images_have_no_fault(folder, faults_of):
    for name in ("a.jpg", "b.jpeg", "c.png", "d.webp", "e.gif", "f.bmp"):
        folder.add(name)
    folder.add("grey.png", image=Image.open(folder.path / "c.png").convert("L").rotate(180))
    opaque = Image.open(folder.path / "c.png").convert("RGBA").rotate(90, expand=False)
    opaque.putalpha(255)
    folder.add("opaque.png", image=opaque)
    folder.categories.pop()
    assert faults_of(folder.save()) == []


def test_files_that_cannot_be_read(folder, faults_of, png_bomb):
    folder.categories.pop()
    folder.add("good.jpg")
    folder.add("missing.jpg").unlink()
    folder.add("empty.jpg").write_bytes(b"")
    folder.add("text.jpg").write_text("<html>404</html>")
    cut = folder.add("cut.jpg")
    cut.write_bytes(cut.read_bytes()[:-100])
    folder.add("bomb.png", size=(20_000, 20_000)).write_bytes(png_bomb)
    folder.add("tiff.jpg").unlink()
    Image.open(folder.path / "good.jpg").rotate(180).save(folder.path / "tiff.jpg", "TIFF")
    folder.add("other.jpg", [5, 5, 20, 20], size=(48, 64))
    formats = "JPEG, PNG, GIF, BMP or WebP"
    assert faults_of(folder.save()) == [
        ("image_missing", "missing.jpg: image file is missing"),
        ("image_empty", f"empty.jpg: image file cannot be read; it must be {formats}"),
        ("image_unreadable", f"text.jpg: image file cannot be read; it must be {formats}"),
        ("image_truncated", "cut.jpg: image file cannot be decoded; it may be damaged"),
        ("image_bomb", "bomb.png: image has more than 178,956,970 pixels; scale it down"),
        ("image_format", f"tiff.jpg: is a TIFF file; use {formats}"),
        ("image_size", "other.jpg: image is 64 x 48 pixels, but annotated as 48 x 64 pixels"),
    ]


def test_unusual_files(folder, faults_of):
    folder.categories.pop()
    folder.add("jpeg.png", format="JPEG")
    good = folder.add("good.png")
    cmyk = Image.open(good).rotate(180).convert("CMYK")
    folder.add("cmyk.jpg", image=cmyk)
    clear = Image.open(good).transpose(Image.Transpose.FLIP_LEFT_RIGHT).convert("RGBA")
    clear.putpixel((0, 0), (0, 0, 0, 0))
    folder.add("clear.png", image=clear)
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    folder.add("deep.png", image=Image.fromarray(ramp))
    folder.add("bits.png", image=Image.open(good).convert("1"))
    frames = [Image.fromarray(np.full((48, 64), value, np.uint8)) for value in (0, 90)]
    folder.add("moving.gif", image=frames[0], save_all=True, append_images=frames[1:])
    assert faults_of(folder.save()) == [
        ("image_suffix", "jpeg.png: is a JPEG file; its suffix is '.png'"),
        (
            "image_mode",
            "cmyk.jpg: is in CMYK, which is converted to RGB without its colour profile",
        ),
        (
            "image_mode",
            "clear.png: has transparent pixels, which are used with their hidden colour",
        ),
        (
            "image_mode",
            "deep.png: has more than 8 bits per channel, of which the highest 8 are used",
        ),
        ("image_mode", "bits.png: has 1 bit per pixel"),
        ("image_mode", "moving.gif: has 2 frames, of which the first is used"),
    ]


@pytest.mark.parametrize(
    ("orientation", "size", "use"),
    [
        (6, (48, 64), "applied, as the annotated size is that of the upright image"),
        (6, (64, 48), "not applied, as the annotated size is that of the stored image"),
        (6, (0, 0), "applied; the annotated size does not tell whether the boxes refer to the"),
        (3, (64, 48), "applied; the annotated size does not tell whether the boxes refer to the"),
    ],
)
def test_exif_orientation(folder, faults_of, orientation, size, use):
    folder.categories.pop()
    exif = Image.Exif()
    exif[0x0112] = orientation
    folder.add("a.jpg", [5, 5, 20, 20], size=size, exif=exif)
    [(kind, line)] = faults_of(folder.save())
    assert kind == "image_orientation"
    assert line.startswith(f"a.jpg: EXIF orientation {orientation}: {use}")


def test_images_without_annotations_and_the_reverse(folder, faults_of):
    folder.categories.pop()
    folder.add("a.jpg")
    folder.add("b.jpg")
    folder.annotations.pop()
    Image.open(folder.path / "a.jpg").rotate(180).save(folder.path / "c.jpg")
    folder.annotations.append({"id": 9, "image_id": 77, "category_id": 1, "bbox": folder.BOX})
    assert faults_of(folder.save()) == [
        ("entry_unusable", "set.json: annotation 9: image_id: 77 is not among the images"),
        ("image_unannotated", "b.jpg: has no object"),
        ("image_unlisted", "c.jpg: no annotation names this image"),
    ]


def test_label_files_without_an_image(tmp_path, folder, faults_of):
    image = folder.add("a.jpg")
    for name in ("images", "labels"):
        (tmp_path / "yolo" / name).mkdir(parents=True)
    image.rename(tmp_path / "yolo" / "images" / "a.jpg")
    Image.open(folder.add("b.jpg")).save(tmp_path / "yolo" / "images" / "b.jpg")
    (tmp_path / "yolo" / "labels" / "a.txt").write_text("0 0.5 0.5 0.4 0.4\n0 0.5 x 0.4 0.4")
    (tmp_path / "yolo" / "labels" / "gone.txt").write_text("0 0.5 0.5 0.4 0.4")
    file = tmp_path / "yolo" / "data.yaml"
    file.write_text("names: [cat]\ntrain: images")
    fault = "must be five numbers, class x_center y_center width height, or class and a polygon"
    assert faults_of(str(file)) == [
        ("box_unreadable", f"labels/a.txt: line 2: {fault}; image excluded"),
        ("image_unannotated", "images/b.jpg: has no object, as labels/b.txt does not exist"),
        (
            "annotation_without_image",
            "labels/gone.txt: there is no image of this name in images",
        ),
    ]


def test_huge_images_are_named(folder, faults_of, recwarn):
    folder.categories.pop()
    # Bits compress well.
    wide, high = 10_000, 9_000
    image = Image.new("1", (wide, high))
    folder.add("huge.png", [10, 10, 5_000, 8_000], size=(wide, high), image=image)
    assert faults_of(folder.save())[0] == ("image_huge", "huge.png: image has 90 million pixels")
    assert not [w for w in recwarn if w.category is Image.DecompressionBombWarning]


def test_an_image_that_some_programs_cannot_read(folder, faults_of):
    folder.categories.pop()
    path = folder.add("a.gif")
    encoded = bytearray(path.read_bytes())
    encoded[-101] = 0xFF
    path.write_bytes(encoded)
    reason = "broken data stream when reading image file"
    assert faults_of(folder.save()) == [
        ("image_partial", f"a.gif: can be decoded by TensorFlow, but not by Pillow: {reason}")
    ]


def failing_with(error, damaged):
    """Return the first of several files for which Pillow raises this kind of error."""
    for encoded in damaged:
        try:
            with Image.open(io.BytesIO(encoded)) as opened:
                getattr(opened, "n_frames", 1)
        except Exception as raised:
            if type(raised) is error:
                return encoded
    raise AssertionError(f"no {error}")


def test_a_damaged_animation_for_which_pillow_has_an_odd_error(folder, faults_of):
    folder.categories.pop()
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    frames = [Image.fromarray(pixels).rotate(90 * i) for i in range(3)]
    path = folder.add("a.gif", image=frames[0], save_all=True, append_images=frames[1:])
    encoded = path.read_bytes()
    cuts = (encoded[:size] for size in range(len(encoded) // 2, len(encoded)))
    path.write_bytes(failing_with(IndexError, cuts))
    [(kind, line)] = faults_of(folder.save())
    assert kind == "image_partial"
    assert line.startswith("a.gif: can be decoded by TensorFlow, but not by Pillow: ")


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_a_damaged_file_of_another_format_is_no_image(folder, faults_of):
    folder.categories.pop()
    folder.add("good.jpg")
    path = folder.add("a.jpg", format="AVIF")
    encoded = path.read_bytes()
    flipped = (
        encoded[:i] + bytes([encoded[i] ^ 0xFF]) + encoded[i + 1 :] for i in range(len(encoded))
    )
    path.write_bytes(failing_with(RuntimeError, flipped))
    assert faults_of(folder.save()) == [
        (
            "image_unreadable",
            "a.jpg: image file cannot be read; it must be JPEG, PNG, GIF, BMP or WebP",
        )
    ]


def test_a_size_beyond_32_bits_is_a_fault(folder, faults_of):
    folder.add("a.png", size=(2**32, 48))
    kinds = [kind for kind, _ in faults_of(folder.save())]
    assert "image_size" in kinds
