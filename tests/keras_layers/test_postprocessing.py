"""Postprocessing: agreement with the published one, and further properties."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from efficientdet_tf import anchors
from keras_layers import pre_nms
from keras_layers.box_coder import decode
from keras_layers.postprocessing import Postprocessing

IMAGE_SIZE = (512, 512)
CONFIGS = ["hard", "hard_thresh0.3", "gaussian", "gaussian_thresh0.3", "gaussian_top5000"]


@pytest.fixture(scope="module")
def postprocess(goldens):
    with np.load(goldens / "postprocess.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def configs(goldens):
    return json.loads((goldens / "postprocess_configs.json").read_text())


def golden_layer(config, scope, **overrides):
    """Layer with the published implementation's values for None and 0."""
    gaussian = config["method"] == "gaussian"
    settings = dict(
        method=config["method"],
        scope=scope,
        iou_threshold=config["iou_thresh"] or 0.5,
        sigma=config["sigma"] or 0.5,
        score_threshold=config["score_thresh"] or (0.001 if gaussian else 0.0),
        pre_nms_top_k=config["max_nms_inputs"],
        max_detections=config["max_output_size"],
    )
    return Postprocessing(IMAGE_SIZE, **{**settings, **overrides})


def per_axis(scales):
    """Scales of images whose aspect ratio was kept."""
    return tf.tile(tf.constant(scales, tf.float32)[:, None], [1, 2])


def detect(layer, arrays):
    outputs = {k: tf.constant(v) for k, v in arrays.items() if k[:4] in ("cls_", "box_")}
    boxes = anchors.generate(IMAGE_SIZE, 3, 7, 3, (1.0, 2.0, 0.5), 4.0).boxes
    found = tf.function(layer)(outputs, boxes, per_axis(arrays["image_scales"]))
    return {name: value.numpy() for name, value in found.items()}


@pytest.mark.parametrize("scope", ["global", "per_class"])
@pytest.mark.parametrize("name", CONFIGS)
def test_agrees_with_golden(postprocess, configs, scope, name):
    found = detect(golden_layer(configs[name], scope), postprocess)
    golden = {k: postprocess[f"{scope}/{name}/{k}"] for k in ("boxes", "scores", "classes")}
    counts = postprocess[f"{scope}/{name}/valid_len"]
    np.testing.assert_array_equal(found["num_detections"], counts)
    for image, count in enumerate(counts):
        valid = np.s_[image, :count]
        np.testing.assert_array_equal(found["classes"][valid] + 1, golden["classes"][valid])
        np.testing.assert_allclose(found["scores"][valid], golden["scores"][valid], atol=1e-5)
        np.testing.assert_allclose(found["boxes"][valid], golden["boxes"][valid], atol=1e-3)
        for padding in ("boxes", "scores", "classes"):
            assert not found[padding][image, count:].any()


@pytest.mark.parametrize("name", ["hard_thresh0.3", "gaussian_top5000"])
def test_pre_nms_top_k_under_xla_gives_the_same(postprocess, configs, name):
    """With static shapes, as on a TPU; one configuration selects anchors, the other pairs."""
    layer = golden_layer(configs[name], "per_class")
    boxes = anchors.generate(IMAGE_SIZE, 3, 7, 3, (1.0, 2.0, 0.5), 4.0).boxes
    outputs = {k: tf.constant(v) for k, v in postprocess.items() if k[:4] in ("cls_", "box_")}

    @tf.function(jit_compile=True)
    def select(outputs):
        return pre_nms.select(outputs, boxes, layer.pre_nms_top_k)

    scales = per_axis(postprocess["image_scales"])
    found = layer.suppress_candidates(select(outputs), scales)
    for name, expected in detect(layer, postprocess).items():
        np.testing.assert_allclose(found[name], expected, atol=1e-3 if name == "boxes" else 1e-6)


@pytest.mark.parametrize("method", ["hard", "gaussian"])
def test_agrees_with_numpy_golden(postprocess, method):
    """NumPy NMS: per class, of the 5000 best pairs, rows x first, classes from 1."""
    layer = Postprocessing(IMAGE_SIZE, method=method, score_threshold=1e-4)
    found = detect(layer, postprocess)
    # For soft-NMS it counts pixels inclusively (width + 1), which
    # matters for the small boxes of the second image; that is not followed.
    images = (0, 1) if method == "hard" else (0,)
    for image in images:
        rows = postprocess[f"pyfunc/{method}/detections"][image]
        rows = rows[rows[:, 5] > 1e-4]
        valid = np.s_[image, : len(rows)]
        np.testing.assert_array_equal(found["classes"][valid] + 1, rows[:, 6])
        np.testing.assert_allclose(found["scores"][valid], rows[:, 5], atol=1e-5)
        np.testing.assert_allclose(found["boxes"][valid], rows[:, [2, 1, 4, 3]], atol=1e-3)


def random_outputs(seed, batch_size=2, classes=3, spread=2.0, sizes=((8, 8), (4, 4))):
    """Return outputs of two levels of a 64x64 image, one anchor per position, and the anchors."""
    rng = np.random.default_rng(seed)
    outputs, boxes = {}, []
    for level, (height, width) in enumerate(sizes, start=3):
        shape = (batch_size, height, width)
        outputs[f"cls_{level}"] = rng.normal(0, spread, (*shape, classes)).astype(np.float32)
        outputs[f"box_{level}"] = rng.normal(0, 0.1, (*shape, 4)).astype(np.float32)
        centers = rng.uniform(0, 64, (height * width, 2))
        boxes.append(np.concatenate([centers - 5, centers + 5], axis=1).astype(np.float32))
    return {k: tf.constant(v) for k, v in outputs.items()}, np.concatenate(boxes)


def flat_scores(outputs):
    logits = [outputs[k].numpy() for k in sorted(outputs) if k.startswith("cls_")]
    logits = np.concatenate([x.reshape(x.shape[0], -1, x.shape[-1]) for x in logits], axis=1)
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("top_k", [1, 7, 60])
def test_passes_exactly_the_best_pairs_to_nms(top_k):
    outputs, boxes = random_outputs(seed=top_k)
    layer = Postprocessing(
        (64, 64),
        method="hard",
        iou_threshold=1.0,
        score_threshold=0.0,
        pre_nms_top_k=top_k,
        max_detections=100,
    )
    found = layer(outputs, boxes, tf.ones([2, 2]))
    np.testing.assert_array_equal(found["num_detections"], [top_k, top_k])
    for image, scores in enumerate(flat_scores(outputs)):
        best = np.sort(scores.ravel())[::-1][:top_k]
        np.testing.assert_allclose(found["scores"][image, :top_k], best, atol=1e-6)
        classes = np.argsort(-scores.ravel())[:top_k] % 3
        np.testing.assert_array_equal(found["classes"][image, :top_k], classes)


def test_ties_do_not_pass_more_pairs_to_nms():
    outputs, boxes = random_outputs(seed=0, spread=0.0)
    layer = Postprocessing((64, 64), iou_threshold=1.0, sigma=1e9, pre_nms_top_k=20)
    assert layer(outputs, boxes, tf.ones([2, 2]))["num_detections"].numpy().tolist() == [20, 20]


@pytest.mark.parametrize("top_k", [0, 50])
@pytest.mark.parametrize("scope", ["global", "per_class"])
def test_nothing_above_the_threshold_gives_only_padding(scope, top_k):
    outputs, boxes = random_outputs(seed=1)
    layer = Postprocessing((64, 64), scope=scope, score_threshold=0.9999, pre_nms_top_k=top_k)
    found = tf.function(layer)(outputs, boxes, tf.ones([2, 2]))
    assert found["num_detections"].numpy().tolist() == [0, 0]
    assert not any(value.numpy().any() for value in found.values())


def test_scores_are_sorted_and_above_the_threshold():
    outputs, boxes = random_outputs(seed=2)
    found = Postprocessing((64, 64), score_threshold=0.6)(outputs, boxes, tf.ones([2, 2]))
    for scores, count in zip(found["scores"].numpy(), found["num_detections"].numpy()):
        assert 0 < count < len(scores)
        assert (np.diff(scores[:count]) <= 0).all()
        assert scores[count - 1] > 0.6


def test_an_image_does_not_change_its_neighbours():
    outputs, boxes = random_outputs(seed=3, batch_size=3)
    layer = Postprocessing((64, 64))
    scales = per_axis([1.0, 2.0, 0.5])
    together = layer(outputs, boxes, scales)
    alone = layer({k: v[1:2] for k, v in outputs.items()}, boxes, scales[1:2])
    for name in together:
        np.testing.assert_array_equal(together[name][1], alone[name][0])


def test_scales_and_clips_to_the_original_image():
    outputs, boxes = random_outputs(seed=4)
    layer = Postprocessing((64, 64))
    network = layer(outputs, boxes, tf.ones([2, 2]))["boxes"].numpy()
    sizes = np.array([[100, 128], [32, 20]])
    scales = tf.constant([[2.0, 3.0], [0.5, 0.25]])
    clipped = layer(outputs, boxes, scales, sizes)["boxes"].numpy()
    expected = network * np.tile(scales, 2)[:, None]
    np.testing.assert_allclose(layer(outputs, boxes, scales)["boxes"], expected, atol=1e-5)
    assert (expected < 0).any() and (expected > 100).any()
    limits = np.tile(sizes, 2)[:, None]
    np.testing.assert_allclose(clipped, np.clip(expected, 0, limits), atol=1e-5)


@pytest.mark.parametrize("top_k", [0, 50])
@pytest.mark.parametrize("scope", ["global", "per_class"])
@pytest.mark.parametrize("method", ["hard", "gaussian"])
def test_the_anchor_of_a_detection_has_its_box_and_class(method, scope, top_k):
    outputs, boxes = random_outputs(seed=7)
    layer = Postprocessing((64, 64), method, scope, score_threshold=0.01, pre_nms_top_k=top_k)
    plain = layer(outputs, boxes, tf.ones([2, 2]))
    found = layer(outputs, boxes, tf.ones([2, 2]), with_anchors=True)
    assert found.keys() - plain.keys() == {"anchors"}
    for name, value in plain.items():
        np.testing.assert_array_equal(found[name], value)
    deltas = np.concatenate(
        [outputs[f"box_{level}"].numpy().reshape(2, -1, 4) for level in (3, 4)], 1
    )
    for image, count in enumerate(found["num_detections"].numpy()):
        assert count > 20
        sources, classes = found["anchors"][image].numpy(), found["classes"][image].numpy()
        assert not sources[count:].any()
        decoded = decode(deltas[image][sources[:count]], boxes[sources[:count]]).numpy()
        decoded = np.clip(decoded, 0, 64) if scope == "global" else decoded
        np.testing.assert_allclose(found["boxes"][image, :count], decoded, atol=1e-5)
        scores = flat_scores(outputs)[image, sources, classes][:count]
        lowered = found["scores"][image, :count].numpy() / scores
        assert (lowered < 1 + 1e-6).all()
        assert (lowered.min() > 1 - 1e-6) == (method == "hard")
        # A pair of anchor and class is detected once.
        assert len(set(zip(sources[:count], classes[:count]))) == count


def test_global_scope_clips_to_the_network_image_and_per_class_does_not():
    outputs, boxes = random_outputs(seed=5)
    found = {
        scope: Postprocessing((64, 48), scope=scope)(outputs, boxes, tf.ones([2, 2]))[
            "boxes"
        ].numpy()
        for scope in ("global", "per_class")
    }
    assert found["per_class"].min() < 0 and found["per_class"].max() > 64
    assert found["global"].min() == 0
    assert found["global"][..., 2].max() == 64 and found["global"][..., 3].max() == 48


def test_config_round_trip():
    layer = Postprocessing((64, 96), "hard", "global", 0.6, 0.4, 0.2, 300, 20, name="found")
    config = json.loads(json.dumps(keras.layers.serialize(layer)))
    copy = keras.layers.deserialize(config)
    assert copy.get_config() == layer.get_config()
    outputs, boxes = random_outputs(seed=6)
    for name, value in layer(outputs, boxes, tf.ones([2, 2])).items():
        np.testing.assert_array_equal(copy(outputs, boxes, tf.ones([2, 2]))[name], value)


@pytest.mark.parametrize(("field", "value"), [("method", "soft"), ("scope", "all")])
def test_unknown_choice_is_named(field, value):
    with pytest.raises(ValueError, match=f"^{field}: '{value}' is not one of "):
        Postprocessing((64, 64), **{field: value})
