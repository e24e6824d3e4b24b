"""Momentum of BatchNorm as a setting of the training."""

import numpy as np

import tiny
from efficientdet_tf.training import train as run_lib


def _change_of_means(momentum):
    """Return the change of each moving mean in the first step of a training."""
    config = tiny.config(
        **{
            "model.num_classes": 1,
            "model.max_level": 7,
            "training.batch_norm_momentum": momentum,
        }
    )
    run_lib.keras.utils.set_random_seed(0)
    model = run_lib.compiled_model(config, steps=1)
    means = {v.name: v for v in model.weights if v.name.endswith("moving_mean:0")}
    before = {name: variable.numpy() for name, variable in means.items()}
    model.train_step(tiny.object_at_each_position())
    return {name: variable.numpy() - before[name] for name, variable in means.items()}


def test_statistics_keep_the_share_that_is_set():
    published, faster = _change_of_means(0.99), _change_of_means(0.9)
    # Not all: at one position of two images, normalised values and their projections have mean 0.
    changed = {
        name.partition("/")[0] for name, change in published.items() if np.ptp(change) > 1e-4
    }
    assert changed == {"backbone", "extra_levels", "feature_network", "class_head", "box_head"}
    for name, change in published.items():
        np.testing.assert_allclose(10 * change, faster[name], rtol=2e-3, atol=1e-6, err_msg=name)
