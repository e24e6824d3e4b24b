"""Mosaic, MixUp and copy-paste: every visible object has its box, and no other."""

import dataclasses
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from efficientdet_tf import targets
from efficientdet_tf.config import Config
from efficientdet_tf.data import augmenting, mixing, pipeline
from efficientdet_tf.data.records import DetectionData, LabelMap, Record

SIZE = (128, 160)
COLOURS = np.array([(250, 0, 0), (0, 250, 0), (0, 0, 250)])


@pytest.fixture
def data(tmp_path) -> DetectionData:
    """Six images of different shapes; the two objects of class c have colour c."""
    records = []
    for i in range(6):
        height, width = 60 + 10 * i, 90
        pixels = np.full((height, width, 3), 100, np.uint8)
        boxes = [[10 + i, 8, 40, 30 + i], [20, 50, 50 + i, 85]]
        for ymin, xmin, ymax, xmax in boxes:
            pixels[ymin:ymax, xmin:xmax] = COLOURS[i % 3]
        path = str(tmp_path / f"{i}.png")
        Image.fromarray(pixels).save(path)
        records.append(
            Record(
                image_id=i,
                image=path,
                height=height,
                width=width,
                boxes=np.array(boxes, np.float32),
                classes=np.array([i % 3] * 2, np.int32),
                is_crowd=np.zeros(2, bool),
                area=np.zeros(2, np.float32),
                name=path,
            )
        )
    return DetectionData(records, LabelMap((1, 2, 3), ("red", "green", "blue")), source="made")


def config_with(**settings) -> Config:
    settings = {"scale_min": 0.8, "scale_max": 1.3, **settings}
    return Config.for_model("efficientdet-lite0").override(
        {"model.image_size": SIZE}
        | {f"augmentation.{name}": value for name, value in settings.items()}
    )


def examples(data, config, count, seed=0):
    dataset = pipeline.training_examples(data, config, seed=seed).take(count)
    return list(dataset.as_numpy_iterator())


def in_colour(image, index) -> np.ndarray:
    return np.abs(image - COLOURS[index]).max(axis=2) < 80


def test_in_a_mosaic_boxes_cover_their_objects_and_all_of_them(data):
    numbers = []
    for example in examples(data, config_with(mosaic=1), 16):
        assert example.image.shape == (*SIZE, 3)
        assert len(example.boxes) == len(example.classes)
        boxes, limit = example.boxes, np.array([*SIZE, *SIZE]) - 1
        assert (boxes >= 0).all() and (boxes <= limit).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        for index in range(3):
            covered = np.zeros(SIZE, bool)
            for ymin, xmin, ymax, xmax in np.rint(boxes[example.classes == index]).astype(int):
                covered[ymin:ymax, xmin:xmax] = True
            seen = in_colour(example.image, index)
            union = (covered | seen).sum()
            if union > 400:
                assert (covered & seen).sum() / union > 0.75
        numbers.append(len(boxes))
    # Of at most eight objects some are cropped away.
    assert max(numbers) <= 8 and np.mean(numbers) > 4


@pytest.mark.parametrize("settings", [{"mosaic": 1}, {"policy": "v0"}, {}], ids=str)
def test_ignored_boxes_go_where_their_objects_go(data, settings):
    """With flip, scale and crop, and steps before and after; ignored objects are green."""
    records = [
        dataclasses.replace(
            record,
            classes=np.where(record.classes == 1, -1, record.classes),
            is_ignored=record.classes == 1,
        )
        for record in data.records
    ]
    ignored = dataclasses.replace(data, records=records)
    config = config_with(**settings)
    places = 0
    for with_class, example in zip(examples(data, config, 12), examples(ignored, config, 12)):
        np.testing.assert_array_equal(example.image, with_class.image)
        np.testing.assert_array_equal(example.boxes, with_class.boxes)
        expected = np.where(with_class.classes == 1, targets.IGNORED, with_class.classes)
        np.testing.assert_array_equal(example.classes, expected)
        places += (expected == targets.IGNORED).sum()
    assert places > 4


def test_a_mosaic_puts_parts_where_their_boxes_are():
    def part(height, width, number):
        return mixing.Example(
            tf.fill([height, width, 3], float(number)),
            tf.tile([[1.0, 2.0, 3.0, 4.0]], [number, 1]),
            tf.fill([number], number),
        )

    whole = mixing.mosaic([part(10, 20, 1), part(10, 30, 0), part(40, 20, 2), part(40, 30, 3)])
    assert whole.image.shape == (50, 50, 3)
    assert [int(whole.image[y, x, 0]) for y, x in ((9, 19), (9, 20), (10, 19), (10, 20))] == [
        *(1, 0),
        *(2, 3),
    ]
    np.testing.assert_array_equal(whole.classes, [1, 2, 2, 3, 3, 3])
    np.testing.assert_array_equal(whole.boxes[0], [1, 2, 3, 4])
    np.testing.assert_array_equal(whole.boxes[1], [11, 2, 13, 4])
    np.testing.assert_array_equal(whole.boxes[5], [11, 22, 13, 24])


def test_a_mix_shows_both_images_and_keeps_the_objects_of_both():
    first = mixing.Example(
        tf.zeros([8, 8, 3]), tf.constant([[1.0, 1, 4, 4]]), tf.constant([2], tf.int32)
    )
    second = mixing.Example(
        tf.fill([8, 8, 3], 200.0), tf.constant([[2.0, 2, 8, 8]] * 2), tf.constant([0, 1], tf.int32)
    )
    shares = []
    for seed in range(50):
        mixed = mixing.mixup(first, second, tf.constant([seed, 0]))
        np.testing.assert_array_equal(mixed.classes, [2, 0, 1])
        np.testing.assert_array_equal(mixed.boxes, [[1, 1, 4, 4], [2, 2, 8, 8], [2, 2, 8, 8]])
        assert np.ptp(mixed.image) == 0
        shares.append(float(mixed.image[0, 0, 0]) / 200)
    assert 0.35 <= min(shares) < 0.4 and 0.6 < max(shares) <= 0.65


def test_mixup_in_the_pipeline_has_the_objects_of_two_images(data):
    still = dict(scale_min=1.0, scale_max=1.0, horizontal_flip=False)
    for example in examples(data, config_with(mixup=1, **still), 12):
        assert example.image.shape == (*SIZE, 3)
        assert len(example.boxes) == len(example.classes) == 4
        # Two of each image, whose objects are of one class.
        assert example.classes[0] == example.classes[1]
        assert example.classes[2] == example.classes[3]


def scene(value, boxes, classes):
    """An image of one grey level, 40 by 60 pixels, with objects."""
    return mixing.Example(
        tf.fill([40, 60, 3], float(value)),
        tf.reshape(tf.constant(boxes, tf.float32), [-1, 4]),
        tf.constant(classes, tf.int32),
    )


def pastes(first, second, count=40):
    """Copy-paste with several seeds, and the positions of the pasted objects in `second`."""
    for seed in range(count):
        mixed = mixing.copy_paste(first, second, tf.constant([seed, 0]))
        np.testing.assert_array_equal(mixed.boxes[: len(first.boxes)], first.boxes)
        np.testing.assert_array_equal(mixed.classes[: len(first.boxes)], first.classes)
        boxes = second.boxes.numpy().tolist()
        pasted = [boxes.index(box.tolist()) for box in mixed.boxes.numpy()[len(first.boxes) :]]
        classes = [int(second.classes[place]) for place in pasted]
        assert mixed.classes[len(first.boxes) :].numpy().tolist() == classes
        yield mixed, pasted


def test_pasted_objects_bring_their_pixels_and_boxes():
    second = scene(200, [[2, 3, 10, 12], [20.5, 30.25, 29, 40]], [1, 2])
    seen = set()
    for mixed, pasted in pastes(scene(50, [], []), second):
        expected = np.full((40, 60, 3), 50.0)
        if 0 in pasted:
            expected[2:10, 3:12] = 200
        if 1 in pasted:
            # To whole pixels outwards.
            expected[20:29, 30:40] = 200
        np.testing.assert_array_equal(mixed.image, expected)
        seen.add(tuple(pasted))
    assert seen == {(), (0,), (1,), (0, 1), (1, 0)}


def test_pasted_boxes_together_cover_little_of_each_object():
    first = scene(50, [[0, 0, 20, 20], [20, 40, 40, 60]], [0, -2])
    # Of the first object 0.25, 0.25 and 0.5; of the second, which is ignored, 0.35 in whole pixels.
    boxes = [
        [0, 0, 10, 10],
        [10, 10, 20, 20],
        [0, 10, 20, 20],
        [33.9, 40, 39.2, 60],
        [0, 30, 9, 40],
    ]
    seen = set()
    for mixed, pasted in pastes(first, scene(200, boxes, [1, 1, 2, 1, 1])):
        covered = (mixed.image[:20, :20, 0].numpy() == 200).mean()
        assert covered <= 0.3 and not {2, 3} & set(pasted)
        seen |= set(pasted)
    assert {4} < seen


def test_objects_that_hold_others_and_ignored_ones_are_not_pasted():
    boxes = [[0, 0, 30, 30], [5, 5, 10, 10], [0, 40, 10, 50], [30, 40, 40, 50]]
    second = scene(200, boxes, [0, 1, -2, 2])
    found = {place for _, pasted in pastes(scene(50, [], []), second) for place in pasted}
    assert found == {1, 3}


def test_copy_paste_in_the_pipeline_shows_pasted_objects_in_their_boxes(data):
    still = dict(scale_min=1.0, scale_max=1.0, horizontal_flip=False)
    # As a run does, for the order of the images.
    tf.random.set_seed(0)
    before = examples(data, config_with(**still), 72)
    numbers = []
    for example, alone in zip(examples(data, config_with(copy_paste=1, **still), 72), before):
        np.testing.assert_array_equal(example.boxes[:2], alone.boxes)
        for box, index in zip(example.boxes[2:], example.classes[2:]):
            ymin, xmin, ymax, xmax = np.rint(box).astype(int)
            assert in_colour(example.image, index)[ymin:ymax, xmin:xmax].mean() > 0.8
        numbers.append(len(example.boxes) - 2)
    assert set(numbers) <= {0, 1, 2} and sum(numbers) >= 3


def test_copy_paste_leaves_the_draws_of_other_steps_as_they_are(data):
    """Where nothing is pasted, the image is the same to the bit."""
    off = examples(data, config_with(mixup=0.5, color=0.5), 16)
    on = examples(data, config_with(mixup=0.5, color=0.5, copy_paste=0.2), 16)
    same = [np.array_equal(a.image, b.image) for a, b in zip(off, on)]
    assert 8 < sum(same) < 16


@pytest.mark.parametrize(("name", "most"), [("mosaic", 2), ("mixup", 2)])
def test_a_probability_is_how_often(data, name, most):
    still = dict(scale_min=1.0, scale_max=1.0, horizontal_flip=False)
    numbers = [len(e.boxes) for e in examples(data, config_with(**{name: 0.5}, **still), 60)]
    mixed = sum(number > most for number in numbers)
    assert 15 < mixed < 45


def test_cached_mosaics_follow_the_seed(data):
    config = config_with(mosaic=1).override({"data.cache": True})
    first, again, other = (examples(data, config, 8, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, again))
    assert not any(np.array_equal(a.image, b.image) for a, b in zip(first, other))
    # Every pass composes them again.
    assert len({example.image.tobytes() for example in first}) == 8


def test_all_together_follow_the_seed(data):
    config = config_with(mosaic=0.5, mixup=0.5, copy_paste=0.5, color=0.5, grid_mask=0.5)
    first, again = examples(data, config, 10, seed=1), examples(data, config, 10, seed=1)
    for example, same in zip(first, again):
        for tensor, same_tensor in zip(example, same):
            np.testing.assert_array_equal(tensor, same_tensor)
        assert len(example.boxes) == len(example.classes)
        assert (example.boxes >= 0).all()
        assert (example.boxes <= np.array([*SIZE, *SIZE]) - 1).all()
    assert len({example.image.tobytes() for example in first}) == 10


def test_batches_have_static_shapes_still(data):
    off, on = (
        pipeline.training_dataset(data, config_with(mosaic=share, mixup=share, copy_paste=share), 4)
        for share in (0, 0.5)
    )
    assert on.element_spec == off.element_spec


def test_a_file_deleted_later_spoils_only_what_it_is_part_of(data):
    os.remove(data.records[0].image)
    config = config_with(mosaic=1)
    dataset = pipeline.training_examples(data, config, repeat=False)
    assert 0 < len(list(dataset)) <= 5
    strict = config.override({"data.strict": True})
    with pytest.raises(tf.errors.NotFoundError, match="0.png"):
        list(pipeline.training_examples(data, strict, repeat=False))


def test_from_a_number_on_a_stream_is_that_without_strong_augmentation(data):
    config, plain = config_with(mosaic=0.5, color=0.5), config_with(color=0.5)

    def batches(config, count, **arguments):
        stream = pipeline.training_dataset(data, config, 2, seed=3, **arguments)
        return list(stream.take(count).as_numpy_iterator())

    strong, plain = batches(config, 4), batches(plain, 4)
    expected = [*strong[:3], plain[3]]
    assert_equal(batches(config, 4, plain_from=6), expected)
    # Wherever it starts.
    assert_equal(batches(config, 2, plain_from=6, first_image=4), expected[2:])
    assert not all(np.array_equal(a[0], b[0]) for a, b in zip(strong[:3], plain[:3]))


def assert_equal(batches, expected):
    for batch, other in zip(batches, expected, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, batch, other)


def test_strong_augmentation_is_all_that_is_not_in_plain_examples():
    example = scene(200, [[2, 3, 10, 12]], [1])
    example = example._replace(image=tf.cast(example.image, tf.uint8))
    strong = dict(policy="rand", mosaic=1, mixup=1, copy_paste=1)
    expected = augmenting.augment_example(
        example, lambda seed: example, config_with(color=0.5), tf.constant([1, 2])
    )
    found = augmenting.augment_example(
        *(example, lambda seed: example, config_with(color=0.5, **strong), tf.constant([1, 2])),
        is_plain=tf.constant(True),
    )
    tf.nest.map_structure(np.testing.assert_array_equal, found, expected)
