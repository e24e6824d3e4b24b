"""TFRecord files: round trip, compatibility with other programs, and bad files."""

import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf
from official.vision.dataloaders import tf_example_decoder
from PIL import Image

from efficientdet_tf import data
from efficientdet_tf.data import DataError, digits, tfrecord
from efficientdet_tf.data.image_sources import read_encoded
from efficientdet_tf.data.records import DetectionData, LabelMap, Record
from efficientdet_tf.data.tfrecord import write_tfrecord


@pytest.fixture
def made(tmp_path) -> DetectionData:
    """JPEG with an EXIF orientation and a crowd, and a PNG of background."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.full((20, 30, 3), 200, np.uint8))
    path = tmp_path / "turned.jpg"
    image.save(path, exif=exif)
    file = io.BytesIO()
    image.save(file, "PNG")
    turned = Record(
        image_id=42,
        image=str(path),
        height=30,
        width=20,
        boxes=np.array([[3, 2, 15, 10], [0, 0, 30, 20]], np.float32),
        classes=np.array([1, 0], np.int32),
        is_crowd=np.array([False, True]),
        area=np.array([50, 600], np.float32),
    )
    background = Record(
        image_id=7,
        image=file.getvalue(),
        height=20,
        width=30,
        boxes=np.zeros((0, 4), np.float32),
        classes=np.zeros(0, np.int32),
        is_crowd=np.zeros(0, bool),
        area=np.zeros(0, np.float32),
    )
    return DetectionData([turned, background], LabelMap((3, 17), ("first", "second")))


def test_round_trip_keeps_everything(made, tmp_path):
    [file] = write_tfrecord(made, str(tmp_path / "out" / "train.tfrecord"))
    loaded = data.load(file)
    assert loaded.label_map == made.label_map
    assert loaded.problems == ()
    for before, after in zip(made.records, loaded.records):
        assert (before.image_id, before.height, before.width) == (
            after.image_id,
            after.height,
            after.width,
        )
        np.testing.assert_allclose(after.boxes, before.boxes, atol=1e-4)
        for field in ("classes", "is_crowd", "area"):
            np.testing.assert_array_equal(getattr(after, field), getattr(before, field))
    assert Image.open(io.BytesIO(read_encoded(loaded.records[0].image))).size == (20, 30)
    assert read_encoded(loaded.records[1].image) == made.records[1].image


def test_ignored_objects_stay_ignored(made, tmp_path):
    """Difficult objects are marked with the key of TensorFlow's object detection API."""
    marks = dict(is_ignored=np.array([True, True]), is_difficult=np.array([True, False]))
    turned = dataclasses.replace(made.records[0], is_crowd=np.zeros(2, bool), **marks)
    learned = dataclasses.replace(turned, image_id=43, is_ignored=np.zeros(2, bool))
    made = dataclasses.replace(made, records=[turned, learned])
    [file] = write_tfrecord(made, str(tmp_path / "train.tfrecord"))
    examples = [
        tf.train.Example.FromString(raw.numpy()).features.feature
        for raw in tf.data.TFRecordDataset(file)
    ]
    for example, labels in zip(examples, ([17, -1], [17, 3])):
        assert list(example["image/object/difficult"].int64_list.value) == [1, 0]
        assert list(example["image/object/class/label"].int64_list.value) == labels
    assert list(examples[0]["image/object/class/text"].bytes_list.value) == [b"second", b""]
    again, _ = data.load(file).records
    assert again.classes[1] == -1 and again.is_ignored[1]


def test_other_programs_read_the_same(made, tmp_path):
    [file] = write_tfrecord(made, str(tmp_path / "train.tfrecord"))
    decoder = tf_example_decoder.TfExampleDecoder()
    first, second = (decoder.decode(item) for item in tf.data.TFRecordDataset(file))
    # The decoder ignores orientation tags, so the pixels must be upright.
    assert first["image"].shape == [30, 20, 3]
    assert first["source_id"] == b"42"
    np.testing.assert_array_equal(first["groundtruth_classes"], [17, 3])
    np.testing.assert_array_equal(first["groundtruth_is_crowd"], [False, True])
    boxes = first["groundtruth_boxes"] * np.array([30, 20, 30, 20], np.float32)
    np.testing.assert_allclose(boxes, made.records[0].boxes, atol=1e-4)
    assert second["groundtruth_boxes"].shape == [0, 4]


def test_shards_share_the_records_of_a_split(tmp_path):
    train, val = digits.load("train", num_images=5), digits.load("val", num_images=2)
    files = write_tfrecord(train, str(tmp_path / "train.tfrecord"), shards=3)
    write_tfrecord(val, str(tmp_path / "val.tfrecord"))
    assert files[0] == str(tmp_path / "train-00000-of-00003.tfrecord")
    loaded = data.load(str(tmp_path))
    assert sorted(record.image_id for record in loaded.records) == [1, 2, 3, 4, 5]
    assert len(data.load(str(tmp_path), split="val")) == 2
    assert len(data.load(str(tmp_path / "train-*.tfrecord"))) == 5


@pytest.mark.parametrize(
    ("names", "split", "expected"),
    [
        (["coco-train.tfrecord-00000-of-00001", "coco-validation.tfrecord"], "train", [0]),
        (["coco-train.tfrecord-00000-of-00001", "coco-validation.tfrecord"], "val", [1]),
        (["train2017-0.tfrecord", "val2017-0.tfrecord", "other.tfrecord"], "val", [1]),
        (["part-0.tfrecord", "part-1.tfrecord"], "train", [0, 1]),
        # A folder of validation files alone, whatever their names.
        (["part-0.tfrecord", "part-1.tfrecord"], "val", [0, 1]),
        (["mine-0.tfrecord", "part-1.tfrecord"], "mine", [0]),
        (["values.tfrecord", "trainer.tfrecord"], "val", [0, 1]),
    ],
)
def test_names_of_files_tell_their_part(tmp_path, names, split, expected):
    for name in names:
        write_records(tmp_path / name, {"image/source_id": [name.encode()]})
    loaded = data.load(str(tmp_path), split=split)
    files = {record.name.partition(": ")[0] for record in loaded.records}
    assert files == {str(tmp_path / names[index]) for index in expected}


@pytest.mark.parametrize(
    ("name", "split", "flags"),
    [
        ("train-00000-of-00001.tfrecord", "val", "--val_data=FILES, or --data for eval.py"),
        ("val.tfrecord", "train", "--train_data=FILES"),
        ("test.tfrecord", "val", "--val_data=FILES, or --data for eval.py"),
    ],
)
def test_a_folder_without_the_split_is_an_error(tmp_path, name, split, flags):
    write_records(tmp_path / name, {})
    with pytest.raises(DataError) as error:
        data.load(str(tmp_path), split=split)
    assert str(error.value) == (
        f"{tmp_path}: no {split}*.tfrecord in it, only files such as {name}; "
        f"name the files themselves: {flags}"
    )


def test_a_file_that_breaks_off_says_after_how_many_records(tmp_path):
    file = tmp_path / "some.tfrecord"
    write_records(file, {}, {}, {})
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError) as error:
        data.load(str(file))
    assert str(error.value) == f"{file}: damaged after record 2; copy or write it again"


def test_without_a_label_map_the_records_tell_the_classes(made, tmp_path):
    [file] = write_tfrecord(made, str(tmp_path / "train.tfrecord"))
    (tmp_path / "label_map.json").unlink()
    assert data.load(file).label_map == made.label_map


def test_a_label_map_of_other_classes_is_not_overwritten(made, tmp_path):
    write_tfrecord(made, str(tmp_path / "train.tfrecord"))
    other = DetectionData(made.records, LabelMap((1, 2), ("a", "b")))
    with pytest.raises(DataError) as error:
        write_tfrecord(other, str(tmp_path / "val.tfrecord"))
    label_map = tmp_path / "label_map.json"
    assert str(error.value) == f"{label_map}: holds other classes; write to another folder"


def feature(values):
    if values and isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if values and isinstance(values[0], float):
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


def write_records(file, *records: dict):
    """Write records with an image and one object, modified by the dicts."""
    plain = {f"image/object/bbox/{side}min": [0.25] for side in "xy"}
    plain |= {f"image/object/bbox/{side}max": [0.75] for side in "xy"}
    plain["image/object/class/label"] = [1]
    plain["image/encoded"] = [tf.io.encode_png(np.zeros((8, 8, 3), np.uint8)).numpy()]
    with tf.io.TFRecordWriter(str(file)) as writer:
        for changes in records:
            features = {key: feature(values) for key, values in (plain | changes).items()}
            example = tf.train.Example(features=tf.train.Features(feature=features))
            writer.write(example.SerializeToString())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image/encoded": []}, "image/encoded: is missing"),
        ({"image/encoded": [b"one", b"two"]}, "image/encoded: has 2 values"),
        (
            {"image/encoded": [b"x"]},
            "image file cannot be read; it must be JPEG, PNG, GIF, BMP or WebP",
        ),
        (
            {"image/object/bbox/xmin": []},
            "image/object/bbox: needs one box for each class label; image excluded",
        ),
        (
            {"image/object/bbox/xmax": [320.0]},
            "image/object/bbox: 320 looks like pixels; it must be a fraction of the image's size, "
            "0 to 1; image excluded",
        ),
        (
            {"image/object/class/label": [b"cat"]},
            "image/object/class/label: must be of kind int64_list; image excluded",
        ),
        (
            {"image/object/bbox/xmax": [b"wide"]},
            "image/object/bbox/xmax: must be of kind int64_list or float_list; image excluded",
        ),
        (
            {"image/encoded": [7]},
            "image/encoded: must be of kind bytes_list; image excluded",
        ),
        (
            {"image/height": [b"8"]},
            "image/height: must be of kind int64_list; image excluded",
        ),
        (
            {"image/object/bbox/xmin": [0.75]},
            "object 1: image/object/bbox: has no width or no height; ignored in training and "
            "evaluation",
        ),
    ],
)
def test_a_bad_record_is_excluded_and_named(tmp_path, changes, message):
    file = tmp_path / "some.tfrecord"
    write_records(file, {}, changes)
    assert list(data.load(str(file)).problems) == [f"{file}: record 2: {message}"]


def test_difficult_objects_are_marked(tmp_path):
    file = tmp_path / "some.tfrecord"
    write_records(file, {"image/object/difficult": [1]}, {"image/object/difficult": [0]}, {})
    images = tfrecord.read(str(file), images="", split="train").images
    assert [list(image.is_difficult) for image in images] == [[True], [False], [False]]


def test_ids_of_thousands_of_digits_are_counted_instead(tmp_path):
    file = tmp_path / "some.tfrecord"
    write_records(file, {"image/source_id": [b"1" * 5000]}, {"image/source_id": [b"2"]})
    assert [record.image_id for record in data.load(str(file)).records] == [1, 2]


def test_a_label_map_with_a_byte_order_mark_can_be_read(made, tmp_path):
    [file] = write_tfrecord(made, str(tmp_path / "train.tfrecord"))
    label_map = tmp_path / "label_map.json"
    label_map.write_bytes(b"\xef\xbb\xbf" + label_map.read_bytes())
    assert data.load(file).label_map == made.label_map


@pytest.mark.parametrize(("format", "options"), [("WEBP", {"lossless": True}), ("GIF", {})])
def test_webp_and_gif_are_written_as_png_with_the_same_pixels(tmp_path, format, options):
    file = io.BytesIO()
    # Of few colours, as GIF has.
    image = Image.fromarray((np.arange(20 * 30 * 3) % 3 * 90).astype(np.uint8).reshape(20, 30, 3))
    image.save(file, format, **options)
    record = Record(
        image_id=1,
        image=file.getvalue(),
        height=20,
        width=30,
        boxes=np.array([[3, 2, 15, 10]], np.float32),
        classes=np.zeros(1, np.int32),
        is_crowd=np.zeros(1, bool),
        area=np.ones(1, np.float32),
    )
    source = DetectionData([record], LabelMap((1,), ("thing",)))
    [written] = write_tfrecord(source, str(tmp_path / "train.tfrecord"))
    read = Image.open(io.BytesIO(read_encoded(data.load(written).records[0].image)))
    assert read.format == "PNG"
    np.testing.assert_array_equal(np.asarray(read), np.asarray(image))


def test_records_without_ids_sizes_and_names_can_be_read(tmp_path):
    file = tmp_path / "some.tfrecord"
    write_records(file, {"image/object/class/label": [5]}, {})
    loaded = data.load(str(file))
    assert loaded.label_map == LabelMap((1, 5), ("1", "5"))
    assert [record.image_id for record in loaded.records] == [1, 2]
    np.testing.assert_array_equal(loaded.records[0].boxes, [[2, 2, 6, 6]])


def test_problems_are_kept_in_the_index(tmp_path, monkeypatch):
    monkeypatch.setenv("EFFICIENTDET_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "some.tfrecord"
    changes = ({"image/encoded": []}, {"image/object/bbox/xmax": [320.0]})
    write_records(file, {}, *changes, {"image/object/class/label": [5]})
    first, second = (data.load(str(file)) for _ in range(2))
    assert first.problems == second.problems and len(first.problems) == 2
    assert first.label_map == second.label_map == LabelMap((1, 5), ("1", "5"))
    for one, other in zip(first.records, second.records, strict=True):
        np.testing.assert_array_equal(one.boxes, other.boxes)


def test_what_is_no_tfrecord_file_is_an_error(tmp_path):
    file = tmp_path / "text.tfrecord"
    file.write_text("not a record")
    with pytest.raises(DataError) as error:
        data.load(str(file))
    assert str(error.value) == f"{file}: damaged, or not a TFRecord file of tf.train.Example"
    with tf.io.TFRecordWriter(str(file)) as writer:
        writer.write(b"not an example")
    with pytest.raises(DataError) as error:
        data.load(str(file))
    assert str(error.value) == f"{file}: damaged, or not a TFRecord file of tf.train.Example"
    missing = str(tmp_path / "no.tfrecord")
    with pytest.raises(DataError) as error:
        data.load(missing)
    assert str(error.value) == f"{missing}: no such TFRecord file"


def test_an_image_that_cannot_be_encoded_again_is_named(tmp_path):
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file, "WEBP", lossless=True)
    (tmp_path / "a.webp").write_bytes(file.getvalue()[:-200])
    record = Record(
        image_id=1,
        image=str(tmp_path / "a.webp"),
        height=20,
        width=30,
        boxes=np.zeros((0, 4), np.float32),
        classes=np.zeros(0, np.int32),
        is_crowd=np.zeros(0, bool),
        area=np.zeros(0, np.float32),
        name="a.webp",
    )
    source = DetectionData([record], LabelMap((1,), ("thing",)))
    with pytest.raises(DataError, match="^a.webp: cannot be decoded: .*; correct it or remove it"):
        write_tfrecord(source, str(tmp_path / "train.tfrecord"))
    assert not list(tmp_path.glob("*.tfrecord*"))
