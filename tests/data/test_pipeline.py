"""Batches: shapes, seeds, targets, and files that become unreadable."""

import dataclasses
import os
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from efficientdet_tf import anchors as anchor_grid
from efficientdet_tf import targets
from efficientdet_tf.config import Config
from efficientdet_tf.data import DataError, preprocessing
from efficientdet_tf.data.pipeline import evaluation_dataset, training_dataset
from efficientdet_tf.data.reading import ReadFailures
from efficientdet_tf.data.record_table import RecordTable
from efficientdet_tf.data.records import DetectionData, LabelMap, Record
from efficientdet_tf.data.stream_order import Order
from efficientdet_tf.data.stream_share import Share

SIZE = 128
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


@pytest.fixture(scope="module")
def config() -> Config:
    return Config.for_model("efficientdet-lite0").override({"model.image_size": [SIZE, SIZE]})


@pytest.fixture
def data(tmp_path) -> DetectionData:
    """Seven images of different shapes; an object of class c has colour c."""
    records = []
    for i in range(7):
        height, width = 60 + 10 * i, 90
        pixels = np.full((height, width, 3), 100, np.uint8)
        box = [10 + i, 20, 50, 60 + i]
        pixels[box[0] : box[2], box[1] : box[3]] = COLOURS[i % 3]
        path = str(tmp_path / f"{i}.png")
        Image.fromarray(pixels).save(path)
        records.append(
            Record(
                image_id=100 + i,
                image=path,
                height=height,
                width=width,
                # The second object is a crowd, which must not be a positive.
                boxes=np.array([box, [0, 0, height, width]], np.float32),
                classes=np.array([i % 3, 0], np.int32),
                is_crowd=np.array([False, True]),
                area=np.zeros(2, np.float32),
                name=path,
            )
        )
    return DetectionData(records, LabelMap((1, 2, 3), ("red", "green", "blue")), source="made")


def positions_of(data: DetectionData, seed: int, first: int, count: int) -> list[int]:
    """Return the positions of the records in a stream."""
    pairs = Order(data, Share(seed, first)).positions()
    return [position for _, position in islice(pairs, count)]


def still(config: Config) -> Config:
    """Without augmentation."""
    return config.override(
        {
            "augmentation.horizontal_flip": False,
            "augmentation.scale_min": 1.0,
            "augmentation.scale_max": 1.0,
        }
    )


def test_training_batches_have_the_static_shapes_of_the_model(data, config):
    images, maps = training_dataset(data, config, 4).element_spec
    assert images == tf.TensorSpec([4, SIZE, SIZE, 3], tf.float32)
    num_anchors = 9 * (16**2 + 8**2 + 4**2 + 2**2 + 1)
    assert maps == {
        "class_targets": tf.TensorSpec([4, num_anchors], tf.int32),
        "box_targets": tf.TensorSpec([4, num_anchors, 4], tf.float32),
        "num_positives": tf.TensorSpec([4], tf.float32),
    }


def test_targets_are_those_of_the_objects_that_are_no_crowd(data, config):
    dataset = training_dataset(data, still(config), 7, repeat=False)
    [(images, maps)] = list(dataset)
    assert images.shape == [7, SIZE, SIZE, 3]
    for i in range(7):
        [record] = [
            record
            for record in data.records
            if np.allclose(images[i], network_input(record, config), atol=1e-3)
        ]
        boxes = network_boxes(record, record.boxes[:1])
        wanted_classes, wanted_boxes, count = targets.assign(
            anchor_grid.grid_from_config(config), boxes, record.classes[:1]
        )
        np.testing.assert_array_equal(maps["class_targets"][i], wanted_classes)
        np.testing.assert_allclose(maps["box_targets"][i], wanted_boxes, atol=0.05)
        assert maps["num_positives"][i] == count > 0


IGNORED_BOX = np.array([[5, 5, 55, 60]], np.float32)


def with_ignored(data) -> DetectionData:
    """Each image with an additional object of unknown category."""
    records = []
    for record in data.records:
        records.append(
            dataclasses.replace(
                record,
                boxes=np.concatenate([record.boxes, IGNORED_BOX]),
                classes=np.array([*record.classes, -1], np.int32),
                is_crowd=np.array([*record.is_crowd, False]),
                area=np.zeros(3, np.float32),
                is_ignored=np.array([False, False, True]),
                is_difficult=None,
            )
        )
    return dataclasses.replace(data, records=records)


def test_ignored_objects_are_no_background(data, config):
    dataset = training_dataset(with_ignored(data), still(config), 7, repeat=False, seed=1)
    [(_, maps)] = list(dataset)
    [(_, without)] = list(training_dataset(data, still(config), 7, repeat=False, seed=1))
    found, plain = (batch["class_targets"].numpy() for batch in (maps, without))
    np.testing.assert_array_equal(maps["num_positives"], without["num_positives"])
    order = positions_of(data, seed=1, first=0, count=7)
    grid = anchor_grid.grid_from_config(config)
    for position, ours, theirs in zip(order, found, plain):
        record = data.records[position]
        boxes = network_boxes(record, IGNORED_BOX)
        matched = targets.assign(grid, boxes, [0])[0].numpy() == 0
        expected = np.where(matched & (theirs < 0), targets.IGNORED, theirs)
        np.testing.assert_array_equal(ours, expected)
        assert (expected == targets.IGNORED).any()


def test_crowd_regions_are_background_or_excluded(data, config):
    [(_, plain)] = list(training_dataset(data, still(config), 7, repeat=False, seed=1))
    option = still(config).override({"data.ignore_crowd": True})
    [(_, maps)] = list(training_dataset(data, option, 7, repeat=False, seed=1))
    left_out, background = (batch["class_targets"].numpy() for batch in (maps, plain))
    assert (background >= -1).all()
    np.testing.assert_array_equal(maps["num_positives"], plain["num_positives"])
    order = positions_of(data, seed=1, first=0, count=7)
    ymin, xmin, ymax, xmax = np.asarray(anchor_grid.from_config(config)).T
    for position, ours, theirs in zip(order, left_out, background):
        # The region is the whole image; below or right of it is padding.
        record = data.records[position]
        height, width = (
            np.array([record.height, record.width]) * SIZE / max(record.height, record.width)
        )
        height, width = min(height, SIZE - 1), min(width, SIZE - 1)
        inside = (np.minimum(ymax, height) - np.maximum(ymin, 0)).clip(0)
        inside *= (np.minimum(xmax, width) - np.maximum(xmin, 0)).clip(0)
        share = inside / ((ymax - ymin) * (xmax - xmin))
        # The size of the resized image is a whole number of pixels.
        sure = np.abs(share - 0.5) > 0.05
        expected = np.where((theirs == -1) & (share >= 0.5), targets.IGNORED, theirs)
        np.testing.assert_array_equal(ours[sure], expected[sure])
        assert sure.mean() > 0.9


def network_boxes(record: Record, boxes: np.ndarray) -> np.ndarray:
    """Boxes in network pixels of an image that is neither flipped nor scaled."""
    size = np.array([record.height, record.width], np.float32)
    scaled_size = np.floor(size * SIZE / size.max())
    return np.clip(boxes * np.tile(scaled_size / size, 2), 0, SIZE - 1).astype(np.float32)


def network_input(record: Record, config: Config):
    pixels = np.asarray(Image.open(record.image))
    image, _ = preprocessing.resize(pixels, (SIZE, SIZE), "pad", config.model.pixel_mean)
    return image


@pytest.mark.parametrize("cache", [False, True])
def test_equal_seeds_give_equal_batches_and_others_do_not(data, config, cache):
    config = config.override({"data.cache": cache})

    def images(seed):
        dataset = training_dataset(data, config, 4, seed=seed).take(4)
        return np.concatenate([batch for batch, _ in dataset])

    first = images(1)
    np.testing.assert_array_equal(first, images(1))
    assert not np.array_equal(first, images(2))
    # Every pass augments differently: no image comes twice in 16 of 7.
    assert len({image.tobytes() for image in first}) == 16


@pytest.mark.parametrize("cache", [False, True])
def test_a_stream_may_begin_where_another_was_left(data, config, cache):
    config = config.override({"data.cache": cache})
    whole = [batch.numpy() for batch, _ in training_dataset(data, config, 3, seed=1).take(6)]
    rest = training_dataset(data, config, 3, seed=1, first_image=12).take(2)
    np.testing.assert_array_equal([batch for batch, _ in rest], whole[4:])


@pytest.mark.parametrize("cache", [False, True])
def test_workers_share_the_batch_of_one(data, config, cache):
    """Two workers of two devices each, with batches of one image per device."""
    config = config.override({"data.cache": cache})
    [whole] = [batch.numpy() for batch, _ in training_dataset(data, config, 4, seed=1).take(1)]
    shares = []
    for index in range(2):
        worker = tf.distribute.InputContext(2, index, num_replicas_in_sync=4)
        share = training_dataset(data, config, 4, seed=1, worker=worker)
        shares += [image.tobytes() for batch, _ in share.take(2) for image in batch.numpy()]
    assert sorted(shares) == sorted(image.tobytes() for image in whole)


def test_the_images_of_a_batch_can_be_told_afterwards(data, config):
    positions = positions_of(data, seed=1, first=10, count=9)
    dataset = training_dataset(data, still(config), 1, seed=1, first_image=10)
    inputs = [network_input(record, config) for record in data.records]
    for position, (images, _) in zip(positions, dataset):
        np.testing.assert_allclose(images[0], inputs[position], atol=1e-3)


@pytest.mark.parametrize("cache", [False, True])
def test_one_pass_sees_every_image_once(data, config, cache):
    config = still(config).override({"data.cache": cache})
    dataset = training_dataset(data, config, 1, repeat=False)
    for _ in range(2):
        seen = {batch.numpy().tobytes() for batch, _ in dataset}
        assert len(seen) == 7


def test_a_batch_larger_than_the_data_is_an_error_unless_repeated(data, config):
    with pytest.raises(DataError, match="^made: 7 images are fewer than a batch of 8$"):
        training_dataset(data, config, 8, repeat=False)
    images, _ = next(iter(training_dataset(data, config, 8)))
    assert images.shape[0] == 8


@pytest.mark.parametrize("workers", [2, 3])
def test_evaluation_is_shared_without_losing_or_doubling(data, config, workers):
    positions, lengths = [], set()
    for index in range(workers):
        worker = tf.distribute.InputContext(workers, index, num_replicas_in_sync=2 * workers)
        batches = list(evaluation_dataset(data, config, 1, worker))
        lengths.add(len(batches))
        positions += [int(about["position"][0]) for _, about in batches]
    # Equally many for each; otherwise workers would wait.
    assert len(lengths) == 1
    assert sorted(position for position in positions if position >= 0) == list(range(7))


def test_evaluation_gives_every_image_once_in_order(data, config):
    batches = list(evaluation_dataset(data, config, 4))
    assert [len(images) for images, _ in batches] == [4, 4]
    about = {key: np.concatenate([about[key] for _, about in batches]) for key in batches[0][1]}
    np.testing.assert_array_equal(about["position"], [*range(7), -1])
    images = np.concatenate([images for images, _ in batches])
    for i, record in enumerate(data.records):
        np.testing.assert_allclose(images[i], network_input(record, config), atol=1e-3)
        assert tuple(about["size"][i]) == (record.height, record.width)
        scale = max(record.height, record.width) / SIZE
        np.testing.assert_allclose(about["scale_to_original"][i], scale, rtol=1e-6)


@pytest.mark.parametrize("cache", [False, True])
def test_a_file_deleted_later_is_skipped(data, config, cache):
    os.remove(data.records[2].image)
    config = still(config).override({"data.cache": cache})
    assert len(list(training_dataset(data, config, 1, repeat=False))) == 6
    [(_, about)] = evaluation_dataset(data, config, 10)
    np.testing.assert_array_equal(about["position"], [0, 1, 3, 4, 5, 6, -1, -1, -1, -1])


@pytest.mark.parametrize("cache", [False, True])
def test_what_is_skipped_is_recorded_and_the_rest_is_as_it_was(data, config, cache):
    config = config.override({"data.cache": cache})
    order = positions_of(data, seed=1, first=3, count=100)
    whole = [batch.numpy() for batch, _ in training_dataset(data, config, 1, seed=1).take(43)][3:]
    os.remove(data.records[6].image)
    Path(data.records[2].image).write_bytes(b"")
    failures = ReadFailures()
    dataset = training_dataset(
        data, config, 1, seed=1, first_image=0 if cache else 3, failures=failures
    )
    images = [batch.numpy() for batch, _ in dataset.take(20)]
    if cache:
        # Once, when it is filled; the last image, too.
        assert failures == ReadFailures(gaps=[(2, 3), (6, 7)])
        return
    gone = [3 + i for i, position in enumerate(order) if position in (2, 6)]
    skipped = [number for first, end in failures.gaps for number in range(first, end)]
    assert skipped == gone[: len(skipped)] and len(skipped) >= 4
    assert (failures.positions, failures.has_ended) == ([], False)
    left = [image for image, position in zip(whole, order) if position not in (2, 6)]
    np.testing.assert_array_equal(images, left[:20])


def test_workers_record_their_own_share(data, config):
    order = positions_of(data, seed=1, first=0, count=40)
    # One that the second worker reads early: the order hangs on TensorFlow's global seed, too.
    broken = order[3]
    os.remove(data.records[broken].image)
    worker = tf.distribute.InputContext(2, 1, num_replicas_in_sync=2)
    failures = ReadFailures()
    dataset = training_dataset(data, config, 2, seed=1, worker=worker, failures=failures)
    assert len(list(dataset.take(10))) == 10
    assert failures.gaps
    for first, end in failures.gaps:
        assert {order[number] for number in range(first, end, 2)} == {broken}
        assert first % 2 == end % 2 == 1


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize("recorded", [False, True])
def test_where_no_image_can_be_read_the_stream_ends(data, config, cache, recorded):
    for record in data.records:
        os.remove(record.image)
    config = config.override({"data.cache": cache})
    failures = ReadFailures() if recorded else None
    with pytest.raises(tf.errors.InvalidArgumentError, match="too many images in a row cannot"):
        next(iter(training_dataset(data, config, 2, failures=failures)))
    if recorded:
        assert failures.has_ended
        [(first, end)] = failures.gaps
        assert (first, end) == (0, 7) if cache else 64 <= end - first <= 64 + 4 * os.cpu_count()


def test_partners_that_cannot_be_read_are_recorded_and_others_take_their_place(data, config):
    """Only one image is readable, in mosaics of four."""
    config = config.override({"augmentation.mosaic": 1.0})
    for record in data.records[1:]:
        os.remove(record.image)
    failures = ReadFailures()
    images = [i.numpy() for i, _ in training_dataset(data, config, 2, failures=failures).take(2)]
    assert np.isfinite(images).all()
    assert set(failures.positions) <= set(range(1, 7)) and len(failures.positions) >= 4


@pytest.mark.parametrize("dataset", [training_dataset, evaluation_dataset])
@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_without_images_is_refused(data, config, dataset, batch_size):
    with pytest.raises(DataError) as error:
        dataset(data, config, batch_size)
    assert str(error.value) == (
        f"batch_size: {batch_size} is below 1; use a whole number from 1 on"
    )


def test_a_file_deleted_later_stops_a_strict_run(data, config):
    os.remove(data.records[2].image)
    config = config.override({"data.strict": True})
    with pytest.raises(tf.errors.NotFoundError, match="2.png"):
        list(training_dataset(data, config, 1, repeat=False))
    with pytest.raises(tf.errors.NotFoundError, match="2.png"):
        list(evaluation_dataset(data, config, 2))


def test_images_may_be_in_memory_and_without_objects(config):
    with_nothing = Record(
        image_id=1,
        image=tf.io.encode_png(np.zeros((10, 10, 3), np.uint8)).numpy(),
        height=10,
        width=10,
        boxes=np.zeros((0, 4), np.float32),
        classes=np.zeros(0, np.int32),
        is_crowd=np.zeros(0, bool),
        area=np.zeros(0, np.float32),
    )
    data = DetectionData([with_nothing], LabelMap((1,), ("thing",)))
    _, maps = next(iter(training_dataset(data, config, 2)))
    np.testing.assert_array_equal(maps["num_positives"], [0, 0])
    assert np.all(maps["class_targets"] == -1) and np.all(maps["box_targets"] == 0)


def test_the_table_knows_whether_any_box_is_ignored(data):
    assert not RecordTable.build(data, ignore_crowd=False).has_ignored
    assert RecordTable.build(data, ignore_crowd=True).has_ignored
    marked = dataclasses.replace(data.records[3], is_ignored=np.array([True, False]))
    with_ignored = dataclasses.replace(data, records=[*data.records[:3], marked])
    assert RecordTable.build(with_ignored, ignore_crowd=False).has_ignored


def test_large_jpeg_files_are_decoded_smaller_with_their_boxes(tmp_path, config):
    y, x = np.mgrid[:603, :1000]
    pixels = np.stack([y * 255 // 603, x * 255 // 1000, (x + y) % 256 // 2 + 60], axis=2)
    records = []
    # PNG files have one size, and a small JPEG is not reduced.
    for name, height in (("a.jpg", 603), ("b.png", 603), ("c.jpg", 200)):
        image = Image.fromarray(pixels[:height].astype(np.uint8))
        image.save(tmp_path / name)
        records.append(
            Record(
                image_id=len(records),
                image=str(tmp_path / name),
                height=height,
                width=1000,
                boxes=np.array([[20, 100, 180, 900]], np.float32),
                classes=np.zeros(1, np.int32),
                is_crowd=np.zeros(1, bool),
                area=np.ones(1, np.float32),
            )
        )
    made = DetectionData(records, LabelMap((1,), ("thing",)))
    table = RecordTable.build(made, False, (2.0 * 64, 2.0 * 64))
    position = tf.constant(0, tf.int64)
    assert table.reductions.numpy().tolist() == [2, 2, 0]
    example = table.example(position, table.read(position))
    assert example.image.shape == (151, 250, 3)
    height = 151 / 603
    np.testing.assert_allclose(example.boxes, [[20 * height, 25, 180 * height, 225]], rtol=1e-6)
    assert table.read(position + 1).shape == (603, 1000, 3)
    np.testing.assert_array_equal(
        table.example(position + 1, table.read(position + 1)).boxes, records[1].boxes
    )
    assert table.read(position + 2).shape == (200, 1000, 3)

    plain = still(config).override({"model.image_size": 64, "model.max_level": 6})
    reduced = plain.override({"data.reduce_jpeg": True})
    one, other = (next(iter(training_dataset(made, c, 3, seed=1))) for c in (plain, reduced))
    # Smoother, but the same in the mean, and the same anchors are assigned.
    assert 0 < np.abs(one[0] - other[0]).mean() < 3
    np.testing.assert_allclose(one[1]["box_targets"], other[1]["box_targets"], atol=0.05)
    np.testing.assert_array_equal(one[1]["class_targets"], other[1]["class_targets"])
