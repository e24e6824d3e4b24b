"""A backbone and a feature network of a user's own, as the page about them has them."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest

import commands
import tiny
from efficientdet_tf import model as model_lib
from efficientdet_tf.checkpoints.imagenet import BackboneError, read_backbone
from efficientdet_tf.config import Config, ConfigError
from efficientdet_tf.detector import Detector
from efficientdet_tf.run_directory import RunDirectory
from efficientdet_tf.training.freezing import freeze

PAGE = (Path(__file__).parents[1] / "docs" / "own-parts.md").read_text()


MORE = """
from my_parts import Neighbours, PlainBackbone

class FromLevel4(PlainBackbone):
    def call(self, images, training=None):
        features = super().call(images, training)
        return {level: features[level] for level in (4, 5)}

class Wide(PlainBackbone):
    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)

class List(PlainBackbone):
    def call(self, images, training=None):
        return list(super().call(images, training).values())

class Early(PlainBackbone):
    def call(self, images, training=None):
        return {level - 1: x for level, x in super().call(images, training).items()}

class Deep(Neighbours):
    def __init__(self, *, depth=1, **kwargs):
        super().__init__(**kwargs)
        self.depth = depth
"""


@pytest.fixture(scope="module")
def my_parts(tmp_path_factory):
    """Folder with the module of the page, where Python finds it."""
    folder = tmp_path_factory.mktemp("own")
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (folder / "my_parts.py").write_text(code)
    (folder / "more_parts.py").write_text(MORE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield folder
        for name in ("my_parts", "more_parts"):
            sys.modules.pop(name, None)


def test_the_command_of_the_page_trains_and_its_run_detects(my_parts, tmp_path, monkeypatch):
    [block] = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    _, _, *words = shlex.split(block.replace("\\\n", " "))
    coco_file = tiny.write_coco_file(tmp_path, 3)
    monkeypatch.chdir(tmp_path)
    Path("train.json").write_text(Path(coco_file).read_text())
    Path("val.json").write_text(Path(coco_file).read_text())
    small = tiny.NETWORK | {"training.epochs": 1, "training.steps_per_epoch": 1}
    small |= {"training.batch_size": 2, "neck.options.conv_block": "dense"}
    # Those of the page come last.
    settings = [f"--set={key}={value}" for key, value in small.items()]
    done = commands.call(words[0], "--model=efficientdet-lite0", *settings, *words[1:])
    assert done.returncode == 0, done.stderr
    stored = RunDirectory("runs/mine").config()
    assert stored.model.backbone == "my_parts:PlainBackbone"
    assert stored.neck.name == "my_parts:Neighbours"
    [found] = Detector.load("runs/mine").detect(np.zeros([64, 64, 3], np.uint8))
    assert len(found.boxes) == len(found.scores)


def test_names_and_levels_are_those_of_the_page(my_parts):
    model = model_lib.build(tiny.config(**{"model.backbone": "my_parts:PlainBackbone"}))
    names = {variable.name for variable in model.get_layer("backbone").weights}
    assert "backbone/conv_1/kernel:0" in names and "backbone/bn_5/gamma:0" in names
    assert [len(names), set(model.output)] == [
        25,
        {f"{c}_{n}" for c in ("cls", "box") for n in (3, 4, 5)},
    ]


def test_a_feature_network_is_drawn(my_parts, tmp_path):
    words = ("-m", "efficientdet_tf", "draw", "--neck=my_parts:Neighbours")
    done = commands.call(*words, f"--output={tmp_path / 'mine.svg'}")
    assert done.returncode == 0, done.stderr
    assert "my_parts:Neighbours" in (tmp_path / "mine.svg").read_text()


def test_another_backbone_brings_the_pixel_statistics_of_imagenet():
    lite = Config.for_model("efficientdet-lite0", **{"model.backbone_width": 0.5})
    own = lite.override({"model.backbone": "not.imported:Yet"})
    assert own.model.pixel_mean == Config().model.pixel_mean != lite.model.pixel_mean
    assert own.model.backbone_survival_prob == own.model.backbone_width == 1
    assert Config.from_dict(own.to_dict()) == own
    with pytest.raises(ConfigError) as error:
        own.override({"model.backbone_width": 0.5})
    assert str(error.value) == (
        "model.backbone_width: not.imported:Yet has a fixed size; set 1, not 0.5"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"model.backbone": "no_such.module:Net"},
            "model.backbone: no_such.module:Net: there is no module no_such; its folder must be on "
            "PYTHONPATH",
        ),
        (
            {"model.backbone": "my_parts:Missing"},
            "model.backbone: my_parts:Missing: the module has no Missing",
        ),
        (
            {"neck.name": "my_parts:Missing"},
            "neck.name: my_parts:Missing: the module has no Missing",
        ),
        (
            {"model.backbone": "my_parts:PlainBackbone", "neck.name": "rfp"},
            "neck.name: rfp feeds its output back into the backbone, and PlainBackbone has no "
            "input for it; choose another backbone or feature network",
        ),
        (
            {"model.backbone": "more_parts:FromLevel4"},
            "model.min_level: the finest of more_parts:FromLevel4 is 4",
        ),
        (
            {"model.backbone": "json:loads"},
            "model.backbone: json:loads is no class of a Keras layer",
        ),
        (
            {"neck.name": "json:JSONDecoder"},
            "neck.name: json:JSONDecoder is no class of a feature network",
        ),
        (
            {"model.backbone": "more_parts:Wide"},
            "model.backbone: more_parts:Wide: cannot be made with a name only: Wide.__init__() "
            "missing 1 required positional argument: 'width'",
        ),
        (
            {"model.backbone": "more_parts:List"},
            "model.backbone: more_parts:List: returns list; return a dict {level: map}",
        ),
        (
            {"model.backbone": "more_parts:Early"},
            "model.backbone: more_parts:Early: level 0 of 128 x 128 pixels has the shape (None, "
            "64, 64, 16), not 128 x 128 positions",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(my_parts, settings, message):
    with pytest.raises(ConfigError) as error:
        model_lib.build(tiny.config(**settings))
    assert str(error.value) == message


def test_options_and_frozen_layers_are_those_of_the_classes(my_parts):
    config = tiny.config(
        **{"model.backbone": "my_parts:PlainBackbone", "neck.name": "more_parts:Deep"},
        **{"neck.options.depth": 2},
    )
    model = model_lib.build(config)
    assert model.get_layer("feature_network").depth == 2
    assert freeze(model, "backbone/conv_1/.*") == 1


def test_an_option_that_a_network_of_ones_own_lacks(my_parts):
    with pytest.raises(ConfigError) as error:
        tiny.config(**{"neck.name": "my_parts:Neighbours", "neck.options.depth": 2})
    assert str(error.value).startswith("neck.options.depth: my_parts:Neighbours has no such option")


def test_a_module_that_lacks_one_itself_keeps_its_traceback(my_parts):
    (my_parts / "needs_another.py").write_text("import a_module_that_is_not_there\n")
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        model_lib.build(tiny.config(**{"model.backbone": "needs_another:Net"}))


def test_there_are_no_imagenet_weights_for_it():
    with pytest.raises(BackboneError) as error:
        read_backbone("my_parts:PlainBackbone")
    assert str(error.value) == (
        "imagenet: cannot be read for my_parts:PlainBackbone; let its class load its weights, or "
        "start from a run"
    )
