"""Resuming with other settings."""

import pytest

from efficientdet_tf import resuming
from efficientdet_tf.config import Config, known_keys, marked
from efficientdet_tf.config.declaration import DerivedFromData, MeasuresAP, Shapes
from efficientdet_tf.data.records import LabelMap
from efficientdet_tf.run_directory import RunDirectory, RunDirectoryError

CLASSES = LabelMap(tuple(range(90)), tuple(map(str, range(90))))


@pytest.fixture
def config() -> Config:
    return Config.for_model("efficientdet-lite0")


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        ("optimizer.name", "sgd", "adam"),
        ("optimizer.lookahead", 0, 6),
        ("optimizer.ema_decay", 0.9998, 0.0),
        ("training.precision", "float32", "mixed_float16"),
        ("model.freeze", "", "backbone/.*"),
        ("neck.num_filters", 64, 24),
        ("anchors.aspect_ratios", [1.0, 2.0, 0.5], [1.0]),
    ],
)
def test_settings_that_shape_the_checkpoint_are_refused_before_writing(
    config, tmp_path, key, old, new
):
    directory = RunDirectory(tmp_path)
    directory.create(config, CLASSES)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.*")}
    with pytest.raises(RunDirectoryError) as error:
        directory.create(config.override({key: new}), CLASSES)
    old, new = ("''" if value == "" else str(value) for value in (old, new))
    assert str(error.value) == (
        f"{tmp_path}: contains a run with {key} {old}, not {new}; "
        "use another --model_dir or the same settings"
    )
    assert {path: path.read_bytes() for path in tmp_path.glob("*.*")} == before


def test_all_refused_settings_are_named(config, tmp_path):
    directory = RunDirectory(tmp_path)
    directory.create(config, CLASSES)
    asked = config.override({"optimizer.name": "adam", "training.precision": "mixed_float16"})
    with pytest.raises(RunDirectoryError) as error:
        directory.check(asked, CLASSES)
    assert str(error.value) == (
        f"{tmp_path}: contains a run with optimizer.name sgd, not adam; with training.precision "
        "float32, not mixed_float16; use another --model_dir or the same settings"
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.precision", "mixed_bfloat16"),
        ("optimizer.ema_decay", 0.99),
        ("optimizer.momentum", 0.8),
        ("model.backbone_survival_prob", 0.7),
        ("anchors.positive_iou_threshold", 0.4),
        ("training.epochs", 2),
        ("data.train", "elsewhere"),
        ("augmentation.mosaic", 0.5),
    ],
)
def test_other_settings_may_change(config, key, value):
    asked = config.override({key: value})
    assert resuming.refused(config, asked) == {}
    [(changed, (_, new))] = resuming.changed(config, asked).items()
    assert (changed, new) == (key, value)


def test_settings_that_shape_the_checkpoint():
    """All of model, neck and anchors except training-only settings, and these."""
    expected = {
        key
        for key in known_keys()
        if key.startswith(("model.", "neck.", "anchors."))
        and key not in ("model.backbone_survival_prob", "model.auto_image_size", "anchors.auto")
        and not key.endswith("_iou_threshold")
    }
    expected |= {"optimizer.name", "optimizer.lookahead", "optimizer.momentum"}
    expected |= {"optimizer.ema_decay", "training.precision", "distillation.teacher_digest"}
    assert marked(Shapes).keys() == expected


def test_settings_that_affect_ap():
    assert marked(MeasuresAP).keys() == {
        *("data.val", "data.val_images", "data.format", "data.use_difficult"),
        *(key for key in known_keys() if key.startswith("detection.")),
    }


def test_settings_derived_from_data():
    assert list(marked(DerivedFromData)) == [
        *("model.num_classes", "loss.class_weight_values", "distillation.teacher_digest")
    ]


def test_derived_settings_are_no_change(config):
    asked = config.override({"loss.class_weight_values": [1.0, 2.0]})
    assert resuming.refused(config, asked) == resuming.changed(config, asked) == {}


def test_effects_are_described():
    change = resuming.Change(2, 8, {"training.epochs": (2, 4), "data.val": ("a", "b")})
    assert resuming.describe(change, (0.0, 0.04), 0.3125, True) == [
        "changed since: training.epochs 2 -> 4",
        "changed since: data.val a -> b",
        "learning rate of step 9: 0 -> 0.04; it had fallen and rises again",
        "best AP 0.312: reset, as it was measured with other settings; best.weights.h5 is "
        "replaced at the next evaluation; early stopping restarts",
    ]
    change = resuming.Change(2, 8, {"data.strict": (False, True)})
    assert resuming.describe(change, (0.04, 0.04), 0.3125, True) == [
        "changed since: data.strict false -> true",
    ]


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ("imagenet", ""),
        ("", ""),
        (
            "no/such",
            "training.pretrained: no/such: not loaded; the run is resumed from its checkpoint\n",
        ),
    ],
)
def test_the_config_of_a_run_names_the_weights_that_it_started_from(config, capsys, asked, line):
    stored = config.override({"training.pretrained": "imagenet"})
    asked = config.override({"training.pretrained": asked, "training.epochs": 2})
    assert resuming.keep_pretrained(stored, asked) == stored.override({"training.epochs": 2})
    assert capsys.readouterr().out == line


def test_changes_are_read_back(tmp_path):
    assert resuming.read_changes(tmp_path) == []
    changes = [
        resuming.Change(1, 4, {"detection.nms": ("hard", "gaussian")}),
        resuming.Change(2, 8, {"training.epochs": (2, 4)}),
    ]
    resuming.write_changes(tmp_path, changes)
    assert resuming.read_changes(tmp_path) == changes
    assert resuming.measured_since(changes) == changes[0]
    (tmp_path / "changes.json").write_bytes(b"\0\0")
    assert resuming.read_changes(tmp_path) == []
    assert resuming.measured_since([]).step == -1
