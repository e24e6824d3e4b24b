"""LAMB, SGDW, RectifiedAdam and Lookahead: formulas, state, and training."""

import importlib.util
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tiny
from efficientdet_tf.config import OptimizerConfig
from efficientdet_tf.training import optimizers
from efficientdet_tf.training import train as run_lib

HAS_ADDONS = importlib.util.find_spec("tensorflow_addons") is not None
needs_addons = pytest.mark.skipif(
    not HAS_ADDONS,
    reason="tensorflow-addons has no release for this Python",
)

RATE, DECAY = 0.1, 0.01
STEPS = "optimizer/_iterations/.ATTRIBUTES/VARIABLE_VALUE"
RULES = ["lamb", *(pytest.param(name, marks=needs_addons) for name in ("sgdw", "radam"))]
ALL = [("lamb", 0)] + [
    pytest.param(name, lookahead, marks=needs_addons)
    for name, lookahead in (
        *(("sgd", 2), ("adam", 2), ("lamb", 2)),
        *(("sgdw", 0), ("sgdw", 2), ("radam", 0), ("radam", 2)),
    )
]


def build(name: str, lookahead: int = 0, total_steps: int = 10, **settings):
    """Build an optimizer whose learning rate falls from RATE, without a warm-up."""
    config = OptimizerConfig(
        **{
            "name": name,
            "lookahead": lookahead,
            "learning_rate": RATE,
            "warmup_epochs": 0.0,
            "schedule": "polynomial",
            "weight_decay": DECAY,
        }
        | settings,
    )
    return optimizers.build(config, total_steps, steps_per_epoch=10, batch_size=64)


def variables() -> list[tf.Variable]:
    rng = np.random.default_rng(0)
    names = ("backbone/stem/kernel", "head/kernel", "head/bias", "head/gamma")
    return [tf.Variable(rng.normal(size=(3, 2)), name=name, dtype=tf.float32) for name in names]


def gradient(step: int, index: int) -> np.ndarray:
    return np.random.default_rng([step, index]).normal(size=(3, 2)).astype(np.float32)


def lamb(w, g, state, step, rate, is_kernel):
    m = state["m"] = 0.9 * state.get("m", 0) + 0.1 * g
    v = state["v"] = 0.999 * state.get("v", 0) + 0.001 * g**2
    update = (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-6)
    if not is_kernel:
        return w - rate * update
    update = update + DECAY * w
    return w - rate * np.linalg.norm(w) / np.linalg.norm(update) * update


def sgdw(w, g, state, step, rate, is_kernel):
    w = w - rate * DECAY * w if is_kernel else w
    state["m"] = 0.9 * state.get("m", 0) - rate * g
    return w + state["m"]


def radam(w, g, state, step, rate, is_kernel):
    w = w - rate * DECAY * w if is_kernel else w
    m = state["m"] = 0.9 * state.get("m", 0) + 0.1 * g
    v = state["v"] = 0.999 * state.get("v", 0) + 0.001 * g**2
    longest = 2 / (1 - 0.999) - 1
    length = longest - 2 * step * 0.999**step / (1 - 0.999**step)
    if length < 5:
        return w - rate * m / (1 - 0.9**step)
    r = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return w - rate * r**0.5 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-7)


def sgd(w, g, state, step, rate, is_kernel):
    state["m"] = 0.9 * state.get("m", 0) - rate * g
    return w + state["m"]


def adam(w, g, state, step, rate, is_kernel):
    m = state["m"] = 0.9 * state.get("m", 0) + 0.1 * g
    v = state["v"] = 0.999 * state.get("v", 0) + 0.001 * g**2
    return w - rate * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-7)


FORMULAS = {"lamb": lamb, "sgdw": sgdw, "radam": radam, "sgd": sgd, "adam": adam}


def apply(optimizer, weights, step: int) -> None:
    pairs = [(tf.constant(gradient(step, i)), w) for i, w in enumerate(weights)]
    optimizer.apply_gradients(pairs, skip_gradients_aggregation=True)


@pytest.mark.parametrize(("name", "lookahead"), ALL)
@pytest.mark.parametrize("factor", [1.0, 0.1])
def test_steps_are_those_of_the_paper(name, lookahead, factor):
    optimizer = build(name, lookahead, backbone_factor=factor)
    weights = variables()
    expected = [w.numpy() for w in weights]
    states, slow = [{} for _ in weights], list(expected)

    @tf.function
    def one_step(*gradients):
        optimizer.apply_gradients(zip(gradients, weights), skip_gradients_aggregation=True)

    for step in range(1, 8):
        one_step(*[tf.constant(gradient(step, i)) for i in range(len(weights))])
        rate = RATE * (1 - (step - 1) / 10) ** 0.9
        for i, w in enumerate(weights):
            is_kernel = "kernel" in w.name
            after = FORMULAS[name](expected[i], gradient(step, i), states[i], step, rate, is_kernel)
            if "backbone" in w.name:
                after = expected[i] + factor * (after - expected[i])
            if lookahead and step % lookahead == 0:
                after = slow[i] = slow[i] + 0.5 * (after - slow[i])
            expected[i] = after
            np.testing.assert_allclose(w, expected[i], rtol=2e-4, atol=2e-5)
    assert int(optimizer.iterations) == 7


@pytest.mark.parametrize(("name", "lookahead"), ALL)
def test_optimizer_state_is_saved_and_restored(name, lookahead, tmp_path):
    optimizer, weights = build(name, lookahead), variables()
    for step in range(3):
        apply(optimizer, weights, step)
    saved = tf.train.Checkpoint(optimizer=optimizer, weights=weights).save(str(tmp_path / "state"))
    apply(optimizer, weights, 3)

    again, copies = build(name, lookahead), variables()
    again.build(copies)
    status = tf.train.Checkpoint(optimizer=again, weights=copies).restore(saved)
    status.assert_existing_objects_matched()
    assert int(again.iterations) == 3
    apply(again, copies, 3)
    for w, copy in zip(weights, copies):
        np.testing.assert_array_equal(w, copy)


@pytest.mark.parametrize("name", RULES)
def test_decoupled_weight_decay_leaves_the_loss_unchanged(name):
    config = OptimizerConfig(name=name)
    assert optimizers.loss_decay(config) == 0
    assert optimizers.loss_decay(OptimizerConfig(name="adam")) == config.weight_decay


@pytest.mark.parametrize(
    ("name", "lookahead", "rate"),
    [
        ("lamb", 0, 0.05),
        pytest.param("lamb", 2, 0.05, marks=needs_addons),
        pytest.param("sgdw", 0, 0.02, marks=needs_addons),
        pytest.param("radam", 0, 0.02, marks=needs_addons),
    ],
)
@pytest.mark.parametrize("compiled", [False, True], ids=["graph", "xla"])
def test_keras_trains_with_legacy_optimizers(name, lookahead, rate, compiled, clean_keras):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    optimizer = build(name, lookahead, total_steps=100, learning_rate=rate)
    model.compile(optimizer, "mse", jit_compile=compiled)
    x = np.random.default_rng(0).normal(size=(32, 3))
    history = model.fit(x, x[:, :2], epochs=8, batch_size=4, verbose=0)
    assert history.history["loss"][-1] < 0.8 * history.history["loss"][0]
    assert int(optimizer.iterations) == 64


@pytest.mark.parametrize("name", RULES)
def test_loss_scaling(name):
    scaled = keras.mixed_precision.LossScaleOptimizer(build(name), dynamic=False, initial_scale=8)
    plain, weights, copies = build(name), variables(), variables()
    for step in range(2):
        apply(plain, weights, step)
        gradients = [tf.constant(8 * gradient(step, i)) for i in range(len(copies))]
        gradients = scaled.get_unscaled_gradients(gradients)
        scaled.apply_gradients(zip(gradients, copies), skip_gradients_aggregation=True)
    for w, copy in zip(weights, copies):
        np.testing.assert_allclose(w, copy, rtol=1e-6)


# Two replicas need two devices, which are fixed when TensorFlow starts.
TWO_REPLICAS = """
    import numpy as np, tensorflow as tf
    from efficientdet_tf.config import OptimizerConfig
    from efficientdet_tf.training import optimizers

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    for name, lookahead in OPTIMIZERS:
        results = []
        for strategy in (tf.distribute.MirroredStrategy(["cpu:0", "cpu:1"]),
                         tf.distribute.get_strategy()):
            with strategy.scope():
                weights = [tf.Variable([[3., 4.]], name=n) for n in ("backbone/kernel", "bias")]
                config = OptimizerConfig(
                    name=name, lookahead=lookahead, weight_decay=0.1,
                    backbone_factor=0.5)
                optimizer = optimizers.build(config, 10, 10, 64)

            @tf.function
            def step(weights=weights, optimizer=optimizer, strategy=strategy):
                def replica_step():
                    optimizer.apply_gradients(
                        [(0.1 * w, w) for w in weights], skip_gradients_aggregation=True)
                strategy.run(replica_step)

            for _ in range(3):
                step()
            for weight in weights:
                copies = [v.numpy() for v in strategy.experimental_local_results(weight)]
                assert all((c == copies[0]).all() for c in copies)
                results.append(copies[0])
        for one, other in zip(results[:2], results[2:], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)
            assert abs(one - [[3., 4.]]).max() > 1e-4
    print("two replicas agree with one")
"""


def test_two_replicas():
    names = [("lamb", 0), ("adam", 0), ("sgd", 0)]
    # In one process, as most of the time is TensorFlow's start.
    names += [("lamb", 2), ("sgdw", 2), ("radam", 2)] if HAS_ADDONS else []
    program = f"OPTIMIZERS = {names}\n{textwrap.dedent(TWO_REPLICAS)}"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.strip().endswith("two replicas agree with one"), result.stderr[-2000:]


def test_a_run_resumes_from_its_checkpoint(tmp_path):
    # First and second moment; with Lookahead the slow weights, too.
    name, lookahead, slots_per_variable = ("radam", 2, 3) if HAS_ADDONS else ("lamb", 0, 2)
    file = tiny.write_coco_file(tmp_path / "data", 4)
    config = tiny.config(
        **{
            "data.train": file,
            "data.val": file,
            "training.batch_size": 2,
            "training.epochs": 1,
            "training.gradient_accumulation_steps": 2,
            "optimizer.name": name,
            "optimizer.lookahead": lookahead,
            "optimizer.backbone_factor": 0.5,
            # Fewer variables: the steps of these optimizers are slow to trace.
            "model.freeze": "backbone/.*_[2-5]/.*|feature_network/.*",
        }
    )
    folder = tmp_path / "run"
    run_lib.train(config, str(folder))
    first = (folder / "last.weights.h5").read_bytes()
    run_lib.train(config.override({"training.epochs": 2}), str(folder))
    assert (folder / "last.weights.h5").read_bytes() != first
    (reader,) = (
        tf.train.load_checkpoint(str(path.with_suffix("")))
        for path in (folder / "checkpoints").glob("ckpt-*.index")
        if tf.train.load_checkpoint(str(path.with_suffix(""))).get_tensor(STEPS) == 4
    )
    shapes = reader.get_variable_to_shape_map()
    slots = [name for name in shapes if name.startswith("optimizer/_variables/")]
    model = run_lib.compiled_model(config.override({"model.num_classes": 10}), 2)
    assert len(slots) == slots_per_variable * len(model.trainable_variables)
