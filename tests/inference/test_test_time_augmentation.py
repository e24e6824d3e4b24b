"""Test-time augmentation and ensembles of detectors."""

import numpy as np
import pytest

from efficientdet_tf.data.image_files import read_image
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.detector import Detector
from efficientdet_tf.inference.box_fusion import weighted_box_fusion
from efficientdet_tf.inference.detections import Detections
from efficientdet_tf.inference.test_time_augmentation import EnsembleError
from efficientdet_tf.inference.views import View


@pytest.fixture(scope="module")
def detector(tiny_run):
    return Detector.load(tiny_run)


@pytest.fixture(scope="module")
def pixels(photograph):
    return read_image(photograph)


def mirrored(found, width):
    ymin, xmin, ymax, xmax = found.boxes.T
    boxes = np.stack([ymin, width - xmax, ymax, width - xmin], axis=1)
    return Detections(boxes, found.scores, found.class_indices)


def assert_same(found, expected):
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.class_indices, expected.class_indices)


def test_the_mirrored_view_of_a_mirrored_image_has_mirrored_boxes(detector, pixels):
    view, width = View(is_mirrored=True), pixels.shape[1]
    [plain] = detector.detect(pixels)
    mirror = np.ascontiguousarray(pixels[:, ::-1])
    found = view.detections(detector.detect(view.images(mirror)), mirror.shape[:2])
    assert len(found) > 10
    assert_same(found, mirrored(plain, width))
    # What both views found does not depend on which is which.
    augmented = detector.augmented(["flip"])
    [one], [other] = augmented.detect(pixels), augmented.detect(mirror)
    assert len(one) == len(other) > 10
    np.testing.assert_allclose(np.sort(one.scores), np.sort(other.scores), rtol=1e-5)


def test_detections_are_those_of_the_views_fused(detector, pixels):
    views = [View(mirror, scale) for scale in (1, 5 / 6, 6 / 5) for mirror in (False, True)]
    sets = [
        view.detections(detector.detect(view.images(pixels), 1), pixels.shape[:2]) for view in views
    ]
    [found] = detector.augmented(["flip", "scale"]).detect(pixels, batch_size=1)
    assert_same(found, weighted_box_fusion(sets))
    assert len(found) > len(sets[0])
    assert (found.boxes >= 0).all() and (found.boxes <= [427, 640, 427, 640]).all()
    assert (np.diff(found.scores) <= 0).all()


def test_batches_of_images_of_other_sizes(detector, pixels):
    images = [pixels, pixels[:300, 100:], pixels[50:, :400]]
    augmented = detector.augmented(["scale"])
    together = augmented.detect(images, batch_size=3)
    for found, image in zip(together, images, strict=True):
        [alone] = augmented.detect(image)
        np.testing.assert_allclose(found.scores[:20], alone.scores[:20], atol=1e-4)
        assert found.boxes.max() <= max(image.shape)


def test_without_views_or_other_models_nothing_is_fused(detector):
    assert detector.augmented([]) is detector
    assert Detector.ensemble({"one": detector}) is detector


def test_an_ensemble_is_that_of_its_models(detector, exported, pixels):
    other = Detector.load(exported / "model.tflite")
    ensemble = Detector.ensemble({"run": detector, "file": other})
    assert ensemble.label_map == detector.label_map
    sets = [one.detect(pixels)[0] for one in (detector, other)]
    [found] = ensemble.detect(pixels)
    expected = weighted_box_fusion(sets)
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-2)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    # Both are the same network.
    assert found.scores[0] == pytest.approx(sets[0].scores[0], abs=1e-3)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (
            LabelMap((3, 900, 7), ("bee", "ant", "Kuh ä")),
            "class 'bee' (id 3) instead of 'ant' (id 900)",
        ),
        (LabelMap((1,), ("ant",)), "the number of classes is 1 instead of the 3"),
    ],
)
def test_other_classes_are_refused(detector, other, difference):
    stranger = Detector(detector._backend, other)
    with pytest.raises(EnsembleError) as error:
        Detector.ensemble({"runs/a": detector, "runs/b": stranger})
    assert str(error.value) == (
        f"runs/b: {difference} of runs/a; an ensemble needs models of the same classes"
    )
