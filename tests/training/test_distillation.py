"""Distillation: losses against a teacher, and whole runs."""

import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import distributed_step
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from tensorflow.python.framework import config as tf_config

import commands
import tiny
from efficientdet_tf import model as model_lib
from efficientdet_tf.config import ConfigError
from efficientdet_tf.data import digits, pipeline, preprocessing
from efficientdet_tf.detector import Detector
from efficientdet_tf.errors import UserError
from efficientdet_tf.run_directory import RunDirectory
from efficientdet_tf.training import distillation, memory
from efficientdet_tf.training import train as run_lib

CLASSES = digits.load("train", num_images=1).label_map
# Of a Lite model; the student has those of ImageNet.
MEAN = (127.0, 127.0, 127.0)


def config(**overrides):
    return tiny.config(
        **{
            "model.num_classes": 10,
            "optimizer.warmup_epochs": 0,
            "training.batch_size": 4,
            "training.epochs": 1,
        }
        | overrides
    )


def write_run(folder, run_config) -> str:
    """Write a run with an untrained network that detects something at many anchors."""
    keras.utils.set_random_seed(5)
    model = model_lib.build(run_config)
    for variable in model.variables:
        if "class_head/predict/bias" in variable.name:
            variable.assign(tf.random.stateless_normal(variable.shape, [1, 2], -2.0, 2.0))
    run = RunDirectory(folder)
    run.create(run_config, CLASSES)
    run.save_weights(model, "best")
    return str(folder)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    """Another network of another size, wider, with other means of pixels and another input."""
    other = {"neck.name": "fpn", "neck.num_filters": 16, "model.image_size": 96}
    other |= {"model.pixel_mean": MEAN, "model.pixel_std": (128.0, 128.0, 128.0)}
    return write_run(tmp_path_factory.mktemp("teacher"), config(**other))


@pytest.fixture(scope="module")
def coco_file(tmp_path_factory) -> str:
    return tiny.write_coco_file(tmp_path_factory.mktemp("coco"), 8)


@pytest.fixture(scope="module")
def batch():
    data = digits.load("train", num_images=4)
    [batch] = pipeline.training_dataset(data, config(), 4).take(1)
    return batch


@pytest.fixture(scope="module")
def made(teacher):
    return distillation.Distillation.from_config(config(**{"distillation.teacher": teacher}))


def test_the_class_loss_is_zero_at_the_target_and_the_focal_loss_of_gamma_2_at_hard_targets():
    logits = tf.random.stateless_normal([5, 7], [1, 2], stddev=4.0)
    targets = tf.random.stateless_uniform([5, 7], [3, 4])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(logits)
        loss = distillation.quality_focal_loss(targets, logits)
        cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(targets, logits)
        expected = (tf.sigmoid(logits) - targets) ** 2 * cross_entropy
        own = distillation.quality_focal_loss(tf.sigmoid(tf.stop_gradient(logits)), logits)
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        tape.gradient(loss, logits), tape.gradient(expected, logits), rtol=1e-4, atol=1e-6
    )
    assert not np.any(own) and not np.any(tape.gradient(own, logits))
    hard = distillation.quality_focal_loss(tf.ones([1]), tf.constant([[-2.0]]))
    p = 1 / (1 + np.exp(2.0))
    assert float(hard[0, 0]) == pytest.approx((1 - p) ** 2 * -np.log(p), rel=1e-5)


def test_the_loss_against_itself_is_zero_with_zero_gradient(made, batch):
    images, _ = batch
    outputs = made.teacher(made.teacher_images(images), training=False)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(outputs)
        same = made(images, outputs)
        other = made(images, {name: value + 0.5 for name, value in outputs.items()})
    assert same == 0 and other > 1
    assert all(not np.any(g) for g in tf.nest.flatten(tape.gradient(same, outputs)))
    # Every class logit is a target; boxes only where the teacher detects something.
    gradients = tape.gradient(other, outputs)
    assert all(np.all(gradients[name] != 0) for name in outputs if name.startswith("cls_"))
    weighted = [np.asarray(gradients[n]) != 0 for n in outputs if n.startswith("box_")]
    assert 0.02 < np.concatenate([w.ravel() for w in weighted]).mean() < 0.9


def test_each_image_counts_alike_whatever_the_others_of_its_batch(made, batch):
    images, _ = batch
    student = model_lib.build(config())
    outputs = student(images)
    losses = [
        float(made(images[i : i + 1], {name: value[i : i + 1] for name, value in outputs.items()}))
        for i in range(len(images))
    ]
    assert float(made(images, outputs)) == pytest.approx(np.mean(losses), rel=1e-5)

    def with_settings(**changes):
        changed = made.config.model_copy(update=changes)
        return float(dataclasses.replace(made, config=changed)(images, outputs))

    assert 0 < with_settings(class_weight=0) < float(made(images, outputs))
    assert with_settings(class_weight=0, score_threshold=1) == 0
    assert with_settings(class_weight=0, box_weight=0) == 0


def test_the_teacher_sees_padding_of_its_own_colour(made):
    student = config()
    pixels = tf.random.stateless_uniform([32, 50, 3], [1, 2], 0, 256, tf.int32)
    size = student.model.image_size
    ours, _ = preprocessing.resize(pixels, size, "pad", student.model.pixel_mean)
    theirs, _ = preprocessing.resize(pixels, size, "pad", MEAN)
    assert np.any(ours != theirs)
    np.testing.assert_array_equal(made.teacher_images(ours[None])[0], theirs)
    assert made.teacher_padding == MEAN and made.padding == student.model.pixel_mean
    same = dataclasses.replace(made, padding=MEAN)
    assert same.teacher_images(theirs) is theirs


# Without BatchNorm in training mode, which sees micro-batches.
FROZEN = {"model.freeze": "(.*/)?[a-z_0-9]*bn[a-z_0-9]*/.*"}


def one_step(batch, **overrides):
    keras.utils.set_random_seed(0)
    model = run_lib.compiled_model(config(**FROZEN | overrides), steps=10)
    return model.train_on_batch(*batch, return_dict=True), model


@pytest.fixture(scope="module")
def stepped(teacher, batch):
    return one_step(batch, **{"distillation.teacher": teacher})


def test_a_step_adds_the_loss_to_the_others_and_trains_no_teacher(stepped, teacher):
    losses, model = stepped
    assert losses["distillation_loss"] > 1
    parts = [losses[name] for name in ("detection_loss", "distillation_loss", "l2_loss")]
    assert losses["loss"] == pytest.approx(sum(parts), rel=1e-6)
    assert len(model.weights) == len(model_lib.build(config()).weights)
    before = RunDirectory(teacher).load_model("best").get_weights()
    for ours, theirs in zip(model.distillation.teacher.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with_teacher = memory.estimate(model, config(**FROZEN))
    # A compiled model without a teacher.
    distilled, model.distillation = model.distillation, None
    without = memory.estimate(model, config(**FROZEN))
    model.distillation = distilled
    assert with_teacher.weights - without.weights == 4 * sum(w.size for w in before)
    assert with_teacher.program > without.program


@pytest.mark.thorough
def test_micro_batches_give_the_step_of_the_batch(stepped, teacher, batch):
    whole, model = stepped
    settings = {"training.gradient_accumulation_steps": 2, "distillation.teacher": teacher}
    in_parts, other = one_step(batch, **settings)
    for name, value in whole.items():
        assert value == pytest.approx(in_parts[name], rel=1e-5), name
    for ours, theirs in zip(other.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.thorough
def test_two_replicas_compute_the_losses_of_one_device(teacher, coco_file, unlabeled):
    settings = tiny.NETWORK | {
        # BatchNorm is synchronised in the feature network and the heads.
        "model.freeze": "backbone/.*",
        "training.batch_size": 4,
        "training.strategy": "mirrored",
        "distillation.teacher": teacher,
        "distillation.unlabeled": unlabeled,
        "data.train": coco_file,
        "data.val": coco_file,
    }
    words = [f"{key}={value}" for key, value in settings.items()]
    script = Path(distributed_step.__file__)
    process = subprocess.Popen(
        [sys.executable, str(script), "2", *words],
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    expected = distributed_step.first_step(tiny.config(**settings | {"training.strategy": "cpu"}))
    printed, err = process.communicate()
    assert process.returncode == 0, err
    assert expected["distillation_loss"] > 0.1
    for name, value in json.loads(printed.splitlines()[-1]).items():
        assert value == pytest.approx(expected[name], rel=1e-4), name


@pytest.mark.thorough
def test_a_teacher_in_mixed_precision(stepped, teacher, batch):
    expected, _ = stepped
    settings = {"training.precision": "mixed_bfloat16", "distillation.teacher": teacher}
    actual, model = one_step(batch, **settings)
    for name in ("distillation_loss", "loss"):
        assert actual[name] == pytest.approx(expected[name], rel=0.03)
    assert model.distillation.teacher.get_layer("backbone").convs[0].compute_dtype == "bfloat16"


def test_the_loss_can_be_compiled_with_xla(stepped, batch):
    _, model = stepped
    outputs = model(batch[0], training=False)
    expected = model.distillation(batch[0], outputs)
    given = model.distillation.teacher(model.distillation.teacher_images(batch[0]))
    # XLA takes long for a network, and a step with one is compiled elsewhere.
    loss = dataclasses.replace(model.distillation, teacher=lambda images, training: given)
    compiled = tf.function(loss, jit_compile=True, autograph=False)
    assert float(compiled(batch[0], outputs)) == pytest.approx(float(expected), rel=1e-5)


def test_a_student_approaches_its_teacher_without_any_ground_truth(teacher, batch):
    images, targets = batch
    targets = targets | {"class_targets": tf.fill(targets["class_targets"].shape, -2)}
    targets |= {name: tf.zeros_like(targets[name]) for name in ("box_targets", "num_positives")}
    keras.utils.set_random_seed(0)
    settings = {"optimizer.name": "adam", "optimizer.learning_rate": 0.01}
    settings |= {"optimizer.reference_batch_size": 4, "distillation.teacher": teacher}
    model = run_lib.compiled_model(config(**settings), steps=60)
    losses = []
    for _ in range(40):
        model.reset_metrics()
        losses.append(model.train_on_batch(images, targets, return_dict=True))
    assert all(each["detection_loss"] == 0 for each in losses)
    assert losses[-1]["distillation_loss"] < 0.5 * losses[0]["distillation_loss"]


@pytest.fixture(scope="module")
def run_settings(teacher, coco_file, unlabeled):
    yield {
        "data.train": coco_file,
        "data.val": coco_file,
        "training.epochs": 2,
        "training.steps_per_epoch": 2,
        "training.eval_interval_epochs": 2,
        "training.deterministic": True,
        "training.checkpoint_interval_steps": 1,
        "training.keep_checkpoints": 9,
        "distillation.teacher": teacher,
        "distillation.unlabeled": unlabeled,
    }
    # Of the whole process, in which XLA would refuse max pooling in the tests of other files.
    tf_config.disable_op_determinism()


@pytest.fixture(scope="module")
def finished(run_settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run_lib.train(config(**run_settings), str(folder))
    return folder


def rows(folder) -> list[dict]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_records_the_loss_and_the_teacher_and_holds_no_weights_of_it(finished, teacher):
    for row in rows(finished):
        loss, parts = float(row["loss"]), ("detection_loss", "distillation_loss", "l2_loss")
        assert float(row["distillation_loss"]) > 0
        assert loss == pytest.approx(sum(float(row[name]) for name in parts), rel=1e-4)
    stored = RunDirectory(finished).config().distillation
    assert stored.teacher == teacher and len(stored.teacher_digest) == 16
    newest = str(finished / "checkpoints" / "ckpt-4")
    names = [name for name, _ in tf.train.list_variables(newest)]
    assert len(names) > 250 and not [name for name in names if "distil" in name or "teach" in name]
    student = sum(w.size for w in tiny.stored_weights(finished).values())
    held = sum(np.prod(shape) for name, shape in tf.train.list_variables(newest))
    # Weights, their moving average and the momentum, a few counters, and no second network.
    assert 2.5 * student < held < 3.1 * student


@pytest.mark.thorough
def test_a_resumed_run_is_the_same_bit_by_bit(finished, run_settings, tmp_path):
    # As a stop after the first step leaves it.
    resumed = tmp_path / "resumed"
    shutil.copytree(finished, resumed)
    for file in [*resumed.glob("*.weights.h5"), *(resumed / "checkpoints").glob("ckpt-[2-9].*")]:
        file.unlink()
    run_lib.train(config(**run_settings), str(resumed))
    tiny.assert_same_weights(resumed, finished)
    assert rows(resumed)[1]["distillation_loss"] == rows(finished)[1]["distillation_loss"]


def test_a_trained_student_needs_its_teacher_only_to_be_resumed(
    finished, run_settings, teacher, tmp_path
):
    folder, moved = tmp_path / "run", tmp_path / "moved"
    shutil.copytree(finished, folder)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace(teacher, str(tmp_path / "gone")))
    [found] = Detector.load(folder).detect(np.zeros([64, 64, 3], np.uint8))
    assert len(found.boxes) == len(found.scores)
    gone = config(**run_settings).override({"distillation.teacher": str(tmp_path / "gone")})
    with pytest.raises(UserError) as error:
        run_lib.train(gone, str(folder))
    assert str(error.value) == (
        f"distillation.teacher: {tmp_path / 'gone'}: no config.yaml; use a run directory"
    )
    # The same weights at another place.
    shutil.copytree(teacher, moved)
    there = config(**run_settings).override({"distillation.teacher": str(moved)})
    assert run_lib.train(there, str(folder)) is None
    RunDirectory(moved).save_weights(model_lib.build(RunDirectory(moved).config()), "best")
    before = RunDirectory(folder).config().distillation.teacher_digest
    after = distillation.settings(there.distillation)["distillation.teacher_digest"]
    with pytest.raises(UserError) as error:
        run_lib.train(there, str(folder))
    assert str(error.value) == (
        f"{folder}: contains a run with distillation.teacher_digest {before}, not {after}; use "
        "another --model_dir or the same settings"
    )


def test_wrong_teachers_are_refused_in_one_line(coco_file, teacher, tmp_path):
    arguments = ["train.py", f"--train_data={coco_file}", f"--val_data={coco_file}"]
    arguments += [f"--model_dir={tmp_path / 'run'}", f"--set=model.image_size={64}"]

    def failed(*more: str) -> str:
        done = commands.call(*arguments, *more)
        assert done.returncode == 1 and not (tmp_path / "run" / "config.yaml").exists()
        return done.stderr.splitlines()[-1]

    assert failed("--unlabeled=somewhere") == (
        "train: distillation.unlabeled: images without annotations need a teacher; name one as "
        "distillation.teacher (--teacher=runs/large)"
    )
    untrained = tmp_path / "untrained"
    shutil.copytree(teacher, untrained)
    (untrained / "best.weights.h5").unlink()
    assert failed(f"--teacher={untrained}") == (
        f"train: distillation.teacher: {untrained}/best.weights.h5: missing; has the run finished "
        "its first epoch?"
    )
    assert failed("--model=efficientdet-d0", f"--teacher={teacher}") == (
        f"train: distillation.teacher: {teacher} has model.max_level 5, not 7 and anchors.scale "
        "3.0, not 4.0; train the student with --set model.max_level=5 --set anchors.scale=3.0, or "
        "use a teacher with the same anchors"
    )
    names = (*CLASSES.names[:3], "three", *CLASSES.names[4:])
    label_map = type(CLASSES)(CLASSES.ids, names)
    (untrained / "label_map.json").write_text(label_map.to_json())
    settings = RunDirectory(untrained).config().distillation
    other = settings.model_copy(update={"teacher": str(untrained)})
    with pytest.raises(distillation.TeacherError) as error:
        distillation.check_classes(other, CLASSES)
    assert str(error.value) == (
        f"distillation.teacher: {untrained}: its class 4 is 'three', that of the training data "
        "'3'; use a teacher trained with the same classes in the same order"
    )
    fewer = type(CLASSES)(CLASSES.ids[:9], CLASSES.names[:9])
    (untrained / "label_map.json").write_text(fewer.to_json())
    with pytest.raises(distillation.TeacherError, match="has 9 classes, the training data 10; use"):
        distillation.check_classes(other, CLASSES)
    # Category ids do not matter.
    sparse = type(CLASSES)(tuple(range(20, 40, 2)), CLASSES.names)
    distillation.check_classes(settings.model_copy(update={"teacher": teacher}), sparse)
    with pytest.raises(ConfigError, match=r"^distillation.unlabeled_share: 1 is not a number from"):
        config(**{"distillation.unlabeled_share": 1})
