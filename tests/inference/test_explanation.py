"""Explanations: the anchor behind a detection, and what contributed to its logit."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tiny
from efficientdet_tf import anchors as anchor_grid
from efficientdet_tf import model as model_lib
from efficientdet_tf.data.preprocessing import resize
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.detector import Detector
from efficientdet_tf.inference import explanation
from efficientdet_tf.inference.explanation import Explainer, Explanation, ExplanationError, explain
from keras_layers.box_coder import decode
from keras_layers.level_maps import by_anchor

LABELS = LabelMap((1, 2), ("cat", "dog"))


def make(config, seed=0):
    """Build an untrained network with scores around 0.3, and its explainer."""
    keras.utils.set_random_seed(seed)
    model = model_lib.build(config)
    for variable in model.get_layer("class_head").variables:
        if "predict/bias" in variable.name:
            variable.assign(np.full(variable.shape, -1.0))
        if "predict/pointwise_kernel" in variable.name:
            variable.assign(30 * variable)
    return model, Explainer(model, config, LABELS)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)


@pytest.fixture(scope="module")
def wide():
    """Network of a smooth activation and a wide input, an image, and its explanations."""
    config = tiny.config(
        **tiny.EFFICIENTNET
        | {
            "model.num_classes": 2,
            "model.activation": "swish",
            "model.image_size": "64x768",
            "model.max_level": 5,
            "neck.name": "fpn",
        }
    )
    model, explainer = make(config)
    pixels = noise(64, 768)
    return model, config, pixels, explainer.explain(pixels, 0.0)


class Logits:
    """Class logits as a function of the inputs of the feature network."""

    def __init__(self, model, pixels):
        self.model = model
        self.features = keras.Model(model.inputs, model.get_layer("extra_levels").output)(
            tf.constant(pixels[None], tf.float32)
        )

    def __call__(self, features, found):
        pyramid = self.model.get_layer("feature_network")(features, training=False)
        maps = self.model.get_layer("class_head")(pyramid, training=False)
        rows = [tf.reshape(maps[level], [-1, 2]) for level in sorted(maps)]
        return float(tf.concat(rows, axis=0)[found.anchor, found.class_index])


@pytest.mark.parametrize("nms", ["hard", "gaussian"])
def test_the_anchor_has_the_box_and_the_logit_of_the_detection(nms):
    config = tiny.config(**{"model.num_classes": 2, "detection.nms": nms})
    model, explainer = make(config)
    pixels = noise(50, 90)
    explained = explainer.explain(pixels, 0.0, max_detections=20)
    [detected] = Detector.from_model(model, config, LABELS).detect(pixels)
    assert len(explained) == 20
    image, scale = resize(tf.constant(pixels), (64, 64), "pad", config.model.pixel_mean)
    logits, deltas = by_anchor(model(image[None], training=False))
    logits = tf.concat(logits, axis=1)[0].numpy()
    boxes = decode(tf.concat(deltas, axis=1)[0], anchor_grid.from_config(config)) * scale[0]
    boxes = np.clip(boxes, 0, [50, 90, 50, 90])
    for rank, found in enumerate(explained):
        np.testing.assert_allclose(found.box, detected.boxes[rank], atol=1e-3)
        assert found.class_index == detected.class_indices[rank]
        assert found.score == pytest.approx(detected.scores[rank], abs=1e-5)
        np.testing.assert_allclose(found.box, boxes[found.anchor], atol=1e-3)
        assert found.logit == pytest.approx(logits[found.anchor, found.class_index], abs=1e-4)
        assert found.score <= 1 / (1 + np.exp(-found.logit)) + 1e-6
    lowered = [1 / (1 + np.exp(-found.logit)) - found.score for found in explained]
    assert (max(lowered) < 1e-6) == (nms == "hard")


def test_contributions_are_the_directional_derivative(wide):
    model, _, pixels, explained = wide
    logits = Logits(model, pixels)
    for found in explained[:3]:
        assert logits(logits.features, found) == pytest.approx(found.logit, abs=1e-4)
        for level, cells in found.contributions.items():
            place = np.unravel_index(np.abs(cells).argmax(), cells.shape)
            for chosen in (np.ones_like(cells), np.zeros_like(cells)):
                chosen[place] = 1.0
                step = [
                    {**logits.features, level: logits.features[level] * (1 + e * chosen[..., None])}
                    for e in (1e-2, -1e-2)
                ]
                slope = (logits(step[0], found) - logits(step[1], found)) / 2e-2
                assert (cells * chosen).sum() == pytest.approx(slope, rel=0.02, abs=2e-3)


def test_what_is_outside_the_receptive_field_contributes_nothing(wide):
    model, _, pixels, explained = wide
    logits = Logits(model, pixels)
    for found in explained[:3]:
        outside = {level: cells == 0 for level, cells in found.contributions.items()}
        assert all(mask.mean() > 0.4 for mask in outside.values())

        def replaced(masks):
            return {
                level: tf.where(masks[level][..., None], 5.0, x)
                for level, x in logits.features.items()
            }

        assert logits(replaced(outside), found) == pytest.approx(found.logit, abs=1e-5)
        inside = {level: ~mask for level, mask in outside.items()}
        assert abs(logits(replaced(inside), found) - found.logit) > 0.1
        # Beyond the neighbours of the cells that contribute, the map is exactly zero.
        columns = np.flatnonzero(inside[5].any(axis=0)) * 32
        far = np.ones(768, bool)
        far[max(0, columns.min() - 32) : columns.max() + 64] = False
        heat_map = found.heat_map()
        assert heat_map.shape == (64, 768) and heat_map.max() > 0
        assert far.any() and not heat_map[:, far].any()


def test_several_detections_have_one_backward_pass_and_the_maps_of_each_alone(wide, monkeypatch):
    model, config, pixels, together = wide
    assert len(together) == explanation.MAX_DETECTIONS
    explainer = Explainer(model, config, LABELS)
    # Three in a pass.
    monkeypatch.setattr(explanation, "_PIXELS_OF_PASS", 3 * 64 * 768 + 1)
    parts = explainer.explain(pixels, 0.0)
    alone = [explainer.explain_box(pixels, found.box, found.class_index) for found in together]
    for found, *others in zip(together, parts, alone, strict=True):
        for other in others:
            assert (other.anchor, other.class_index) == (found.anchor, found.class_index)
            for level, cells in found.contributions.items():
                np.testing.assert_allclose(other.contributions[level], cells, atol=1e-5)
    assert explainer.explain(pixels, 0.9999) == []
    assert explainer.explain_box(pixels, together[0].box, 1 - together[0].class_index) is None
    assert explainer.explain_box(pixels, together[0].box + 30, together[0].class_index) is None


def made(**contributions):
    """Explanation of a 100 x 200 image in an input of 64 x 64 pixels, 32 x 64 of them filled."""
    cells = {
        int(name[1:]): np.zeros((64 >> int(name[1:]),) * 2, np.float32) for name in contributions
    }
    for name, (row, column, value) in contributions.items():
        cells[int(name[1:])][row, column] = value
    return Explanation(
        np.zeros(4, np.float32), 0.5, 0, 0, 0.0, cells, (64, 64), (32, 64), (100, 200)
    )


def test_a_heat_map_is_of_the_image_without_the_padding():
    found = made(P3=(1, 5, 2.0))
    heat_map = found.heat_map()
    assert heat_map.dtype == np.float32 and heat_map.shape == (100, 200)
    # The centre of cell (1, 5) of 8 x 8 pixels, (12, 44), at 3.125 image pixels for each.
    centre = [
        np.average(np.arange(n) + 0.5, weights=heat_map.sum(axis=1 - i))
        for i, n in enumerate(heat_map.shape)
    ]
    np.testing.assert_allclose(centre, [37.5, 137.5], atol=0.5)
    assert found.heat_map((32, 64)).sum() == pytest.approx(2.0, rel=1e-5)
    # Rows from 32 on are padding.
    assert not made(P3=(7, 5, 2.0)).heat_map().any()


def test_a_heat_map_is_the_positive_part_of_the_sum_over_levels():
    assert not made(P3=(1, 5, -2.0)).heat_map().any()
    # Cells of another level have the same weight, over more pixels.
    both = made(P3=(1, 5, 2.0), P4=(0, 2, 2.0)).heat_map((32, 64))
    alone = [made(P3=(1, 5, 2.0)), made(P4=(0, 2, 2.0))]
    np.testing.assert_allclose(both, sum(found.heat_map((32, 64)) for found in alone), atol=1e-6)
    assert alone[0].heat_map((32, 64)).max() > 3 * alone[1].heat_map((32, 64)).max()
    # What speaks for the class and what speaks against it cancel.
    assert not made(P3=(1, 5, 2.0), P4=(0, 2, -50.0)).heat_map((32, 64))[8:16, 40:48].any()


def test_a_network_with_the_backbone_in_it_is_explained_by_its_outputs(network_config):
    config = network_config("rfp")
    _, explainer = make(config)
    first_of_level = np.cumsum([0] + [9 * (64 >> level) ** 2 or 9 for level in range(3, 7)])
    explained = explainer.explain(noise(64, 64), 0.0)
    assert explained
    for found in explained:
        own = 3 + np.searchsorted(first_of_level, found.anchor, side="right") - 1
        assert [level for level, cells in found.contributions.items() if cells.any()] == [own]


def test_a_run_is_explained(tiny_run, photograph):
    found = explain(tiny_run, photograph, max_detections=3)
    assert len(found) == 3
    [detected] = Detector.load(tiny_run).detect(photograph)
    for item, box, score in zip(found, detected.boxes, detected.scores):
        np.testing.assert_allclose(item.box, box, atol=1e-2)
        assert item.score == pytest.approx(score, abs=1e-4)
        assert item.heat_map().shape == (427, 640)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "model.tflite",
            "heat maps need gradients, which only a run has; use the run directory "
            "(with config.yaml)",
        ),
        ("gone", "no such file or folder"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path, name, message):
    (tmp_path / "model.tflite").write_bytes(b"")
    with pytest.raises(ExplanationError) as error:
        Explainer.load(tmp_path / name)
    assert str(error.value) == f"{tmp_path / name}: {message}"
