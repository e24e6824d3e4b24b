"""Configuration: overrides, files, and every error message."""

import pathlib

import pytest
from pydantic import ValidationError

from efficientdet_tf import config as config_lib
from efficientdet_tf.config import (
    MODELS,
    Config,
    ConfigError,
    OptimizerConfig,
    auto_switch,
    known_keys,
    parse_assignments,
)
from keras_layers.feature_network import NETWORKS

ALL_NAMES = ", ".join(MODELS)
SECTIONS = (
    "model, neck, anchors, loss, data, augmentation, optimizer, training, distillation, detection"
)
BACKBONES = ", ".join(
    [f"efficientnet-b{i}" for i in range(8)]
    + [f"efficientnet-lite{i}" for i in range(5)]
    + ["resnet50", "resnet101"]
)
OPTIMIZER = ", ".join(OptimizerConfig.model_fields)
BIFPN_OPTIONS = "conv_after_downsample, projection_norm, conv_block"
SIZE = "2 whole numbers, each 64 or more, e.g. 512 or 384x640"
RATIOS = "a list of one or more numbers, each 0.01 or more"


def message(function, *args, **kwargs) -> str:
    with pytest.raises(ConfigError) as error:
        function(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def write(tmp_path, text) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return str(path)


# The table.


@pytest.mark.parametrize("name", MODELS)
def test_a_config_survives_dict_and_file(tmp_path, name):
    config = Config.for_model(name).override(
        {"model.image_size": "384x640", "data.train": "naïve folder", "optimizer.momentum": 0.7}
    )
    assert Config.from_dict(config.to_dict()) == config
    assert Config.from_yaml(write(tmp_path, config.to_yaml())) == config


def test_auto_is_a_setting_of_its_own_until_a_value_is_given(tmp_path):
    for key in ("model.image_size", "training.batch_size", "optimizer.learning_rate"):
        switch = auto_switch(key)
        auto = Config().override({key: "auto"})
        assert auto == Config().override({switch: True})
        assert auto.differences(Config()) == {switch: (True, False)}
        assert Config.from_yaml(write(tmp_path, auto.to_yaml())) == auto
        assert Config.from_yaml(write(tmp_path, "{}: {{{}: auto}}".format(*key.split(".")))) == auto
        # A later value wins, unless it is the one that was chosen.
        section, name = key.split(".")
        value = Config().to_dict()[section][name]
        assert auto.override({key: value}) == Config()
        assert auto.override({key: value, switch: True}) == auto


@pytest.mark.parametrize("key", known_keys())
def test_every_key_can_be_set_to_its_own_value(key):
    section, field = key.split(".")
    value = Config().to_dict()[section][field]
    assert Config().override({key: value}) == Config()
    assert Config().override({key: str(value)}) == Config()


def test_a_file_overrides_the_table_and_the_command_line_the_file(tmp_path):
    path = write(tmp_path, "model: {name: efficientdet-d1}\noptimizer: {learning_rate: 0.02}\n")
    config = Config.from_yaml(path)
    assert config.neck.num_filters == 88
    assert config.optimizer.learning_rate == 0.02
    config = config.override(parse_assignments(["optimizer.learning_rate=4e-3", "data.val=a=b"]))
    assert config.optimizer.learning_rate == 0.004
    assert config.data.val == "a=b"


def test_the_model_of_the_command_line_replaces_that_of_the_file(tmp_path):
    path = write(tmp_path, "model: {name: efficientdet-d1, num_classes: 7}\n")
    config = Config.from_yaml(path, model="efficientdet-d2")
    assert config.model.name == "efficientdet-d2"
    assert (config.neck.num_filters, config.model.num_classes) == (112, 7)


def test_empty_files_and_sections_change_nothing(tmp_path):
    assert Config.from_yaml(write(tmp_path, "")) == Config()
    assert Config.from_yaml(write(tmp_path, "training:\nmodel:\n")) == Config()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("512", (512, 512)),
        (512, (512, 512)),
        ("384x640", (384, 640)),
        (" 384 x 640 ", (384, 640)),
        ("[64, 96]", (64, 96)),
        ("96.0x64", (96, 64)),
    ],
)
def test_image_sizes_as_people_write_them(text, size):
    assert Config().override({"model.image_size": text}).model.image_size == size


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("training.epochs", "1e2", 100),
        # Not octal, as in YAML 1.1.
        ("training.epochs", "010", 10),
        ("training.steps_per_epoch", "1_000", 1000),
        ("training.seed", "0x1F", 31),
        ("data.train", "010", "010"),
        ("optimizer.learning_rate", "4e-3", 0.004),
        ("data.strict", "yes", True),
        ("data.train", 2007, "2007"),
        ("data.train", pathlib.PurePosixPath("data/train.json"), "data/train.json"),
        ("data.train", "2007", "2007"),
        ("anchors.aspect_ratios", "[1, '2']", [1.0, 2.0]),
    ],
)
def test_values_as_people_write_them(key, value, expected):
    section, name = key.split(".")
    assert Config().override({key: value}).to_dict()[section][name] == expected


def test_neither_a_config_nor_a_section_can_change():
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.training.epochs = 1
    with pytest.raises(ValidationError, match="frozen"):
        config.training = config.training
    assert hash(config.training) == hash(Config().training)


def test_overrides_leave_the_original():
    config = Config()
    config.override({"training.epochs": 3})
    assert config.training.epochs == 300


def test_built_in_configs_are_valid():
    files = sorted((pathlib.Path(config_lib.__file__).parent / "presets").glob("*.yaml"))
    assert "digits" in [file.stem for file in files]
    for file in files:
        assert Config.from_yaml(file.stem) == Config.from_yaml(str(file))


@pytest.mark.parametrize("value", ["{variant: lin2017}", {"variant": "lin2017"}])
def test_options_of_the_neck(tmp_path, value):
    config = Config().override({"neck.name": "fpn", "neck.options": value})
    assert config.neck.options == {"variant": "lin2017"}
    assert config == Config().override({"neck.name": "fpn", "neck.options.variant": "lin2017"})
    more = config.override({"neck.options.conv_block": "{separable: false}"})
    assert more.neck.options == {"variant": "lin2017", "conv_block": {"separable": False}}
    assert Config.from_yaml(write(tmp_path, more.to_yaml())) == more


def test_a_backbone_brings_what_its_weights_need():
    lite = Config.for_model("efficientdet-lite0")
    resnet = lite.override({"model.backbone": "resnet50"}).model
    assert resnet.pixel_mean == (123.68, 116.779, 103.939) and resnet.pixel_std == (1, 1, 1)
    assert resnet.backbone_survival_prob == 1
    back = lite.override({"model.backbone": "resnet50"}).override(
        {"model.backbone": "efficientnet-lite0"}
    )
    assert back == lite
    own = {"model.backbone": "efficientnet-b0", "model.pixel_mean": [1, 2, 3]}
    assert lite.override(own).model.pixel_mean == (1, 2, 3)
    same = lite.override({"model.pixel_mean": [1, 2, 3]})
    assert same.override({"model.backbone": "efficientnet-lite0"}) == same


# Error messages.


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("efficientdet-d8", "unknown model 'efficientdet-d8'; did you mean 'efficientdet-d7'?"),
        ("d0", f"unknown model 'd0'; known: {ALL_NAMES}"),
        (None, f"unknown model None; known: {ALL_NAMES}"),
        ([0], f"unknown model [0]; known: {ALL_NAMES}"),
    ],
)
def test_an_unknown_model(name, expected):
    assert message(Config.for_model, name) == expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (
            "optimizer.learning_rat",
            "unknown key 'optimizer.learning_rat'; did you mean 'optimizer.learning_rate'?",
        ),
        ("learning_rate", "unknown key 'learning_rate'; did you mean 'optimizer.learning_rate'?"),
        ("train.epochs", "unknown key 'train.epochs'; did you mean 'training.epochs'?"),
        ("zzz", f"unknown key 'zzz'; the sections are {SECTIONS}"),
        ("trainning", "unknown key 'trainning'; did you mean 'training'?"),
        (
            "distillation.score_treshold",
            "unknown key 'distillation.score_treshold'; did you mean "
            "'distillation.score_threshold'?",
        ),
        (
            "optimizer.lr",
            f"unknown key 'optimizer.lr'; the settings of optimizer are {OPTIMIZER}",
        ),
        ("optimizer", f"unknown key 'optimizer'; the settings of optimizer are {OPTIMIZER}"),
    ],
)
def test_an_unknown_key(key, expected):
    assert message(Config().override, {key: 1}) == expected


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("training.epochs", "many", "training.epochs: 'many' is not a whole number above 0"),
        ("training.epochs", 2.5, "training.epochs: 2.5 is not a whole number above 0"),
        ("training.epochs", True, "training.epochs: True is not a whole number above 0"),
        ("training.epochs", "1e400", "training.epochs: '1e400' is not a whole number above 0"),
        ("optimizer.momentum", "", "optimizer.momentum: '' is not a number from 0 to 1"),
        ("optimizer.momentum", ".nan", "optimizer.momentum: '.nan' is not a number from 0 to 1"),
        ("optimizer.momentum", None, "optimizer.momentum: None is not a number from 0 to 1"),
        ("optimizer.momentum", "[1", "optimizer.momentum: '[1' is not a number from 0 to 1"),
        ("data.strict", "1", "data.strict: '1' is not true or false"),
        ("data.strict", 1, "data.strict: 1 is not true or false"),
        ("data.val", None, "data.val: None is not text"),
        ("model.image_size", "axb", f"model.image_size: 'axb' is not {SIZE}"),
        ("model.image_size", [64], f"model.image_size: [64] is not {SIZE}"),
        ("model.image_size", "32", f"model.image_size: '32' is not {SIZE}"),
        ("model.image_size", "63x64", f"model.image_size: '63x64' is not {SIZE}"),
        ("model.image_size", [True, 64], f"model.image_size: [True, 64] is not {SIZE}"),
        ("anchors.aspect_ratios", 1, f"anchors.aspect_ratios: 1 is not {RATIOS}"),
        ("anchors.aspect_ratios", [], f"anchors.aspect_ratios: [] is not {RATIOS}"),
        ("anchors.aspect_ratios", [1, "a"], f"anchors.aspect_ratios: [1, 'a'] is not {RATIOS}"),
        ("anchors.aspect_ratios", [1, -2], f"anchors.aspect_ratios: [1, -2] is not {RATIOS}"),
        ("model.min_level", 6, "model.min_level: 6 is not a whole number from 1 to 5"),
        ("model.min_level", 0, "model.min_level: 0 is not a whole number from 1 to 5"),
        ("model.max_level", 4, "model.max_level: 4 is not a whole number of 5 or more"),
        (
            "model.pixel_std",
            [1, 0, 1],
            "model.pixel_std: [1, 0, 1] is not 3 numbers, each 0.001 or more",
        ),
        ("optimizer.learning_rate", -1, "optimizer.learning_rate: -1 is not a number of 0 or more"),
        ("optimizer.ema_decay", 1.5, "optimizer.ema_decay: 1.5 is not a number from 0 to 1"),
        ("training.batch_size", 0, "training.batch_size: 0 is not a whole number above 0"),
        (
            "training.seed",
            2**31,
            "training.seed: 2147483648 is not a whole number from 0 to 2147483647",
        ),
        (
            "detection.score_threshold",
            30,
            "detection.score_threshold: 30 is not a number from 0 to 1",
        ),
        ("augmentation.scale_max", 0.05, "augmentation.scale_max: is below augmentation.scale_min"),
        ("detection.nms", "soft", "detection.nms: 'soft' is not one of gaussian, hard"),
        ("detection.nms", False, "detection.nms: False is not one of gaussian, hard"),
        (
            "model.freeze",
            "(",
            "model.freeze: '(' is not a regular expression: missing ), unterminated subpattern at "
            "position 0",
        ),
        ("data.verify", "no", "data.verify: 'no' is not one of auto, full, header, background"),
        ("model.backbone", "vgg", f"model.backbone: 'vgg' is not one of {BACKBONES}, module:class"),
        (
            "neck.name",
            "bifpm",
            f"neck.name: 'bifpm' is not one of {', '.join(NETWORKS)}, module:class",
        ),
        ("neck.num_repeats", 0, "neck.num_repeats: 0 is not a whole number above 0"),
        (
            "neck.options",
            "[1]",
            "neck.options: '[1]' is not names and values, e.g. {variant: lin2017}",
        ),
        (
            "neck.options",
            {1: 2},
            f"neck.options.1: bifpn has no such option; known: {BIFPN_OPTIONS}",
        ),
        (
            "neck.options.chain",
            "post",
            f"neck.options.chain: bifpn has no such option; known: {BIFPN_OPTIONS}",
        ),
        (
            "neck.options.conv_block",
            "heavy",
            "neck.options.conv_block: 'heavy' is not one of light, dense, and not a mapping of "
            "fields",
        ),
        (
            "model.name",
            "efficientdet-d1",
            "model.name: is 'efficientdet-d0' here; choose a model by --model",
        ),
    ],
)
def test_a_value_that_no_run_could_use(key, value, expected):
    assert message(Config().override, {key: value}) == expected


def test_a_pyramid_has_two_levels():
    assert message(Config().override, {"model.min_level": 5, "model.max_level": 5}) == (
        "model.min_level: must be below model.max_level"
    )


def test_a_pyramid_has_no_level_that_the_backbone_lacks():
    resnet = Config().override({"model.backbone": "resnet50"})
    assert message(resnet.override, {"model.min_level": 1}) == (
        "model.min_level: the finest of resnet50 is 2"
    )
    assert resnet.override({"model.min_level": 2}).model.min_level == 2


@pytest.mark.parametrize(
    ("setting", "value"),
    [("backbone_width", 0.5), ("backbone_depth", 0.5), ("backbone_survival_prob", 0.8)],
)
def test_a_backbone_of_one_size(setting, value):
    config = Config().override({"model.backbone": "resnet50"})
    argument = setting.removeprefix("backbone_")
    assert message(config.override, {f"model.{setting}": value}) == (
        f"model.backbone_{argument}: resnet50 has a fixed size; set 1, not {value}"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "neck: {options: {variant: lin2017}}",
            f"neck.options.variant: bifpn has no such option; known: {BIFPN_OPTIONS}",
        ),
        (
            "neck: {name: pafpn, options: {chian: pre}}",
            "neck.options.chian: pafpn has no such option; did you mean 'chain'?",
        ),
        ("- a", "must hold keys and values"),
        ("model: efficientdet-d1", "model: must hold keys and values"),
        ("model: {name: d1}", f"unknown model 'd1'; known: {ALL_NAMES}"),
        ("training: {epoch: 1}", "unknown key 'training.epoch'; did you mean 'training.epochs'?"),
        ("epochs: 1", "unknown key 'epochs'; did you mean 'training.epochs'?"),
        ("training.epochs: 1", "training.epochs: in a file, write epochs below training"),
        ("1: 2", f"unknown key 1; the sections are {SECTIONS}"),
        ("training: {epochs: 0}", "training.epochs: 0 is not a whole number above 0"),
    ],
)
def test_a_bad_file_is_named_with_its_key(tmp_path, text, expected):
    path = write(tmp_path, text)
    assert message(Config.from_yaml, path) == f"config {path}: {expected}"


def test_a_file_that_is_not_yaml_is_named_with_the_place(tmp_path):
    path = write(tmp_path, "training:\n  epochs: [1\n")
    text = message(Config.from_yaml, path)
    assert text.startswith(f"config {path}: not valid YAML: ")
    assert "line 3, column 1" in text


def test_a_repeated_key_is_refused(tmp_path):
    path = write(tmp_path, "training:\n  epochs: 5\ntraining:\n  batch_size: 4\n")
    assert message(Config.from_yaml, path) == (
        f"config {path}: not valid YAML: found key 'training' again in \"{path}\", line 3, column 1"
    )


def test_a_path_may_be_a_date(tmp_path):
    path = write(tmp_path, "data: {train: 2026-01-31, val: 2026-99-01}")
    data = Config.from_yaml(path).data
    assert (data.train, data.val) == ("2026-01-31", "2026-99-01")


def test_yaml_that_python_cannot_read(tmp_path):
    path = write(tmp_path, "training: {epochs: !!int many}")
    assert message(Config.from_yaml, path) == (
        f"config {path}: not valid YAML: invalid literal for int() with base 10: 'many'"
    )


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    assert message(Config.from_yaml, str(path)).startswith(f"config {path}: not valid YAML: ")


def test_a_missing_file(tmp_path):
    path = str(tmp_path / "none.yaml")
    text = message(Config.from_yaml, path)
    assert text.startswith(f"config {path}: No such file or directory; built in: ")
    assert "digits" in text


def test_an_assignment_needs_a_value():
    assert message(parse_assignments, ["training.epochs"]) == (
        "--set training.epochs: expected key=value"
    )
