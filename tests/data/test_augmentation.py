"""Augmentation keeps boxes on their objects."""

import numpy as np
import pytest
import tensorflow as tf

from efficientdet_tf.config import AugmentationConfig, Config
from efficientdet_tf.data import augmentation, augmenting, preprocessing

SIZE = (96, 128)


def drawn(height: int, width: int, box) -> np.ndarray:
    """Dark image with a filled bright rectangle."""
    image = np.full((height, width, 3), 10, np.uint8)
    ymin, xmin, ymax, xmax = box
    image[ymin:ymax, xmin:xmax] = (250, 40, 250)
    return image


def found(image: np.ndarray) -> np.ndarray:
    """Box around pixels of more than half brightness in red."""
    bright = np.asarray(image)[:, :, 0] > 130
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    return np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])


def test_flip_mirrors_image_and_boxes_in_half_of_the_cases():
    box = np.array([[5, 10, 25, 40]], np.float32)
    image = drawn(60, 70, box[0].astype(int))
    flips = 0
    for seed in range(100):
        flipped, boxes = augmentation.random_flip(image, box, [seed, 0])
        np.testing.assert_array_equal(found(flipped), boxes[0])
        flips += int(boxes[0, 1] == 30)
    assert 30 < flips < 70


@pytest.mark.parametrize("scale_range", [(0.1, 2.0), (1.0, 1.0), (0.3, 0.5), (1.5, 3.0)])
def test_jitter_keeps_the_box_on_its_object(scale_range):
    rng = np.random.default_rng(0)
    seen = 0
    for seed in range(60):
        height, width = rng.integers(40, 200, 2)
        ymin, xmin = rng.integers(0, height // 2), rng.integers(0, width // 2)
        box = [ymin, xmin, ymin + height // 3, xmin + width // 3]
        image = drawn(height, width, box)
        boxes = np.array([box, [0, 0, 1, 0]], np.float32)
        jittered, moved, kept = augmentation.random_scale_and_crop(
            image, boxes, SIZE, scale_range, [seed, 1]
        )
        assert jittered.shape[0] <= SIZE[0] and jittered.shape[1] <= SIZE[1]
        np.testing.assert_array_equal(kept, np.arange(len(moved)))
        if len(moved) and np.min(moved[0, 2:] - moved[0, :2]) > 3:
            # The object's edge is blurred over the pixels of the original.
            blur = max(1.6, 0.6 * scale_range[1] * min(SIZE[0] / height, SIZE[1] / width))
            np.testing.assert_allclose(found(jittered), moved[0], atol=blur)
            seen += 1
    assert seen > 30


def test_jitter_covers_its_range_of_scales():
    image = np.zeros((96, 128, 3), np.uint8)
    box = np.array([[0, 0, 96, 128]], np.float32)
    heights = []
    for seed in range(200):
        jittered, _, _ = augmentation.random_scale_and_crop(image, box, SIZE, (0.1, 2.0), [seed, 2])
        heights.append(jittered.shape[0])
    assert min(heights) < 0.15 * 96
    # Half of the range of factors is above 1.05: those images fill the input.
    assert 0.35 < np.mean(np.array(heights) == 96) < 0.65


def test_crops_reach_every_part_of_the_image():
    x = np.broadcast_to(np.arange(200, dtype=np.float32), (100, 200))
    image = np.stack([x] * 3, axis=-1)
    boxes = np.zeros((0, 4), np.float32)
    crops = [
        augmentation.random_scale_and_crop(image, boxes, (50, 100), (2, 2), [seed, 3])[0]
        for seed in range(200)
    ]
    firsts = [crop[0, 0, 0] for crop in crops]
    # The crop is 100 wide, so that it may start at 0 to 100.
    assert min(firsts) < 5 and max(firsts) > 95 and max(firsts) <= 101


def test_without_jitter_training_sees_what_evaluation_sees():
    config = Config.for_model("efficientdet-lite0").override(
        {
            "model.image_size": [96, 128],
            "augmentation.horizontal_flip": False,
            "augmentation.scale_min": 1.0,
            "augmentation.scale_max": 1.0,
        }
    )
    image = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    boxes = np.array([[3, 4, 40, 50]], np.float32)
    augmented, moved, _ = augmenting.augment(image, boxes, config, tf.constant([0, 0]))
    resized, _ = preprocessing.resize(image, (96, 128), "pad", config.model.pixel_mean)
    np.testing.assert_array_equal(augmented, resized)
    np.testing.assert_allclose(moved, boxes * 2)


def test_what_is_off_by_default_changes_nothing():
    config = Config.for_model("efficientdet-lite0").override({"model.image_size": SIZE})
    assert config.augmentation == AugmentationConfig()
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)
    boxes = np.array([[3, 4, 40, 50]], np.float32)
    for number in range(10):
        seed = tf.constant([number, 0])
        flip_seed, scale_seed = tf.unstack(tf.random.split(seed))
        flipped, moved = augmentation.random_flip(image, boxes, flip_seed)
        scaled, moved, _ = augmentation.random_scale_and_crop(
            flipped, moved, SIZE, (0.1, 2.0), scale_seed
        )
        expected = preprocessing.pad(scaled, SIZE, config.model.pixel_mean)
        augmented, augmented_boxes, _ = augmenting.augment(image, boxes, config, seed)
        np.testing.assert_array_equal(augmented, expected)
        np.testing.assert_array_equal(augmented_boxes, moved)


@pytest.mark.parametrize("setting", [("policy", "v0"), ("color", 0.5)])
def test_flip_and_scale_are_the_same_with_and_without_the_others(setting):
    name, value = setting
    config = Config.for_model("efficientdet-lite0").override({"model.image_size": SIZE})
    other = config.override({f"augmentation.{name}": value})
    image = drawn(60, 80, [20, 30, 40, 60])
    boxes = np.array([[20, 30, 40, 60]], np.float32)
    equal = 0
    for number in range(20):
        results = [
            augmenting.augment(image, boxes, c, tf.constant([number, 0])) for c in (config, other)
        ]
        equal += int(np.array_equal(results[0][1], results[1][1]))
    # Some of the policy's steps move boxes.
    assert equal == 20 if name == "color" else 5 < equal < 20


def test_color_keeps_the_object_and_the_scale():
    box = [20, 30, 40, 60]
    image = drawn(60, 80, box).astype(np.float32)
    seen = []
    for number in range(30):
        changed = augmentation.random_color(image, 1.0, tf.constant([number, 0])).numpy()
        assert changed.shape == image.shape and changed.dtype == np.float32
        assert changed.min() >= 0 and changed.max() <= 255.001
        # One colour in the object, one outside of it.
        assert np.ptp(changed[21:39, 31:59], axis=(0, 1)).max() < 0.01
        assert np.ptp(changed[:20], axis=(0, 1)).max() < 0.01
        seen.append(changed[30, 40])
    assert np.ptp(seen, axis=0).min() > 50
    np.testing.assert_allclose(
        augmentation.random_color(image, 0.0, tf.constant([1, 0])), image, atol=0.01
    )


def test_grid_mask_hides_a_quarter_in_pieces():
    image = np.full((200, 300, 3), 255, np.float32)
    shares = []
    for number in range(40):
        seed = tf.constant([number, 0])
        masked = np.asarray(augmentation.random_grid_mask(image, 0.5, (1, 2, 3), seed))
        hidden = (masked == (1, 2, 3)).all(2)
        np.testing.assert_array_equal(masked[~hidden], 255)
        shares.append(hidden.mean())
    masked = [share for share in shares if share]
    assert 10 < len(masked) < 30
    assert min(masked) > 0.15 and max(masked) < 0.35
    assert np.mean(masked) == pytest.approx(0.25, abs=0.02)
