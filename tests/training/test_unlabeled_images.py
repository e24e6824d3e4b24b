"""Images without annotations: how they are found, mixed into batches, and left out of losses."""

import os
from itertools import islice

import numpy as np
import pytest
import tensorflow as tf

import tiny
from efficientdet_tf.data import digits, pipeline
from efficientdet_tf.data.records import DataError
from efficientdet_tf.data.stream_order import Order
from efficientdet_tf.data.stream_share import Share
from efficientdet_tf.data.unlabeled_images import add_unlabeled, find_images
from efficientdet_tf.losses import DetectionLoss
from efficientdet_tf.training import train as run_lib
from efficientdet_tf.training.stream import TrainingStream

DEVICE = tf.distribute.OneDeviceStrategy("/cpu:0")
# Numbers of an anchor in the maps of a level.
MAPS = (("cls", 10), ("box", 4))


def config(**overrides):
    return tiny.config(**{"model.num_classes": 10, "training.batch_size": 4} | overrides)


def mixed_data(unlabeled, **overrides):
    """Return five labelled images, the unlabelled ones, and the config."""
    mixed = config(**{"distillation.teacher": "t", "distillation.unlabeled": unlabeled} | overrides)
    return add_unlabeled(digits.load("train", num_images=5), mixed), mixed


def test_unlabelled_images_are_found_verified_and_counted(unlabeled, tmp_path):
    data, mixed = mixed_data(unlabeled)
    names = [record.name.removeprefix(unlabeled) for record in data.unlabeled.records]
    assert names == ["/00002.jpg", "/00003.jpg", "/00004.jpg", "/00005.jpg", "/more/00001.jpg"]
    assert len(data) == 5 and data.unlabeled.share == 0.5
    broken = f"{unlabeled}/broken.jpg"
    reason = "image file cannot be read; it must be JPEG, PNG, GIF, BMP or WebP"
    assert data.problems == (f"{broken}: {reason}",)
    with pytest.raises(DataError, match=f"^{broken}: {reason}$"):
        add_unlabeled(data, mixed.override({"data.strict": True}))
    assert find_images(f"{unlabeled}/*2.jpg") == [f"{unlabeled}/00002.jpg"]
    assert len(find_images(f"{unlabeled}/**/*1.jpg")) == 1
    suffixes = ".jpg, .jpeg, .png, .gif, .bmp, .webp, .jpe, .jfif, .mpo"
    with pytest.raises(DataError) as error:
        find_images(str(tmp_path))
    assert str(error.value) == (
        f"distillation.unlabeled: {tmp_path}: no images ({suffixes}) in it; use a folder of "
        "images, or a glob pattern"
    )


def test_unlabelled_images_behind_a_link_are_found(unlabeled, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "link").symlink_to(unlabeled)
    found = [name.removeprefix(f"{tmp_path}/images/link") for name in find_images(str(tmp_path))]
    assert found == [name.removeprefix(unlabeled) for name in find_images(unlabeled)]


def test_an_unlabelled_image_of_an_unusable_name_is_excluded(tmp_path):
    """Of an old disk: TensorFlow takes no path that is not UTF-8."""
    tiny.write_coco_file(tmp_path, 2)
    [first, second] = sorted(tmp_path.glob("*.jpg"))
    os.rename(first, os.fsencode(tmp_path) + b"/caf\xe9.jpg")
    data, _ = mixed_data(str(tmp_path))
    assert [record.name for record in data.unlabeled.records] == [str(second)]
    name = f"{tmp_path}/caf\udce9.jpg"
    assert data.problems == (f"image file {name!r} is not valid UTF-8; rename the file",)


@pytest.mark.parametrize("cache", [False, True])
def test_unlabelled_images_fill_their_share_of_a_batch_without_ground_truth(unlabeled, cache):
    settings = {"distillation.unlabeled_share": 0.25, "data.cache": cache}
    data, mixed = mixed_data(unlabeled, **settings)
    batches = list(pipeline.training_dataset(data, mixed, 4, seed=3).take(5))
    pairs = islice(Order(data, Share(3)).positions(), 20)
    order = np.reshape([position for _, position in pairs], [5, 4])
    # Five of each four are labelled: all once in a pass; every unlabelled one is read.
    assert sorted(order[order < 5]) == sorted([*range(5)] * 3)
    assert sorted(order[order >= 5]) == [5, 6, 7, 8, 9]
    loss = DetectionLoss.from_config(mixed)
    shapes = {f"{name}_{3 + i}": [4, 8 >> i, 8 >> i, 9 * n] for i in range(3) for name, n in MAPS}
    outputs = {name: tf.random.stateless_normal(shape, [1, 2]) for name, shape in shapes.items()}
    for (_, targets), positions in zip(batches, order):
        assert sum(positions >= 5) == 1
        ignored = np.all(targets["class_targets"] == -2, axis=1)
        np.testing.assert_array_equal(ignored, positions >= 5)
        assert np.all((targets["num_positives"].numpy() > 0) == (positions < 5))
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            total = loss(targets, outputs)["detection_loss"]
        gradients = tape.gradient(total, outputs)
        for gradient in gradients.values():
            assert not np.any(gradient.numpy()[ignored])
        assert np.any(gradients["cls_3"].numpy()[~ignored])
    # A resumed stream is the same.
    rest = pipeline.training_dataset(data, mixed, 4, seed=3, first_image=8).take(3)
    for (ours, _), (theirs, _) in zip(rest, batches[2:], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_partners_are_of_the_same_kind_and_named(unlabeled):
    data, mixed = mixed_data(unlabeled, **{"augmentation.mosaic": 1.0})
    stream = TrainingStream(data, mixed.override({"training.batch_size": 1}), DEVICE, 0)
    batches, kinds = iter(stream.batches(0)), set()
    for _ in range(4):
        next(batches)
        stream.step_done()
        named = {unlabeled in name for name in stream.images_of_last_step()}
        assert len(named) == 1
        kinds |= named
    assert kinds == {True, False}


def test_an_epoch_is_a_pass_over_the_labelled_images():
    shared = {"distillation.teacher": "t", "distillation.unlabeled": "u"}
    assert run_lib.steps_per_epoch(config(), 40) == 10
    assert run_lib.steps_per_epoch(config(**shared), 40) == 20
    quarter = config(**shared, **{"distillation.unlabeled_share": 0.2})
    assert run_lib.steps_per_epoch(quarter, 16) == 5
