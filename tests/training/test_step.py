"""Training step with gradient accumulation, mixed precision and XLA."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tiny
from efficientdet_tf.data import digits, pipeline
from efficientdet_tf.training import accumulation
from efficientdet_tf.training import train as run_lib
from efficientdet_tf.training.detection_model import EfficientDet

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
    """Run a step from equal weights; return its losses and the model."""
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


def test_micro_batches_give_the_step_of_the_batch_except_batch_norm(batch):
    frozen = {"model.freeze": "(.*/)?[a-z_0-9]*bn[a-z_0-9]*/.*"}
    whole, model = one_step(batch, **frozen)
    in_parts, other = one_step(batch, **frozen, **{"training.gradient_accumulation_steps": 2})
    close(in_parts, whole, 1e-5)
    for ours, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("sum_up", [accumulation._sum_in_loop, accumulation._sum_unrolled])
def test_micro_batches_are_summed_in_a_loop_or_unrolled(sum_up):
    """Both compute micro-batches sequentially; replicas cannot synchronise in a loop."""
    seen = tf.Variable(tf.zeros([3], tf.int32))

    def compute_micro_batch(index):
        seen.scatter_update(tf.IndexedSlices([tf.reduce_sum(seen) + 1], [index]))
        return {"sum": tf.cast(index, tf.float32) * tf.ones([2]), "count": tf.constant(1)}

    total = tf.function(lambda: sum_up(compute_micro_batch, 3))()
    np.testing.assert_array_equal(total["sum"], [3, 3])
    assert total["count"] == 3
    np.testing.assert_array_equal(seen, [1, 2, 4])


@pytest.mark.parametrize("size", [3, None])
def test_a_batch_that_has_no_equal_micro_batches(size):
    """As the last one of a data set of the user's own; of a size that the graph knows, or not."""

    @tf.function(input_signature=[tf.TensorSpec([size, 2])], autograph=False)
    def total(batch):
        return accumulation.sum_over_micro_batches(
            lambda index, part: tf.reduce_sum(part), batch, 2
        )

    if size is None:
        assert total(tf.ones([4, 2])) == 8
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)) as error:
        total(tf.ones([3, 2]))
    text = str(error.value).replace("[", "").replace("]", "")
    assert (
        "batch of 3 images: cannot be divided into 2 micro-batches (gradient_accumulation_steps); "
        "batch the data set with drop_remainder=True and a multiple of it"
    ) in text


@pytest.mark.parametrize("scaled", [False, True])
def test_a_legacy_optimizer_of_the_users_own(scaled):
    """The same step as by the current class."""

    def loss(targets, outputs, normalizer):
        return {"detection_loss": tf.reduce_sum(outputs["box_3"]) / normalizer}

    images, targets = tf.ones([2, 4, 4, 3]), {"num_positives": tf.ones([2])}
    weights = []
    for optimizers in (keras.optimizers, keras.optimizers.legacy):
        pixels = keras.Input((4, 4, 3))
        box = keras.layers.Conv2D(2, 1, kernel_initializer="ones")(pixels)
        model = EfficientDet(pixels, {"box_3": box})
        optimizer = optimizers.SGD(0.125, momentum=0.5)
        if scaled:
            optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
        model.compile(optimizer, loss)
        data = tf.data.Dataset.from_tensors((images, targets)).repeat(2)
        history = model.fit(data, epochs=2, verbose=0)
        assert int(optimizer.iterations) == 4 and len(history.history["loss"]) == 2
        weights.append(model.get_weights())
    for legacy, current in zip(*weights, strict=True):
        np.testing.assert_allclose(legacy, current, rtol=1e-6)


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(plain, batch, precision):
    expected, _ = plain
    losses, model = one_step(batch, **{"training.precision": precision})
    # A bfloat16 has 8 bits.
    close({name: losses[name] for name in ("loss", "class_loss")}, expected, 0.02)
    conv = model.get_layer("backbone").convs[0]
    assert conv.compute_dtype == precision.removeprefix("mixed_")
    assert {variable.dtype for variable in model.trainable_variables} == {tf.float32}
    assert all(output.dtype == tf.float32 for output in model.outputs)
    assert isinstance(model.optimizer, keras.mixed_precision.LossScaleOptimizer) == (
        precision == "mixed_float16"
    )
    # The precision of the next model is unaffected.
    assert keras.mixed_precision.global_policy().name == "float32"


def test_a_step_whose_gradients_overflow_changes_no_weight(batch):
    """As in the first steps, until a suitable loss scale is found."""
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
    # The step still counts, for the schedule and checkpoint numbers.
    assert int(optimizer.iterations) == 1
    assert float(optimizer.loss_scale) == 2.0**99


@pytest.mark.thorough
def test_xla_gives_the_same_step(plain, batch):
    expected, model = plain
    losses, compiled = one_step(batch, **{"training.xla": True})
    close(losses, expected, 1e-4)
    for ours, theirs in zip(compiled.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
