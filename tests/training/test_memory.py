"""Memory estimate of a training step from its graph, and its message."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from efficientdet_tf.config import Config
from efficientdet_tf.training import memory, saved_tensors
from efficientdet_tf.training import train as run_lib

SMALL = {
    "model.image_size": 64,
    "neck.num_filters": 16,
    "neck.num_repeats": 1,
    "model.head_repeats": 1,
    "model.backbone_depth": 0.1,
    "model.num_classes": 3,
    "training.batch_size": 4,
}


def config(**overrides) -> Config:
    return Config.for_model("efficientdet-d0", **SMALL).override(overrides)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return run_lib.compiled_model(config(), steps=1)


def traced_loss(network: keras.Model, shape) -> tf.Graph:
    def loss(x):
        return tf.add_n(
            [tf.reduce_sum(tf.square(y)) for y in tf.nest.flatten(network(x, training=True))]
        )

    return tf.function(loss, autograph=False).get_concrete_function(tf.TensorSpec(shape)).graph


def test_saved_tensors_of_a_known_network():
    keras.utils.set_random_seed(0)
    images = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="first")(images)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Activation("swish", name="swish")(x)
    x = keras.layers.Reshape((36, 4), name="reshape")(x)
    network = keras.Model(images, keras.layers.Dense(2, name="second")(x))
    graph = traced_loss(network, (5, 8, 8, 3))
    variables = network.trainable_variables
    tensors = saved_tensors.find_saved_tensors(graph, graph.outputs[0], variables).tensors
    kept = {(t.op.type, tuple(t.shape)) for t in tensors if t.shape.num_elements()}
    image = (5, 6, 6, 4)
    assert kept == {
        # BatchNorm's input, its result, which is swish's argument, and the mean and
        # the variance of the batch.
        ("BiasAdd", image),
        ("FusedBatchNormV3", image),
        ("FusedBatchNormV3", (4,)),
        # The second layer's input, flat and not, is one tensor.
        ("Mul", image),
        # Argument of the square.
        ("BiasAdd", (5, 36, 2)),
    }


@pytest.mark.parametrize("recompute", [False, True])
def test_saved_tensors_are_those_that_the_gradient_reads(model, recompute):
    def step(images, forward_size):
        with tf.GradientTape() as tape:
            outputs = model(images, training=True)
            loss = tf.add_n([tf.reduce_sum(tf.square(y)) for y in outputs.values()])
        forward_size.append(len(loss.graph.get_operations()))
        return loss, tape.gradient(loss, model.trainable_variables)

    model.get_layer("backbone").recompute = recompute
    try:
        spec, forward_size = tf.TensorSpec((4, 64, 64, 3)), []
        whole = tf.function(lambda x: step(x, forward_size), autograph=False)
        operations = whole.get_concrete_function(spec).graph.get_operations()
        graph = traced_loss(model, spec.shape)
    finally:
        model.get_layer("backbone").recompute = False
    forward, backward = operations[: forward_size[0]], operations[forward_size[0] :]
    made = {tensor.name for op in forward for tensor in op.outputs}
    read = {}
    for op in backward:
        if op.type not in ("Shape", "NoOp"):
            for tensor in op.inputs:
                buffer = saved_tensors.buffer_of(tensor)
                if tensor.name in made and buffer.op.type not in saved_tensors.GIVEN:
                    read[buffer.name] = memory.size_of([buffer])
    variables = model.trainable_variables
    found = saved_tensors.find_saved_tensors(graph, graph.outputs[0], variables).tensors
    assert sum(read.values()) > 1e6
    assert memory.size_of(found) == pytest.approx(sum(read.values()), rel=0.04)


def test_the_settings_of_the_warning_reduce_memory(model):
    whole = memory.estimate(model, config())
    half = memory.estimate(model, config(**{"training.batch_size": 2}))
    parts = memory.estimate(model, config(**{"training.gradient_accumulation_steps": 2}))
    assert half.activations == pytest.approx(whole.activations / 2, rel=0.01)
    assert parts.activations == half.activations and parts.batches == whole.batches
    other = config(**{"training.gradient_checkpointing": True})
    less = memory.estimate(run_lib.compiled_model(other, 1), other)
    assert less.activations < 0.7 * whole.activations
    other = config(**{"training.precision": "mixed_bfloat16"})
    less = memory.estimate(run_lib.compiled_model(other, 1), other)
    assert less.activations < 0.75 * whole.activations and less.weights == whole.weights


def test_weights_gradients_and_slots_are_counted(model):
    trainable = sum(4 * np.prod(v.shape) for v in model.trainable_variables)
    weights = sum(4 * np.prod(v.shape) for v in model.variables)
    # Gradients, clipped gradients, and optimizer slots.
    for name, slots in (("sgd", 1), ("adam", 2)):
        needed = memory.estimate(model, config(**{"optimizer.name": name}))
        assert needed.optimizer == (2 + slots) * trainable
        assert needed.weights == 2 * weights
    bare = config(**{"optimizer.ema_decay": 0, "optimizer.clip_norm": 0})
    needed = memory.estimate(model, bare)
    assert needed.weights == weights and needed.optimizer == 2 * trainable
    # Three batches of images and targets.
    assert 3 * 4 * 64 * 64 * 3 * 4 < needed.batches < 4 * 4 * 64 * 64 * 3 * 4
    assert needed.total == sum(dataclasses.astuple(needed))


def test_the_estimate_is_one_line(model):
    line = memory.describe(model, config())
    assert line.startswith("memory: about 0.") and " for batches of 4 (activations 0." in line
    assert line.endswith("GB are available")


def test_the_line_warns_of_too_little_memory(model):
    line = memory.describe(model, config(**{"training.batch_size": 10_000_000}))
    assert line.startswith("warning: memory: about ")
    assert "training.gradient_checkpointing=true" in line and "\n" not in line
