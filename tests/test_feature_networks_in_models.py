"""Models with each of the feature networks: built by name, measured, trained, restored."""

import numpy as np
import pytest
import tf_keras as keras

import tiny
from cases import few
from efficientdet_tf import model as model_lib
from efficientdet_tf.checkpoints import imagenet, pretrained
from efficientdet_tf.complexity import measure_parts
from efficientdet_tf.config import ConfigError
from efficientdet_tf.training import optimizers
from efficientdet_tf.training import train as run_lib
from efficientdet_tf.training.freezing import freeze
from keras_layers.feature_network import NETWORKS

# One name of each class.
NAMES = list({place: name for name, place in reversed(NETWORKS.items())}.values())[::-1]
PARTS = {"backbone", "extra_levels", "feature_network", "class_head", "box_head"}


@pytest.mark.parametrize("name", few(NAMES, ("bifpn", "asff", "rfp", "mlfpn").__contains__))
def test_a_model_of_each_network_takes_steps(name, network_config):
    """In float16, where numbers overflow first."""
    config = network_config(name, **{"training.precision": "mixed_float16"})
    model = run_lib.compiled_model(config, steps=2)
    # The loss scale that a training finds by skipping its first steps.
    inner = optimizers.build(config.optimizer, total_steps=2, steps_per_epoch=2, batch_size=2)
    model.optimizer = keras.mixed_precision.LossScaleOptimizer(inner, initial_scale=16)
    before = {weight.name: weight.numpy() for weight in model.trainable_weights}
    logs = [model.train_step(tiny.object_at_each_position()) for _ in range(2)]
    assert all(np.isfinite(log["loss"]) for log in logs)
    assert all(np.all(np.isfinite(weight)) for weight in model.weights)
    changed = {w.name for w in model.trainable_weights if np.any(w != before[w.name])}
    parts = {variable.partition("/")[0] for variable in changed}
    # Extra levels that the network does not read have no weights.
    assert parts | {"extra_levels"} == PARTS


@pytest.mark.parametrize("name", few(NAMES, ("bifpn", "fpn", "rfp").__contains__))
def test_each_part_of_a_model_is_measured(name, network_config):
    model = model_lib.build(network_config(name))
    parts = measure_parts(model)
    assert set(parts) | {"extra_levels"} == PARTS
    assert sum(part.trainable for part in parts.values()) == sum(
        weight.shape.num_elements() for weight in model.trainable_weights
    )
    assert parts["feature_network"].multiply_adds > 0


def test_measured_passes_of_rfp(network_config):
    """A further pass costs backbone, extra levels, base network and feedback."""
    costs = []
    for steps in (1, 2, 3):
        options = {"neck.options": {"steps": steps, "share_backbone": True}}
        costs.append(measure_parts(model_lib.build(network_config("rfp", **options))))
    once, twice, thrice = (parts["feature_network"].multiply_adds for parts in costs)
    repeated = [costs[0][name].multiply_adds for name in ("backbone", "extra_levels")]
    assert thrice - twice == twice - once
    # With 1x1 and 3x3 convolutions of 8 filters at levels 3 to 5, ASPP and others are small.
    assert 1.0 < (twice - once) / (once + sum(repeated)) < 1.3
    assert costs[0]["backbone"] == costs[2]["backbone"]


def test_pretrained_weights_also_initialise_a_second_backbone(network_config):
    config = network_config("rfp", **{"model.backbone_width": 1.0, "model.backbone_depth": 1.0})
    model = model_lib.build(config)
    report = pretrained.load_pretrained(model, config, imagenet.NAME)
    backbone = model.get_layer("backbone")
    [copy] = model.get_layer("feature_network").backbone_copies
    for weight, value in zip(copy.weights, backbone.weights):
        np.testing.assert_array_equal(weight, value)
    assert report.loaded == 2 * len(backbone.weights)


def test_backbone_variable_names_work_with_rfp(network_config):
    model = model_lib.build(network_config("rfp"))
    backbone = model.get_layer("backbone")
    assert freeze(model, "backbone/.*") == len(backbone.weights)
    assert not backbone.trainable_weights
    assert model.get_layer("feature_network").backbone_copies[0].trainable_weights


def test_weights_of_rfp_are_restored(network_config, tmp_path):
    model, copy = (model_lib.build(network_config("rfp")) for _ in range(2))
    model.save_weights(str(tmp_path / "a.weights.h5"))
    copy.load_weights(str(tmp_path / "a.weights.h5"))
    for weight, value in zip(copy.weights, model.weights):
        np.testing.assert_array_equal(weight, value, err_msg=weight.name)


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("fpg", {"neck.num_repeats": 2}, "neck.num_repeats: 2 pathways do not reach level 3; "),
        ("bfp", {"neck.options": {"level": 9}}, "neck.options.level: 9 is not one of 3, 4, 5, "),
        ("attention_fpn", {"neck.options": {}}, "neck.options.context: fpa needs 8x8 positions"),
        ("fpt", {"neck.num_filters": 9}, "neck.num_filters: 9 is no multiple of twice num_parts"),
        ("fpt", {"neck.num_repeats": 3}, "neck.num_repeats: 3 is above 1, and fpt is not"),
        ("mlfpn", {"neck.num_filters": 9}, "neck.num_filters: 9 is odd"),
    ],
)
def test_invalid_settings_of_a_network_are_named(name, changes, expected, network_config):
    with pytest.raises(ConfigError) as error:
        model_lib.build(network_config(name, **changes))
    assert str(error.value).startswith(expected)
    assert "\n" not in str(error.value)
