"""The training step in parts, in other precisions, and compiled: the same step."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tiny
from efficientdet_tf.data import digits, pipeline
from efficientdet_tf.training import accumulation
from efficientdet_tf.training import train as run_lib

CONFIG = tiny.config(
    **{
        "model.num_classes": 10,
        "model.backbone_survival_prob": 1.0,
        "optimizer.warmup_epochs": 0,
        "training.batch_size": 4,
        "training.epochs": 1,
    }
)


@pytest.fixture(scope="module")
def batch():
    data = digits.load("train", num_images=4)
    [batch] = pipeline.training_dataset(data, CONFIG, 4).take(1)
    return batch


def one_step(batch, **overrides):
    """The losses of a step from equal weights, and the model after it."""
    keras.utils.set_random_seed(0)
    model = run_lib.compiled_model(CONFIG.override(overrides), steps=10)
    losses = model.train_on_batch(*batch, return_dict=True)
    return losses, model


@pytest.fixture(scope="module")
def plain(batch):
    return one_step(batch)


def close(one, other, tolerance):
    for name, value in one.items():
        assert value == pytest.approx(other[name], rel=tolerance), name


def test_a_batch_in_parts_is_the_whole_but_for_batch_norm(batch):
    frozen = {"model.freeze": "(.*/)?[a-z_0-9]*bn[a-z_0-9]*/.*"}
    whole, model = one_step(batch, **frozen)
    in_parts, other = one_step(batch, **frozen, **{"training.gradient_accumulation_steps": 2})
    close(in_parts, whole, 1e-5)
    for ours, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    # BatchNorm sees the parts: with it, the losses are near, and not the same.
    seen_in_parts, _ = one_step(batch, **{"training.gradient_accumulation_steps": 2})
    assert seen_in_parts["l2_loss"] == pytest.approx(whole["l2_loss"], rel=1e-6)
    assert seen_in_parts["loss"] != whole["loss"]


@pytest.mark.parametrize("sum_up", [accumulation._looped, accumulation._unrolled])
def test_the_sum_over_parts_in_a_loop_and_without(sum_up):
    """Both of them compute one part after another; replicas cannot meet in a loop."""
    seen = tf.Variable(tf.zeros([3], tf.int32))

    def of_part(index):
        seen.scatter_update(tf.IndexedSlices([tf.reduce_sum(seen) + 1], [index]))
        return {"sum": tf.cast(index, tf.float32) * tf.ones([2]), "count": tf.constant(1)}

    total = tf.function(lambda: sum_up(of_part, 3))()
    np.testing.assert_array_equal(total["sum"], [3, 3])
    assert total["count"] == 3
    np.testing.assert_array_equal(seen, [1, 2, 4])


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(plain, batch, precision):
    expected, _ = plain
    losses, model = one_step(batch, **{"training.precision": precision})
    # A bfloat16 has 8 bits.
    close({name: losses[name] for name in ("loss", "class_loss")}, expected, 0.02)
    block = model.get_layer("backbone").blocks[0]
    assert block.compute_dtype == precision.removeprefix("mixed_")
    assert {variable.dtype for variable in model.trainable_variables} == {tf.float32}
    assert all(output.dtype == tf.float32 for output in model.outputs)
    assert isinstance(model.optimizer, keras.mixed_precision.LossScaleOptimizer) == (
        precision == "mixed_float16"
    )
    # The next model is not touched by it.
    assert keras.mixed_precision.global_policy().name == "float32"


def test_a_step_whose_gradients_overflow_changes_no_weight(batch):
    """As the first steps do, until a scale is found that fits."""
    model = run_lib.compiled_model(
        CONFIG.override({"training.precision": "mixed_float16"}), steps=10
    )
    optimizer = keras.mixed_precision.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=2.0**100
    )
    model.compile(optimizer, model.detection_loss)
    before = [variable.numpy() for variable in model.trainable_variables]
    losses = model.train_on_batch(*batch, return_dict=True)
    assert np.isfinite(losses["loss"]) and losses["gradient_norm"] == 0
    for ours, theirs in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # It counts: the schedule and the numbers of checkpoints go on.
    assert int(optimizer.iterations) == 1
    assert float(optimizer.loss_scale) == 2.0**99


def test_compiled_by_xla_it_is_the_same_step(plain, batch):
    expected, model = plain
    losses, compiled = one_step(batch, **{"training.xla": True})
    close(losses, expected, 1e-4)
    for ours, theirs in zip(compiled.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
