"""What ends a training in one line, before or while it runs."""

import itertools
import re
from pathlib import Path

import pytest
import tensorflow as tf

import tiny
from efficientdet_tf import data as data_lib
from efficientdet_tf.data import stream_order
from efficientdet_tf.data.stream_share import Share
from efficientdet_tf.errors import UserError
from efficientdet_tf.run_directory import RunDirectory
from efficientdet_tf.training import train as run_lib
from efficientdet_tf.training.callbacks import CocoMetrics, EvaluationFailed
from efficientdet_tf.training.recovery import TrainingDiverged
from efficientdet_tf.training.stopping import StopRequests


@pytest.fixture(scope="module")
def coco_file(tmp_path_factory):
    """Eight built-in images as a COCO file with sparse ids."""
    return tiny.write_coco_file(tmp_path_factory.mktemp("coco"), 8, tuple(range(10, 40, 3)))


def _config(coco_file, **overrides):
    paths = {"data.train": coco_file, "data.val": coco_file}
    return tiny.config(**paths | {"training.batch_size": 4, "training.epochs": 1} | overrides)


def test_an_evaluation_without_enough_memory_names_the_setting(tmp_path):
    def evaluate():
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    directory, best_ap = RunDirectory(tmp_path), tf.Variable(-1.0)
    metrics = CocoMetrics(evaluate, directory, 1, 1, best_ap, StopRequests())
    with pytest.raises(EvaluationFailed) as error:
        metrics._measure()
    assert str(error.value) == (
        "the evaluation needs more memory than there is; use a smaller training.eval_batch_size"
    )


def test_unknown_weights_are_told_before_the_data_are_read(tmp_path):
    config = _config("no/such/data.json", **{"training.pretrained": "efficientnet-d0"})
    with pytest.raises(UserError) as error:
        run_lib.train(config, str(tmp_path / "run"))
    assert str(error.value) == (
        "efficientnet-d0: no such file, folder or name; did you mean 'efficientdet-d0'?"
    )


def test_divergence_stops_at_once_and_names_the_images(coco_file, tmp_path):
    wild = {"optimizer.learning_rate": 1e30, "optimizer.warmup_epochs": 0}
    wild |= {"optimizer.clip_norm": 0, "training.epochs": 20, "training.max_recoveries": 0}
    config = _config(coco_file, **wild)
    with pytest.raises(TrainingDiverged, match="^the loss became (nan|inf) at step ") as error:
        run_lib.train(config, str(tmp_path))
    step, images = re.search(
        r"at step (\d+); its images are (.*?)\. Usual", str(error.value)
    ).groups()
    data = data_lib.load(coco_file)
    order = stream_order.Order(data, Share(0, 4 * (int(step) - 1)))
    positions = [position for _, position in itertools.islice(order.positions(), 4)]
    expected = [data.records[position] for position in positions]
    assert images == ", ".join(f"{record.image_id} ({record.name})" for record in expected)
    # Never more than the images are: a position in the stream is one of a record.
    assert set(positions) <= set(range(8))


def test_classes_of_validation_are_those_of_training_by_name(coco_file, tmp_path):
    # The ids of the built-in data set are others.
    train_data, val_data = run_lib.load_data(_config(coco_file, **{"data.val": "digits"}))
    assert val_data.label_map == train_data.label_map
    other = tmp_path / "other.json"
    other.write_text(Path(coco_file).read_text().replace('"name": "3"', '"name": "three"'))
    config = _config(coco_file, **{"data.val": str(other)})
    with pytest.raises(data_lib.DataError) as error:
        run_lib.load_data(config.override({"data.val_images": str(Path(coco_file).parent)}))
    assert str(error.value) == (
        f"{other}: class 'three' (id 19) is not a class of {coco_file}; its classes: '0' (id 10), "
        "'1' (id 13), '2' (id 16), '3' (id 19), '4' (id 22) and 5 more"
    )
