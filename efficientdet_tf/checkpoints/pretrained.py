"""Trained weights, wherever they are from, as the start of a model."""

import dataclasses
import pathlib
from collections.abc import Collection

import h5py
import tf_keras as keras

from efficientdet_tf import model as model_lib
from efficientdet_tf.checkpoints import download, published, registry
from efficientdet_tf.checkpoints.reference import load_reference_weights
from efficientdet_tf.config import Config
from efficientdet_tf.errors import UserError
from efficientdet_tf.training.run_directory import RunDirectory
from keras_layers.heads import PredictionHead

# Its variables belong to the classes they were trained on.
_CLASS_LAYER = "class_head/predict/"

# What a model may differ in from that of its weights.
_FREE_SETTINGS = (
    "name",
    "num_classes",
    "image_size",
    "backbone_survival_prob",
    "pixel_mean",
    "pixel_std",
)


class PretrainedError(UserError):
    """Weights of another model than the one they should start."""


@dataclasses.dataclass(frozen=True)
class Report:
    """What became of a model's variables; its text is one line.

    Args:
      source: where the weights are from.
      loaded: number of variables that have trained values now.
      total: number of variables of the model.
      rest: which variables keep their fresh initialisation, and why.
    """

    source: str
    loaded: int
    total: int
    rest: str = ""

    def __str__(self):
        text = f"{self.source}: {self.loaded} of {self.total} variables loaded"
        return f"{text}; {self.rest}" if self.rest else text


def load_pretrained(model: keras.Model, config: Config, source: str) -> Report:
    """Starts a model from trained weights.

    With another number of classes, the last layer of the class head keeps its
    fresh initialisation; everything else has to fit. The moving average of a
    compiled model starts from the new weights, too.

    Args:
      model: of `efficientdet_tf.model.build(config)`, compiled or not.
      config: the model's.
      source: a name in `registry.ENTRIES`, or the path of a published
        checkpoint, of a run directory, or of its `.weights.h5`.

    Raises:
      UserError: one line that names what is missing, damaged or different; the
        model is unchanged then.
    """
    found = registry.find(source)
    if isinstance(found, registry.Entry):
        _check_same_network(Config.for_model(found.model), config, source)
        found = download.fetch(found)
    report = _LOADERS[_kind(found)](model, config, found)
    average = getattr(model, "moving_average", None)
    if average is not None:
        average.restart()
    return dataclasses.replace(report, source=source)


def _kind(path: pathlib.Path) -> str:
    """The key of `_LOADERS` for what is at a path; in doubt "published"."""
    if (path / "config.yaml").is_file():
        return "run"
    if path.suffix == ".h5" and h5py.is_hdf5(path):
        try:
            with h5py.File(path, "r") as file:
                return "weights" if "layers" in file else "published"
        except OSError:
            return "published"
    return "published"


def _from_published(model: keras.Model, config: Config, path: pathlib.Path) -> Report:
    weights = published.read(path, config.model)
    bias = weights.get("class_net/class-predict/bias")
    num_classes = config.model.num_classes
    if bias is not None and len(bias) % _anchors_per_cell(config) == 0:
        num_classes = len(bias) // _anchors_per_cell(config)
    keep, rest = _class_layer(model, config, num_classes)
    loaded = load_reference_weights(model, weights, config.model, str(path), keep)
    return Report(str(path), loaded, len(model.weights), rest)


def _from_run(model: keras.Model, config: Config, path: pathlib.Path) -> Report:
    run = RunDirectory(path)
    _check_same_network(run.config(), config, str(path))
    keep, rest = _class_layer(model, config, run.config().model.num_classes)
    return _copy(model, run.load_model("best"), str(path), keep, rest)


def _from_weights(model: keras.Model, config: Config, path: pathlib.Path) -> Report:
    """From a file alone: taken to be of the model's network, but for the classes."""
    run = RunDirectory(path.parent)
    if run.exists():
        _check_same_network(run.config(), config, str(path))
    try:
        with h5py.File(path, "r") as file:
            num_outputs = len(file[f"layers/{_name_in_file(model)}/predict/vars/2"])
            num_variables = _count_datasets(file["layers"])
        num_classes = max(1, num_outputs // _anchors_per_cell(config))
        trained = model_lib.build(config.override({"model.num_classes": num_classes}))
        trained.load_weights(str(path))
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PretrainedError(f"{path}: does not fit {config.model.name}: {reason}") from error
    if num_variables != len(trained.weights):
        raise PretrainedError(
            f"{path}: does not fit {config.model.name}: it holds {num_variables} variables, "
            f"the model {len(trained.weights)}"
        )
    keep, rest = _class_layer(model, config, num_classes)
    return _copy(model, trained, str(path), keep, rest)


# How weights of a kind are loaded: called with the model, its config and a path.
_LOADERS = {"published": _from_published, "run": _from_run, "weights": _from_weights}


def _check_same_network(trained: Config, config: Config, source: str) -> None:
    sections = (("model", _FREE_SETTINGS), ("anchors", ("scale", "match_threshold")))
    for section, free in sections:
        there, here = trained.to_dict()[section], config.to_dict()[section]
        for key in (key for key in here if key not in free and here[key] != there[key]):
            raise PretrainedError(
                f"{source}: was trained with {section}.{key} {there[key]}, the model has "
                f"{here[key]}; choose the same --model and settings"
            )


def _class_layer(model: keras.Model, config: Config, num_classes: int) -> tuple[list[str], str]:
    """Names of the variables that weights of `num_classes` have no values for, and the reason."""
    if num_classes == config.model.num_classes:
        return [], ""
    names = [v.name for v in model.weights if v.name.startswith(_CLASS_LAYER)]
    return names, (
        f"the {len(names)} of {_CLASS_LAYER.rstrip('/')} are initialised anew, "
        f"for {config.model.num_classes} classes instead of {num_classes}"
    )


def _copy(
    model: keras.Model, trained: keras.Model, source: str, keep: Collection[str], rest: str
) -> Report:
    values = {variable.name: variable.numpy() for variable in trained.weights}
    wanted = [variable for variable in model.weights if variable.name not in keep]
    for variable in wanted:
        variable.assign(values[variable.name])
    return Report(source, len(wanted), len(model.weights), rest)


def _anchors_per_cell(config: Config) -> int:
    return config.anchors.num_scales * len(config.anchors.aspect_ratios)


def _name_in_file(model: keras.Model) -> str:
    """What Keras calls the class head in a weights file: heads are numbered in order."""
    heads = [layer.name for layer in model.layers if isinstance(layer, PredictionHead)]
    number = heads.index("class_head")
    return f"prediction_head_{number}" if number else "prediction_head"


def _count_datasets(group: h5py.Group) -> int:
    found = []
    group.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
    return len(found)
