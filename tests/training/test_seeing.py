"""Report, TensorBoard summaries and early stopping of a run."""

import csv

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.util import event_pb2

import tiny
from efficientdet_tf.report.fusion_weights import fusion_weights
from efficientdet_tf.run_directory import RunDirectory
from efficientdet_tf.training import train as run_lib


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Directory of a run without detections: AP is 0 in every epoch."""
    # With unequal numbers of objects.
    coco_file = tiny.write_coco_file(tmp_path_factory.mktemp("coco"), 4)
    return tiny.config(
        **{
            "data.train": coco_file,
            "data.val": coco_file,
            "detection.score_threshold": 0.999,
            "loss.class_weights": "inverse",
            "neck.fusion": "fast",
            "training.batch_size": 4,
            "training.epochs": 5,
            "training.patience": 1,
            "training.histogram_interval_epochs": 2,
        }
    )


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    result = run_lib.train(config, str(folder))
    assert result.metrics["AP"] == 0
    return folder


def epochs(folder):
    with (folder / "metrics.csv").open() as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def events(folder):
    """Return {(step, tag)} of all summaries."""
    found = set()
    for path in folder.glob("events*"):
        for raw in tf.data.TFRecordDataset(str(path)):
            event = event_pb2.Event.FromString(raw.numpy())
            found |= {(event.step, value.tag) for value in event.summary.value}
    return found


def test_the_report_is_written_at_the_end(finished, config):
    text = (finished / "report.html").read_text()
    assert f"measured on 4 images of {config.data.val}" in text
    # The weights of the first epoch were the best.
    assert "with the weights of epoch 1, the best of the run" in text
    assert text.count("data:image/jpeg;base64,") == 2 * 4


def test_the_report_has_the_fusion_weights_of_the_best_epoch(finished):
    text = (finished / "report.html").read_text()
    best, last = (
        [
            f'>{item.node}</td><td>{name}</td><td class="number">{mean:.4f}<'
            for item in fusion_weights(RunDirectory(finished).load_model(weights))
            for name, mean in zip(item.inputs, item.means)
        ]
        for weights in ("best", "last")
    )
    assert all(row in text for row in best)
    assert not all(row in text for row in last)


def test_images_and_histograms_have_keras_steps(finished):
    scalars = {
        step for step, tag in events(finished / "tensorboard" / "train") if tag == "epoch_AP"
    }
    images = {step for step, tag in events(finished / "tensorboard" / "validation")}
    assert scalars == images == {0, 1}
    histograms = {
        step
        for step, tag in events(finished / "tensorboard" / "train")
        if tag.endswith("/histogram")
    }
    assert histograms == {0}


def test_class_weights_are_in_the_config_of_the_run(finished, config):
    weights = RunDirectory(finished).config().loss.class_weight_values
    train_data, _ = run_lib.load_data(config)
    classes = np.concatenate([record.classes for record in train_data.records])
    assert np.isclose(np.mean([weights[i] for i in classes]), 1, rtol=1e-4)
    assert len(set(weights)) > 1


def test_patience_persists_across_processes(finished, config, capsys):
    assert epochs(finished) == [1, 2]
    assert run_lib.train(config, str(finished)) is None
    assert (
        f"{finished}: early stopping: no AP improvement; set a larger training.patience to resume"
        in capsys.readouterr().out.splitlines()
    )
    assert epochs(finished) == [1, 2]
    # One of two evaluations without improvement is already counted.
    longer = config.override({"training.patience": 2})
    assert run_lib.train(longer, str(finished)) is not None
    assert epochs(finished) == [1, 2, 3]
