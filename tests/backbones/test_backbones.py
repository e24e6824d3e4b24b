"""Contract of the backbones: one row for each."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from cases import few
from efficientdet_tf import model as model_lib
from efficientdet_tf.anchors import feature_sizes
from efficientdet_tf.backbones import BACKBONES, build_backbone
from efficientdet_tf.checkpoints import imagenet
from efficientdet_tf.config import Config
from efficientdet_tf.training import train as run_lib
from efficientdet_tf.training.freezing import freeze

# Name, its trainable parameters without the classifier, its finest level, and the widths of levels
# 3 to 5. The counts of EfficientNets are those of the specification; those of ResNets are the
# library's.
ROWS = [
    ("efficientnet-b0", 3_595_388, 1, (40, 112, 320)),
    ("efficientnet-b3", 10_103_336, 1, (48, 136, 384)),
    ("efficientnet-lite0", 2_958_848, 1, (40, 112, 320)),
    ("efficientnet-lite4", 11_149_568, 1, (56, 160, 448)),
    ("resnet50", 23_534_592, 2, (512, 1024, 2048)),
    ("resnet101", 42_552_832, 2, (512, 1024, 2048)),
]


def layer_kind(name):
    return BACKBONES[name].layer, "lite" in name


def test_every_kind_of_backbone_has_a_row():
    assert {layer_kind(name) for name in BACKBONES} == {layer_kind(row[0]) for row in ROWS}


@pytest.mark.parametrize(
    ("name", "count", "finest", "widths"), few(ROWS, lambda row: row[0] != "resnet101")
)
def test_levels_widths_parameters_and_names(name, count, finest, widths):
    backbone = build_backbone(name)
    outputs = backbone(keras.Input((97, 64, 3)))
    sizes = feature_sizes((97, 64), 5)
    assert {level: tuple(x.shape[1:3]) for level, x in outputs.items()} == {
        level: sizes[level] for level in range(finest, 6)
    }
    assert min(outputs) == BACKBONES[name].min_level
    assert tuple(outputs[level].shape[-1] for level in (3, 4, 5)) == widths
    assert sum(w.shape.num_elements() for w in backbone.trainable_weights) == count
    assert all(weight.name.startswith("backbone/") for weight in backbone.weights)
    copy = keras.layers.deserialize(keras.layers.serialize(backbone))
    assert copy.get_config() == backbone.get_config()
    assert backbone.recompute is False


@pytest.fixture(scope="module")
def resnet():
    """Detector with a ResNet-50, its config, and the library's network of equal weights."""
    keras.utils.set_random_seed(3)
    network = keras.applications.ResNet50(
        include_top=False, weights=None, input_shape=(None, None, 3)
    )
    random = np.random.default_rng(0)
    for weight in network.weights:
        if "/moving_" in weight.name or "/gamma" in weight.name:
            weight.assign(random.uniform(0.5, 1.0, weight.shape))
    config = Config.for_model("efficientdet-lite0").override(
        {
            "model.backbone": "resnet50",
            "model.image_size": "64x96",
            "model.num_classes": 2,
            "model.head_repeats": 1,
            "neck.num_filters": 8,
            "neck.num_repeats": 1,
        }
    )
    return model_lib.build(config), config, network


def test_resnet_gives_what_the_library_gives(resnet, tmp_path):
    model, config, network = resnet
    path = tmp_path / "notop.h5"
    network.save_weights(str(path))
    assert imagenet.load_backbone(model, config.model, str(path)) == 318
    images = np.random.default_rng(1).uniform(0, 255, (1, 64, 96, 3)).astype(np.float32)
    expected = network(keras.applications.resnet50.preprocess_input(images.copy()))
    ours = model.get_layer("backbone")(model.get_layer("pixels")(images))[5]
    assert np.std(expected) > 0
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-3 * np.max(expected))


@pytest.mark.thorough
def test_resnet101_takes_the_weights_of_the_library(tmp_path):
    keras.utils.set_random_seed(4)
    network = keras.applications.ResNet101(
        include_top=False, weights=None, input_shape=(None, None, 3)
    )
    path = tmp_path / "notop.h5"
    network.save_weights(str(path))
    images = keras.Input((32, 32, 3))
    model = keras.Model(images, build_backbone("resnet101")(images))
    config = Config().override({"model.backbone": "resnet101"}).model
    assert imagenet.load_backbone(model, config, str(path)) == 2 * 104 + 4 * 104
    pixels = np.random.default_rng(1).normal(size=(1, 32, 32, 3)).astype(np.float32)
    # The library's network takes BGR.
    expected = network(pixels[..., ::-1])
    assert np.std(expected) > 0
    np.testing.assert_allclose(
        model(pixels)[5], expected, rtol=1e-3, atol=1e-3 * np.max(np.abs(expected))
    )


def test_resnet_weights_of_another_network_are_refused(resnet, tmp_path):
    model, config, _ = resnet
    path = tmp_path / "other.h5"
    keras.applications.MobileNetV2((64, 64, 3), 0.35, False, weights=None).save_weights(str(path))
    with pytest.raises(imagenet.BackboneError) as error:
        imagenet.load_backbone(model, config.model, str(path))
    assert str(error.value).startswith(f"{path}: its weights are not those of resnet50 ")


def test_resnet_recomputes_to_the_same_gradients(resnet):
    backbone = resnet[0].get_layer("backbone")
    images = tf.random.stateless_normal([2, 32, 32, 3], [1, 2])

    def step():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(backbone(images, training=True)[5] ** 2)
        return tape.gradient(loss, backbone.trainable_weights)

    start = backbone.get_weights()
    plain, statistics = step(), backbone.get_weights()
    backbone.set_weights(start)
    backbone.recompute = True
    again = step()
    backbone.recompute = False
    for a, b in zip(again, plain):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * np.max(np.abs(b)))
    for a, b in zip(backbone.get_weights(), statistics):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    backbone.set_weights(start)


def test_resnet_freezes_by_name(resnet):
    model = model_lib.build(resnet[1])
    assert freeze(model, "backbone/conv[12]_.*") == 6 + 60
    frozen = {weight.name for weight in model.non_trainable_weights}
    assert "backbone/conv2_block1_1_conv/kernel:0" in frozen
    assert "backbone/conv3_block1_1_conv/kernel:0" not in frozen


def test_a_detector_with_a_resnet_and_an_fpn_takes_a_training_step(resnet):
    config = resnet[1].override({"neck.name": "fpn", "model.image_size": 64})
    model = run_lib.compiled_model(config, steps=1)
    num_anchors = 9 * (64 + 16 + 4 + 1 + 1)
    targets = {
        "class_targets": tf.zeros([2, num_anchors], tf.int32),
        "box_targets": tf.ones([2, num_anchors, 4]),
        "num_positives": tf.ones([2]),
    }
    before = {weight.name: weight.numpy() for weight in model.trainable_weights}
    logs = model.train_step((tf.random.uniform([2, 64, 64, 3], maxval=255.0), targets))
    assert np.isfinite(logs["loss"]) and logs["gradient_norm"] > 0
    changed = {w.name for w in model.trainable_weights if np.any(w != before[w.name])}
    parts = {name.partition("/")[0] for name in changed}
    assert parts == {"backbone", "extra_levels", "feature_network", "class_head", "box_head"}
