"""AutoAugment and RandAugment: boxes stay on their objects, and seeds decide."""

import numpy as np
import pytest
import tensorflow as tf

from cases import few
from efficientdet_tf.boxes import pairwise_overlaps
from efficientdet_tf.config import AugmentationConfig
from efficientdet_tf.data import policies, policy_steps

HEIGHT, WIDTH = 120, 160
BOXES = np.array([[40, 60, 80, 100], [50, 50, 50, 50]], np.float32)
POLICIES = ("v0", "v1", "v2", "v3", "rand")
MOVING = ("Rotate_BBox", "ShearX_BBox", "ShearY_BBox", "TranslateX_BBox", "TranslateY_BBox")
HIDING = ("Cutout", "BBox_Cutout")
IN_BOXES = tuple(name for name in policy_steps.NAMES if name.endswith("_Only_BBoxes"))
OF_PIXELS = tuple(name for name in policy_steps.NAMES if name not in (*MOVING, *HIDING, *IN_BOXES))


def drawn(box=BOXES[0]) -> np.ndarray:
    """Dark image with a filled bright rectangle."""
    image = np.full((HEIGHT, WIDTH, 3), (10, 60, 20), np.uint8)
    ymin, xmin, ymax, xmax = np.asarray(box, int)
    image[ymin:ymax, xmin:xmax] = (250, 40, 240)
    return image


def found(image) -> np.ndarray | None:
    """Box around pixels of more than half brightness in red and blue, if any."""
    bright = (np.asarray(image)[:, :, [0, 2]] > 140).all(2)
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    return np.array([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]) if len(rows) else None


def iou(a, b) -> float:
    return pairwise_overlaps([a], [b])[0].item()


def apply(name, image, boxes, seed, level=6.0, probability=1.0):
    image, boxes = policy_steps.apply(
        name,
        tf.constant(image),
        tf.constant(boxes),
        level=level,
        probability=probability,
        seed=tf.constant([seed, 7]),
    )
    assert image.dtype == tf.uint8
    return image.numpy(), boxes.numpy()


@pytest.mark.parametrize("name", MOVING)
def test_the_box_moves_with_its_object(name):
    rng = np.random.default_rng(0)
    moves = []
    for seed in range(25):
        low = rng.integers(0, (HEIGHT - 60, WIDTH - 60))
        box = np.array([*low, *(low + rng.integers(30, 60, 2))], np.float32)
        image, boxes = apply(name, drawn(box), [box, BOXES[1]], seed, level=rng.uniform(0, 10))
        assert (boxes >= 0).all() and (boxes <= [HEIGHT, WIDTH, HEIGHT, WIDTH]).all()
        # Empty boxes stay empty.
        np.testing.assert_array_equal(boxes[1, :2], boxes[1, 2:])
        if (boxes[0, 2:] - boxes[0, :2] < 8).any():
            # At most a sliver remains.
            seen = found(image)
            assert seen is None or (seen[2:] - seen[:2]).min() <= 9
            continue
        assert iou(found(image), boxes[0]) > 0.85, (name, seed)
        moves.append(np.sign(np.round(boxes[0] - box)))
    assert len(moves) > 12
    # In both directions.
    assert np.min(moves) == -1 and np.max(moves) == 1


def test_a_box_that_has_left_the_image_is_no_box_any_more():
    box = np.array([[10, 130, 30, 155]], np.float32)
    for seed in range(10):
        _, boxes = apply("TranslateX_BBox", drawn(box[0]), box, seed, level=10)
        # 250 pixels of 640 are 62 here.
        if boxes[0, 1] > 100:
            np.testing.assert_array_equal(boxes[0, :2], boxes[0, 2:])
            return
    pytest.fail("never moved to the right")


@pytest.mark.parametrize("name", OF_PIXELS)
def test_changes_of_pixels_keep_shapes_and_boxes(name):
    image, boxes = apply(name, drawn(), BOXES, 0)
    np.testing.assert_array_equal(boxes, BOXES)
    # Inside the object and outside of it there is one colour each, as before.
    assert np.ptp(image[42:78, 62:98], axis=(0, 1)).max() == 0
    assert np.ptp(image[:38], axis=(0, 1)).max() == 0
    if name not in ("Solarize", "Posterize"):
        assert (image[60, 80].astype(int) != image[10, 10]).any()


@pytest.mark.parametrize("level", [0, 10])
@pytest.mark.parametrize("name", policy_steps.NAMES)
def test_the_ends_of_the_scale_work(name, level):
    image, boxes = apply(name, drawn(), BOXES, 1, level=level)
    assert image.shape == (HEIGHT, WIDTH, 3) and boxes.shape == (2, 4)
    tiny, boxes = apply(name, drawn()[:1, :2], np.array([[0, 0, 1, 2]], np.float32), 1, level=level)
    assert tiny.shape == (1, 2, 3) and np.isfinite(boxes).all()
    image, boxes = apply(name, drawn(), np.zeros((0, 4), np.float32), 1, level=level)
    assert image.shape == (HEIGHT, WIDTH, 3) and boxes.shape == (0, 4)


@pytest.mark.parametrize("name", IN_BOXES)
def test_what_changes_in_boxes_changes_nothing_else(name):
    image = np.random.default_rng(0).integers(0, 200, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    changes = 0
    for seed in range(60):
        changed, boxes = apply(name, image, BOXES, seed)
        np.testing.assert_array_equal(boxes, BOXES)
        inside = np.zeros((HEIGHT, WIDTH, 1), bool)
        inside[40:80, 60:100] = True
        np.testing.assert_array_equal(changed[~inside[:, :, 0]], image[~inside[:, :, 0]])
        changes += int(not np.array_equal(changed, image))
    # A third of the boxes.
    assert 8 < changes < 35


def test_half_of_a_small_object_stays_in_its_box():
    box = np.array([[40, 60, 50, 70]], np.float32)
    heights = []
    for seed in range(30):
        image, _ = apply("TranslateY_Only_BBoxes", drawn(box[0]), box, seed, level=10)
        seen = found(image)
        heights.append(seen[2] - seen[0])
    assert set(heights) == {5, 10}


@pytest.mark.parametrize("name", HIDING)
def test_what_hides_keeps_boxes(name):
    for seed in range(10):
        image, boxes = apply(name, drawn(), BOXES[:1], seed)
        np.testing.assert_array_equal(boxes, BOXES[:1])
        hidden = (image == 128).all(2)
        assert hidden.any()
        np.testing.assert_array_equal(image[~hidden], drawn()[~hidden])
        if name == "BBox_Cutout":
            # 0.6 of 0.75 of each side, of which half may be outside.
            assert hidden.sum() <= (0.45 * 40 + 1) ** 2
            assert found(image) is not None


def test_a_probability_is_how_often():
    count = 0
    for seed in range(200):
        image, _ = apply("Invert", drawn(), BOXES, seed, probability=0.3)
        count += int(image[0, 0, 0] != 10)
    assert 40 < count < 80


@pytest.mark.parametrize("policy", few(POLICIES, ("v0", "rand").__contains__))
def test_a_policy_follows_its_seed_and_keeps_boxes_in_the_image(policy):
    settings = AugmentationConfig(policy=policy)

    def element(number, seed):
        # Sizes are unknown to the graph, as for files.
        image = tf.slice(tf.constant(drawn()), [0, 0, 0], tf.stack([HEIGHT - number, WIDTH, 3]))
        return policies.distort(image, tf.constant(BOXES), settings, tf.stack([number, seed]))

    # All in one graph, which takes longer to build than to run.
    numbers, seeds = np.int32([*range(24)] * 3), np.repeat(np.int32([1, 1, 2]), 24)
    dataset = tf.data.Dataset.from_tensor_slices((numbers, seeds))
    results = list(dataset.map(element, num_parallel_calls=2).as_numpy_iterator())
    first, again, other = results[:24], results[24:48], results[48:]
    for number, ((image, boxes), (same_image, same_boxes)) in enumerate(zip(first, again)):
        np.testing.assert_array_equal(image, same_image)
        np.testing.assert_array_equal(boxes, same_boxes)
        height = HEIGHT - number
        assert image.shape == (height, WIDTH, 3) and boxes.shape == (2, 4)
        assert (boxes >= 0).all() and (boxes <= [height, WIDTH, height, WIDTH]).all()
        assert (boxes[:, 2:] >= boxes[:, :2]).all()
    assert any(not np.array_equal(a, b) for (a, _), (b, _) in zip(first, other))
    # Some images are unchanged, but not most.
    unchanged = sum(np.array_equal(image, drawn()[: len(image)]) for image, _ in first)
    assert unchanged < 18


@pytest.mark.parametrize(("name", "sequences"), [("v0", 5), ("v1", 20), ("v2", 15), ("v3", 15)])
def test_the_published_policies_are_complete(name, sequences):
    policy = policies.AUTO_AUGMENT[name]
    assert len(policy) == sequences
    for step, probability, level in (item for sequence in policy for item in sequence):
        assert step in policy_steps.NAMES
        assert 0 <= probability <= 1 and 0 <= level <= policy_steps.MAX_LEVEL
