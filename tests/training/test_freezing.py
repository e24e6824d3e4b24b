"""Fine-tuning: frozen layers and scaled backbone steps."""

import numpy as np
import pytest
import tensorflow as tf

import tiny
from efficientdet_tf import anchors
from efficientdet_tf.config import ConfigError
from efficientdet_tf.training import train as run_lib


def _config(**settings):
    return tiny.config(**tiny.EFFICIENTNET | {"model.num_classes": 2} | settings)


def _values(model):
    return {variable.name: variable.numpy() for variable in model.weights}


def _step(config):
    """Return the variables before and after a training step on noise."""
    run_lib.keras.utils.set_random_seed(0)
    model = run_lib.compiled_model(config, steps=1)
    images = tf.random.uniform([2, 64, 64, 3], maxval=255.0)
    num_anchors = len(anchors.from_config(config))
    targets = {
        "class_targets": tf.zeros([2, num_anchors], tf.int32),
        "box_targets": tf.zeros([2, num_anchors, 4]),
        "num_positives": tf.ones([2]),
    }
    before = _values(model)
    model.train_step((images, targets))
    return before, _values(model)


def test_a_frozen_backbone_does_not_change_by_a_bit():
    before, after = _step(_config(**{"model.freeze": "backbone/.*"}))
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    backbone = {name for name in before if name.startswith("backbone/")}
    # Moving statistics, too: BatchNorm is in inference mode.
    assert len(backbone) > 50 and not changed & backbone
    assert any("class_head" in name for name in changed)
    assert any("moving_mean" in name for name in changed)


def test_freezing_a_part_of_the_backbone():
    pattern = "backbone/(stem_.*|block_[0-4]/.*)"
    before, after = _step(_config(**{"model.freeze": pattern}))
    assert np.array_equal(*(v["backbone/block_4/project_bn/gamma:0"] for v in (before, after)))
    assert not np.array_equal(*(v["backbone/block_5/project_bn/gamma:0"] for v in (before, after)))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_backbone_factor_shortens_its_steps(optimizer):
    name = {"optimizer.name": optimizer, "optimizer.warmup_epochs": 0}
    before, whole = _step(_config(**name))
    _, slow = _step(_config(**name, **{"optimizer.backbone_factor": 0.25}))
    stem, head = "backbone/stem_conv/kernel:0", "box_head/predict/pointwise_kernel:0"
    np.testing.assert_array_equal(slow[head], whole[head])
    step = whole[stem] - before[stem]
    assert np.abs(step).max() > 0
    np.testing.assert_allclose(slow[stem] - before[stem], step / 4, atol=1e-7)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            "backbones/.*",
            "model.freeze: no variable matches 'backbones/.*'; "
            "use names such as backbone/stem_conv/kernel",
        ),
        (
            "backbone/.*gamma",
            "model.freeze: 'backbone/.*gamma' matches backbone/stem_bn/gamma, but not "
            "backbone/stem_bn/beta of the same layer; layers are frozen as a whole",
        ),
        (".*", "model.freeze: '.*' leaves nothing to train"),
    ],
)
def test_invalid_patterns_are_refused(pattern, message):
    with pytest.raises(ConfigError) as error:
        run_lib.compiled_model(_config(**{"model.freeze": pattern}), steps=1)
    assert str(error.value) == message


def test_an_empty_pattern_freezes_nothing():
    with pytest.raises(ConfigError, match=r"^model.freeze: '\(' is not a regular expression: "):
        _config(**{"model.freeze": "("})
