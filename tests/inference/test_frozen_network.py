"""Networks whose weights are constants."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tiny
from efficientdet_tf import model as model_lib
from efficientdet_tf.inference.frozen_network import freeze_network


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return model_lib.build(tiny.config(**{"model.num_classes": 3}))


def test_outputs_are_those_of_the_model_when_it_was_frozen(model):
    network = freeze_network(model, (64, 64))
    images = tf.random.stateless_uniform([2, 64, 64, 3], [1, 2], 0, 255)
    expected = {name: value.numpy() for name, value in model(images, training=False).items()}
    [bias] = [w for w in model.get_layer("class_head").weights if w.shape == (27,)]
    bias.assign(bias + 1.0)
    found = network(images, training=False)
    assert set(found) == set(expected)
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)


def test_it_cannot_be_trained(model):
    with pytest.raises(ValueError, match="^training: a frozen network cannot be trained$"):
        freeze_network(model, (64, 64))(tf.zeros([1, 64, 64, 3]), training=True)
