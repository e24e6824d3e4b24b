"""Loading of pretrained weights from any source into a model."""

import dataclasses
import pathlib
from collections.abc import Collection

import h5py
import tf_keras as keras

from efficientdet_tf import model as model_lib
from efficientdet_tf.checkpoints import download, imagenet, published, registry
from efficientdet_tf.checkpoints.reference import check_fit, load_reference_weights
from efficientdet_tf.config import Config
from efficientdet_tf.errors import UserError
from efficientdet_tf.run_directory import RunDirectory
from keras_layers.heads import PredictionHead

# Variables of this layer are specific to the classes of their training.
_CLASS_LAYER = "class_head/predict/"

_BACKBONE = ("model.backbone", "model.backbone_width", "model.backbone_depth")
# Settings that must equal those of the weights. Differences that change no shape,
# e.g. of the activation, would otherwise be unnoticed.
_NETWORK = (
    *_BACKBONE,
    *("neck.name", "neck.options", "neck.fusion", "neck.num_filters", "neck.num_repeats"),
    *("model.head_repeats", "model.head_separable", "model.head_norm"),
    *("model.min_level", "model.max_level", "model.activation"),
    *("anchors.num_scales", "anchors.aspect_ratios"),
)


class PretrainedError(UserError):
    """Weights that do not fit the model."""


@dataclasses.dataclass(frozen=True)
class Report:
    """Report on loaded weights; its text is one line.

    Args:
      source: name or path of the weights.
      loaded: number of variables with loaded values.
      total: number of variables of the model.
      rest: the variables that keep their initial values, and the reason. Default "".
      note: what else differs from the training of the weights. Default "".
    """

    source: str
    loaded: int
    total: int
    rest: str = ""
    note: str = ""

    def __str__(self) -> str:
        text = f"{self.source}: {self.loaded} of {self.total} variables loaded"
        return "; ".join(filter(None, (text, self.rest, self.note)))


def load_pretrained(model: keras.Model, config: Config, source: str) -> Report:
    """Load pretrained weights into a model.

    With another number of classes, the final classification layer keeps its initial
    values; everything else must fit. The moving average of a compiled model restarts
    from the loaded weights.

    Args:
      model: result of `efficientdet_tf.model.build(config)`, compiled or not.
      config: config of the model.
      source: a name in `registry.ENTRIES`, or the path of a published
        checkpoint, of a run directory, of its `.weights.h5`, or of a backbone's
        `.h5` or `.pth` file.

    Returns:
      The report on loaded and initialised variables.

    Raises:
      UserError: if weights are missing, damaged or different; the model is
        unchanged.
    """
    found = registry.find(source)
    trained: Config | None = None
    if not isinstance(found, registry.Entry):
        kind, path = _kind(found), found
        run = RunDirectory(path if kind == "run" else path.parent)
        if kind in ("run", "weights") and run.exists():
            trained = run.config()
    elif found.url is None:
        kind, path = found.kind, pathlib.Path(found.name)
    else:
        trained = Config.for_model(found.model or "")
        # With another neck, fewer weights are loaded.
        settings = _NETWORK if config.neck.name == trained.neck.name else _BACKBONE
        _check_same_network(trained, config, source, settings)
        kind, path = found.kind, download.fetch(found)
    report = LOADERS[kind](model, config, path)
    if kind in ("published", "backbone"):
        report = _start_copies(model, report)
    average = getattr(model, "moving_average", None)
    if average is not None:
        average.restart()
    note = _anchor_note(trained, config) if trained is not None else ""
    return dataclasses.replace(report, source=source, note=note)


def _anchor_note(trained: Config, config: Config) -> str:
    """Describe another scale of the anchors, which changes no shape; "" for the same."""
    there, here = trained.anchors.scale, config.anchors.scale
    if there == here:
        return ""
    return f"anchors.scale is {here:g}, in their training it was {there:g}: the heads must adapt"


def has_heads(source: str) -> bool:
    """Tell whether weights are of a whole detector, with its heads, or of a backbone.

    Args:
      source: see `load_pretrained`; "" is no weights.

    Raises:
      UnknownWeights: if it is neither a known name nor a path.
    """
    if not source:
        return False
    found = registry.find(source)
    kind = found.kind if isinstance(found, registry.Entry) else _kind(found)
    return kind != "backbone"


def _start_copies(model: keras.Model, report: Report) -> Report:
    """Copy the model's backbone weights to the feature network's own backbones."""
    weights = model.get_layer("backbone").get_weights()
    copies = model.get_layer("feature_network").backbone_copies
    for copy in copies:
        copy.set_weights(weights)
    return dataclasses.replace(report, loaded=report.loaded + len(copies) * len(weights))


def _kind(path: pathlib.Path) -> str:
    """Infer the key of `LOADERS` from a path; in doubt "published"."""
    if (path / "config.yaml").is_file():
        return "run"
    if path.suffix == ".pth":
        return "backbone"
    if path.suffix == ".h5" and h5py.is_hdf5(path):
        try:
            with h5py.File(path, "r") as file:
                if "layers" in file:
                    return "weights"
                if "stem_conv" in file:
                    return "backbone"
        except OSError:
            # Damaged: reported by its reader.
            pass
    return "published"


def _from_published(model: keras.Model, config: Config, path: pathlib.Path) -> Report:
    weights = published.read(path, config)
    bias = weights.get("class_net/class-predict/bias")
    num_classes = config.model.num_classes
    if bias is not None and bias.size % _anchors_per_cell(config) == 0:
        num_classes = bias.size // _anchors_per_cell(config)
    keep, rest = _class_layer(model, config, num_classes)
    loaded = load_reference_weights(model, weights, config, str(path), keep)
    if loaded.reinitialised_parts:
        parts = ", ".join(loaded.reinitialised_parts)
        parts = f"{parts} re-initialised: the weights are of another network"
        # The class layer is in one of the parts, or fits except for the classes.
        is_class_head_loaded = "class_head" not in loaded.reinitialised_parts
        rest = f"{parts}; {rest}" if rest and is_class_head_loaded else parts
    return Report(str(path), loaded.count, len(model.weights), rest)


def _from_run(model: keras.Model, config: Config, path: pathlib.Path) -> Report:
    run = RunDirectory(path)
    _check_same_network(run.config(), config, str(path))
    keep, rest = _class_layer(model, config, run.config().model.num_classes)
    return _copy(model, run.load_model("best"), str(path), keep, rest)


def _from_weights(model: keras.Model, config: Config, path: pathlib.Path) -> Report:
    """Load a weights file, assumed to be of the model's network except for the classes."""
    run = RunDirectory(path.parent)
    if run.exists():
        _check_same_network(run.config(), config, str(path))
    try:
        with h5py.File(path, "r") as file:
            # The bias is the last variable, whether the convolution is separable or dense.
            variables = file[f"layers/{_name_in_file(model)}/predict/vars"]
            num_outputs = variables[max(variables, key=int)].size
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


def _from_backbone(model: keras.Model, config: Config, path: pathlib.Path) -> Report:
    loaded = imagenet.load_backbone(model, config.model, str(path))
    return Report(str(path), loaded, len(model.weights), "all but the backbone is re-initialised")


# Kind of weights -> function (model, its config, path) that loads them.
LOADERS = {
    "published": _from_published,
    "run": _from_run,
    "weights": _from_weights,
    "backbone": _from_backbone,
}


def _check_same_network(
    trained: Config, config: Config, source: str, settings: Collection[str] = _NETWORK
) -> None:
    there, here = trained.to_dict(), config.to_dict()
    for setting in settings:
        section, key = setting.split(".")
        if there[section][key] != here[section][key]:
            raise PretrainedError(
                f"{source}: was trained with {setting} {there[section][key]}, the model has "
                f"{here[section][key]}; choose the same --model and settings"
            )


def _class_layer(model: keras.Model, config: Config, num_classes: int) -> tuple[list[str], str]:
    """List variables without values in weights of `num_classes`, and the reason."""
    if num_classes == config.model.num_classes:
        return [], ""
    names = [v.name for v in model.weights if v.name.startswith(_CLASS_LAYER)]
    return names, (
        f"the {len(names)} of {_CLASS_LAYER.rstrip('/')} are re-initialised, "
        f"for {config.model.num_classes} classes instead of {num_classes}"
    )


def _copy(
    model: keras.Model, trained: keras.Model, source: str, keep: Collection[str], rest: str
) -> Report:
    values = {v.name: v.numpy() for v in trained.weights if v.name not in keep}
    wanted = [variable for variable in model.weights if variable.name not in keep]
    check_fit(
        {name: value.shape for name, value in values.items()},
        {variable.name: tuple(variable.shape) for variable in wanted},
        f"{source}: weights do not fit",
    )
    for variable in wanted:
        variable.assign(values[variable.name])
    return Report(source, len(wanted), len(model.weights), rest)


def _anchors_per_cell(config: Config) -> int:
    return config.anchors.num_scales * len(config.anchors.aspect_ratios)


def _name_in_file(model: keras.Model) -> str:
    """Return Keras' name of the class head in a weights file: heads are numbered in order."""
    heads = [layer.name for layer in model.layers if isinstance(layer, PredictionHead)]
    number = heads.index("class_head")
    return f"prediction_head_{number}" if number else "prediction_head"


def _count_datasets(group: h5py.Group) -> int:
    found = []
    group.visititems(lambda name, item: found.append(name) if hasattr(item, "shape") else None)
    return len(found)
