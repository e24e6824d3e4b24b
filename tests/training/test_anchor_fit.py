"""Anchors fitted when a run starts, kept when it is resumed."""

import numpy as np
import pytest

import tiny
from efficientdet_tf import anchors, data
from efficientdet_tf.checkpoints.pretrained import has_heads
from efficientdet_tf.detector import Detector
from efficientdet_tf.run_directory import RunDirectory, RunDirectoryError
from efficientdet_tf.training import anchor_fit, train


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tiny.write_coco_file(tmp_path_factory.mktemp("coco"), 8)
    paths = {"data.train": path, "data.val": path}
    short = {"training.batch_size": 4, "training.epochs": 1}
    return tiny.config(**paths, **short, **{"anchors.auto": True})


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    directory = RunDirectory(tmp_path_factory.mktemp("run") / "run")
    train.train(config, str(directory.path))
    return directory


def test_a_run_has_the_fitted_anchors_as_settings(run, config, capsys):
    fitted = anchor_fit.settings(config, data.load(config.data.train), None)
    assert fitted.keys() == {"anchors.scale", "anchors.aspect_ratios"}
    stored = run.config().anchors
    assert (stored.scale, stored.aspect_ratios) == tuple(fitted.values())
    assert stored.auto and stored.scale != config.anchors.scale
    line = capsys.readouterr().out
    assert line.startswith(f"anchors: fitted to the training set: scale {stored.scale:g}, aspect_")
    # What detects and exports decodes with these.
    np.testing.assert_array_equal(
        anchors.from_config(run.config()), anchors.from_config(config.override(fitted))
    )
    assert Detector.load(run.path).detect([np.zeros((40, 60, 3), np.uint8)])


def test_resuming_keeps_them_and_needs_the_setting(run, config):
    before = run.config().anchors
    # Another training set would be fitted otherwise.
    resumed = config.override({"training.epochs": 2, "anchors.scale": 1.5})
    train.train(resumed, str(run.path))
    assert run.config().anchors == before
    with pytest.raises(RunDirectoryError, match=r"anchors\.scale"):
        train.train(config.override({"anchors.auto": False}), str(run.path))


def test_off_changes_nothing(config):
    assert anchor_fit.settings(config.override({"anchors.auto": False}), None, None) == {}


def test_pretrained_detectors_keep_their_aspect_ratios(run, config):
    loaded = data.load(config.data.train)
    pretrained = config.override({"training.pretrained": str(run.path)})
    fitted = anchor_fit.settings(pretrained, loaded, None)
    assert fitted["anchors.aspect_ratios"] == config.anchors.aspect_ratios
    kinds = {"": False, "imagenet": False, "efficientdet-d0": True, str(run.path): True}
    assert {source: has_heads(source) for source in kinds} == kinds
