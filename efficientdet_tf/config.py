"""Every hyper-parameter of the project, once.

A `Config` is a frozen dataclass of frozen dataclasses, one for each concern.
It is made in four layers, later ones winning:

1. the table of models (`MODELS`) and the dataclass defaults,
2. a YAML file (`Config.from_yaml`, the `--config` flag),
3. dotted overrides (`config.override({"optimizer.learning_rate": 0.04})`, the
   `--set` flag),
4. the few flags people type daily, which are overrides too.

An unknown key or a value of the wrong type raises `ConfigError` with a message
that names the key and the nearest known one.
"""

import dataclasses
import difflib
import math
import pathlib
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from efficientdet_tf.errors import UserError

# Ready-made configs, used by name.
_BUILT_IN = pathlib.Path(__file__).parent / "configs"


class ConfigError(UserError):
    """A configuration that cannot be used."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network: compound-scaled sizes of one EfficientDet (paper, table 1)."""

    name: str = "efficientdet-d0"
    # Number of classes of the data set; there is no background class.
    num_classes: int = 90
    # (height, width) of the network's input in pixels, each at least 64.
    image_size: tuple[int, int] = (512, 512)
    backbone: str = "efficientnet-b0"
    # Probability with which a residual block survives a training step; 1 is off.
    backbone_survival_prob: float = 1.0
    feature_network: str = "bifpn"
    # Fusion of a feature-network node: see `keras_layers.fusion.METHODS`.
    fusion: str = "fast"
    num_filters: int = 64
    fpn_repeats: int = 3
    head_repeats: int = 3
    min_level: int = 3
    max_level: int = 7
    activation: str = "swish"
    # RGB mean and standard deviation on the 0..255 scale.
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)


@dataclasses.dataclass(frozen=True)
class AnchorConfig:
    """The grid of anchors."""

    # Size of the smallest anchor of a level, in strides of that level.
    scale: float = 4.0
    # Octave steps: sizes are scale * 2 ** (i / num_scales).
    num_scales: int = 3
    # width / height of each anchor at equal area.
    aspect_ratios: tuple[float, ...] = (1.0, 2.0, 0.5)
    # An anchor with at least this IoU answers for the object.
    match_threshold: float = 0.5


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Focal loss for classes, Huber (and optionally IoU) loss for boxes."""

    focal_alpha: float = 0.25
    focal_gamma: float = 1.5
    label_smoothing: float = 0.0
    huber_delta: float = 0.1
    box_weight: float = 50.0
    # One of "none", "iou", "giou", "diou", "ciou".
    iou_loss: str = "none"
    iou_weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the images and boxes are, and how bad records are treated."""

    # A data set path, or "digits" for the built-in one.
    train: str = "digits"
    val: str = "digits"
    # "auto", or one of the formats of `efficientdet_tf.data.FORMATS`.
    format: str = "auto"
    # Folder of the images of a COCO annotation file; "" searches beside it.
    train_images: str = ""
    val_images: str = ""
    # "full" decodes every image before the start, "header" reads headers only.
    verify: str = "full"
    # Stop at the first bad record instead of skipping and counting it.
    strict: bool = False
    # Keep decoded images in memory: for data sets much smaller than it.
    cache: bool = False


@dataclasses.dataclass(frozen=True)
class AugmentationConfig:
    """What training does to an image (paper, section 5.1)."""

    horizontal_flip: bool = True
    # The image is scaled by a factor drawn from this range, then cropped or
    # padded to the model's size. (1, 1) is off.
    scale_min: float = 0.1
    scale_max: float = 2.0


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer, learning-rate schedule, and moving average of the weights."""

    # "sgd" or "adam".
    name: str = "sgd"
    # Learning rate at `reference_batch_size` images a step, scaled linearly.
    learning_rate: float = 0.08
    reference_batch_size: int = 64
    momentum: float = 0.9
    # "cosine" reaches zero at the end; "cosine_reference", "polynomial" and
    # "stepwise" are the published implementation's curves.
    schedule: str = "cosine"
    warmup_epochs: float = 1.0
    # Learning rate at the first step, as a fraction of the peak.
    warmup_fraction: float = 0.1
    weight_decay: float = 4e-5
    # Every gradient, then all together, are clipped to this L2 norm; 0 is off.
    clip_norm: float = 10.0
    # Decay of the moving average, approached as (1 + n) / (10 + n); 0 is off.
    ema_decay: float = 0.9998


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How long, in what portions, and on which devices."""

    epochs: int = 300
    # Images in a step over all replicas.
    batch_size: int = 64
    # Steps in an epoch; 0 is one pass over the training set.
    steps_per_epoch: int = 0
    # COCO metrics on the validation set every so many epochs.
    eval_every: int = 1
    eval_batch_size: int = 8
    # "auto", "cpu", "gpu", "mirrored", "multi_worker" or "tpu".
    strategy: str = "auto"
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class DetectionConfig:
    """From raw outputs to detections."""

    # "gaussian" (soft) or "hard".
    nms: str = "gaussian"
    # Suppress within each class, or "global" over all of them.
    nms_scope: str = "per_class"
    # Two boxes above this IoU are one object (hard suppression).
    iou_threshold: float = 0.5
    # Width of the Gaussian of soft suppression.
    sigma: float = 0.5
    score_threshold: float = 0.001
    # The best (anchor, class) pairs that reach suppression; 0 keeps the best
    # class of every anchor.
    pre_nms_top_k: int = 5000
    max_detections: int = 100


@dataclasses.dataclass(frozen=True)
class Config:
    """The whole configuration of a run. Make one with `Config.for_model`."""

    model: ModelConfig = ModelConfig()
    anchors: AnchorConfig = AnchorConfig()
    loss: LossConfig = LossConfig()
    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    detection: DetectionConfig = DetectionConfig()

    @classmethod
    def for_model(cls, name: str, **overrides: Any) -> "Config":
        """The published configuration of `name`, e.g. "efficientdet-d0".

        Args:
          name: a key of `MODELS`.
          **overrides: dotted keys, as of `override`.
        """
        if not isinstance(name, str) or name not in MODELS:
            raise ConfigError(f"unknown model {name!r}{_did_you_mean(name, MODELS)}")
        config = cls(**MODELS[name])
        return config.override(overrides)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """A config from nested dicts, on top of the model table.

        `values["model"]["name"]` chooses the row of the table; everything else
        in `values` overrides it.
        """
        flat = _flatten(values)
        return cls.for_model(flat.get("model.name", ModelConfig.name)).override(flat)

    @classmethod
    def from_yaml(cls, path: str, model: str | None = None) -> "Config":
        """A config from a YAML file with the keys of `to_dict`, all optional.

        Args:
          path: of the file, or the name of a built-in one, e.g. "digits".
          model: row of the model table to use instead of the file's `model.name`.

        Raises:
          ConfigError: when the file cannot be read or used.
        """
        built_in = _BUILT_IN / f"{path}.yaml"
        try:
            with open(built_in if built_in.is_file() else path, encoding="utf-8") as file:
                values = yaml.safe_load(file) or {}
        except OSError as error:
            names = ", ".join(sorted(file.stem for file in _BUILT_IN.glob("*.yaml")))
            raise ConfigError(f"config {path}: {error.strerror}; built in: {names}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"config {path}: not valid YAML: {reason}") from error
        if not isinstance(values, Mapping):
            raise ConfigError(f"config {path}: must hold keys and values")
        try:
            flat = _flatten(values) | ({"model.name": model} if model else {})
            return cls.for_model(flat.get("model.name", ModelConfig.name)).override(flat)
        except ConfigError as error:
            raise ConfigError(f"config {path}: {error}") from error

    def override(self, values: Mapping[str, Any]) -> "Config":
        """This config with dotted keys replaced.

        Args:
          values: e.g. `{"optimizer.learning_rate": 0.04, "model.image_size":
            "384x640"}`. Strings are read as YAML, so values may come straight
            from a command line.

        Raises:
          ConfigError: for an unknown key or a value of the wrong type.
        """
        config = self
        for key, value in values.items():
            config = config._replace_one(key, value)
        _check(config)
        return config

    def to_dict(self) -> dict:
        """Nested dicts of plain YAML values; `from_dict` is the inverse."""
        return _plain(dataclasses.asdict(self))

    def to_yaml(self) -> str:
        """The text that `from_yaml` reads back to an equal config."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def _replace_one(self, key: str, value: Any) -> "Config":
        section_name, _, field_name = key.partition(".")
        if key not in known_keys():
            raise ConfigError(f"unknown key {key!r}{_nearest_key(key)}")
        if key == "model.name" and value != self.model.name:
            # Alone it would change nothing but the name.
            raise ConfigError(f"model.name: is {self.model.name!r} here; choose a model by --model")
        section = getattr(self, section_name)
        value = _coerce(key, value, typing.get_type_hints(type(section))[field_name])
        return dataclasses.replace(
            self, **{section_name: dataclasses.replace(section, **{field_name: value})}
        )


def known_keys() -> list[str]:
    """All dotted keys of a `Config`, in order."""
    return [
        f"{section.name}.{field.name}"
        for section in dataclasses.fields(Config)
        for field in dataclasses.fields(section.type)
    ]


def parse_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """`["optimizer.momentum=0.8"]` as `{"optimizer.momentum": "0.8"}`.

    Raises:
      ConfigError: for an item without "=".
    """
    values = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: expected key=value")
        values[key.strip()] = value.strip()
    return values


def compound_scaling(phi: float) -> dict[str, int]:
    """Width, depths and resolution by the paper's formulas (section 4.2).

    Equations 1 to 3: width 64 * 1.35 ** phi, BiFPN depth 3 + phi, head depth
    3 + floor(phi / 3), input 512 + 128 * phi. The paper rounds widths by hand;
    here they are rounded to the nearest multiple of 8, and the input to the
    nearest multiple of 128. Fractional and negative phi are allowed as long as
    everything stays positive.

    Args:
      phi: the compound coefficient; 0 gives D0.

    Returns:
      `num_filters`, `fpn_repeats`, `head_repeats`, `image_size` (pixels).

    Raises:
      ConfigError: when a size would be zero or negative.
    """
    if not math.isfinite(phi):
        raise ConfigError(f"compound coefficient {phi} is not a finite number")
    sizes = {
        "num_filters": 8 * _nearest(64 * 1.35**phi / 8),
        "fpn_repeats": _nearest(3 + phi),
        "head_repeats": 3 + math.floor(phi / 3),
        "image_size": 128 * _nearest((512 + 128 * phi) / 128),
    }
    if min(sizes.values()) <= 0:
        raise ConfigError(f"compound coefficient {phi} leaves nothing: {sizes}")
    return sizes


def _nearest(value: float) -> int:
    """Rounded, halves up, so that a larger coefficient never gives a smaller size."""
    return math.floor(value + 0.5)


def _published(
    name, size, backbone, width, cells, head, *, anchor_scale=4.0, fusion="fast", max_level=7
) -> dict:
    """A row of `MODELS` from the columns that differ between models."""
    lite = "lite" in name
    family = (
        dict(activation="relu6", pixel_mean=(127.0, 127.0, 127.0), pixel_std=(128.0, 128.0, 128.0))
        if lite
        else {}
    )
    model = ModelConfig(
        name=f"efficientdet-{name}",
        image_size=(size, size),
        backbone=f"efficientnet-{backbone}",
        # The published backbones keep 0.8 of their blocks, but for B0.
        backbone_survival_prob=1.0 if backbone == "b0" else 0.8,
        fusion=fusion,
        num_filters=width,
        fpn_repeats=cells,
        head_repeats=head,
        max_level=max_level,
        **family,
    )
    return {"model": model, "anchors": AnchorConfig(scale=anchor_scale)}


MODELS = {
    row["model"].name: row
    for row in (
        # name, input, backbone, width, BiFPN cells, head layers
        _published("d0", 512, "b0", 64, 3, 3),
        _published("d1", 640, "b1", 88, 4, 3),
        _published("d2", 768, "b2", 112, 5, 3),
        _published("d3", 896, "b3", 160, 6, 4),
        _published("d4", 1024, "b4", 224, 7, 4),
        _published("d5", 1280, "b5", 288, 7, 4),
        _published("d6", 1280, "b6", 384, 8, 5, fusion="sum"),
        _published("d7", 1536, "b6", 384, 8, 5, fusion="sum", anchor_scale=5.0),
        _published("d7x", 1536, "b7", 384, 8, 5, fusion="sum", max_level=8),
        _published("lite0", 320, "lite0", 64, 3, 3, fusion="sum", anchor_scale=3.0),
        _published("lite1", 384, "lite1", 88, 4, 3, fusion="sum", anchor_scale=3.0),
        _published("lite2", 448, "lite2", 112, 5, 3, fusion="sum", anchor_scale=3.0),
        _published("lite3", 512, "lite3", 160, 6, 4, fusion="sum"),
        _published("lite3x", 640, "lite3", 200, 6, 4, fusion="sum", anchor_scale=3.0),
        _published("lite4", 640, "lite4", 224, 7, 4, fusion="sum"),
    )
}

_CHOICES = {
    "model.backbone": tuple(dict.fromkeys(row["model"].backbone for row in MODELS.values())),
    "model.feature_network": ("bifpn",),
    "model.fusion": ("fast", "softmax", "sum", "unbounded", "channel_fast", "channel_softmax"),
    "model.activation": ("swish", "relu6", "relu"),
    "loss.iou_loss": ("none", "iou", "giou", "diou", "ciou"),
    "data.verify": ("full", "header"),
    "optimizer.name": ("sgd", "adam"),
    "optimizer.schedule": ("cosine", "cosine_reference", "polynomial", "stepwise"),
    "training.strategy": ("auto", "cpu", "gpu", "mirrored", "multi_worker", "tpu"),
    "detection.nms": ("gaussian", "hard"),
    "detection.nms_scope": ("per_class", "global"),
}
# Inclusive bounds; of a list, for each value.
_INF = math.inf
_RANGES = {
    "model.num_classes": (1, _INF),
    "model.num_filters": (1, _INF),
    "model.fpn_repeats": (1, _INF),
    "model.head_repeats": (1, _INF),
    "model.backbone_survival_prob": (0.01, 1),
    "model.pixel_std": (1e-3, _INF),
    "anchors.scale": (0.01, _INF),
    "anchors.num_scales": (1, _INF),
    "anchors.aspect_ratios": (0.01, _INF),
    "anchors.match_threshold": (0, 1),
    "loss.focal_alpha": (0, 1),
    "loss.focal_gamma": (0, _INF),
    "loss.label_smoothing": (0, 1),
    "loss.huber_delta": (1e-6, _INF),
    "loss.box_weight": (0, _INF),
    "loss.iou_weight": (0, _INF),
    "augmentation.scale_min": (0.01, _INF),
    "optimizer.learning_rate": (0, _INF),
    "optimizer.reference_batch_size": (1, _INF),
    "optimizer.momentum": (0, 1),
    "optimizer.warmup_epochs": (0, _INF),
    "optimizer.warmup_fraction": (0, 1),
    "optimizer.weight_decay": (0, _INF),
    "optimizer.clip_norm": (0, _INF),
    "optimizer.ema_decay": (0, 1),
    "training.epochs": (1, _INF),
    "training.batch_size": (1, _INF),
    "training.steps_per_epoch": (0, _INF),
    "training.eval_every": (1, _INF),
    "training.eval_batch_size": (1, _INF),
    "training.seed": (0, 2**31 - 1),
    "detection.iou_threshold": (0, 1),
    "detection.sigma": (0, _INF),
    "detection.score_threshold": (0, 1),
    "detection.pre_nms_top_k": (0, _INF),
    "detection.max_detections": (1, _INF),
}


def _check(config: Config) -> None:
    """Raises `ConfigError` for values that no run could use."""
    for key, choices in _CHOICES.items():
        value = _get(config, key)
        if value not in choices:
            raise ConfigError(f"{key}: {value!r} is not one of {', '.join(choices)}")
    for key, (low, high) in _RANGES.items():
        value = _get(config, key)
        for number in value if isinstance(value, tuple) else (value,):
            if not low <= number <= high:
                side = f"below {low}" if number < low else f"above {high}"
                raise ConfigError(f"{key}: {number} is {side}")
    if min(config.model.image_size) < 64:
        raise ConfigError(f"model.image_size: {config.model.image_size} has a side below 64 pixels")
    if not config.anchors.aspect_ratios:
        raise ConfigError("anchors.aspect_ratios: needs at least one")
    if config.augmentation.scale_max < config.augmentation.scale_min:
        raise ConfigError("augmentation.scale_max: is below augmentation.scale_min")
    if not 1 <= config.model.min_level < config.model.max_level:
        raise ConfigError("model.min_level: must be below model.max_level")


def _get(config: Config, key: str) -> Any:
    section, field = key.split(".")
    return getattr(getattr(config, section), field)


def _coerce(key: str, value: Any, wanted: Any) -> Any:
    """`value` as the type `wanted`; strings come from command lines or YAML."""
    origin = typing.get_origin(wanted)
    if wanted is str:
        return str(value)
    given = value
    if isinstance(value, str):
        value = _from_text(key, value)
    if origin is tuple:
        return _coerce_tuple(key, value, typing.get_args(wanted))
    if wanted is bool and isinstance(value, bool):
        return value
    if wanted in (int, float) and not isinstance(value, bool):
        try:
            number = float(value)
            if math.isfinite(number) and (wanted is float or number == int(number)):
                return wanted(number)
        except (TypeError, ValueError, OverflowError):
            pass
    raise ConfigError(f"{key}: {given!r} is not {_TYPE_NAMES[wanted]}")


_TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number"}


def _coerce_tuple(key: str, value: Any, item_types: tuple) -> tuple:
    variadic = len(item_types) == 2 and item_types[1] is Ellipsis
    if key == "model.image_size" and isinstance(value, int):
        value = (value, value)
    if not isinstance(value, (list, tuple)) or not (variadic or len(value) == len(item_types)):
        count = "a list" if variadic else f"{len(item_types)} values"
        raise ConfigError(f"{key}: {value!r} is not {count}, e.g. [1, 2]")
    item_type = item_types[0]
    return tuple(_coerce(key, item, item_type) for item in value)


def _from_text(key: str, text: str) -> Any:
    if key == "model.image_size" and "x" in text:
        return [part.strip() for part in text.split("x")]
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{key}: cannot read {text!r}") from error


def _flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys of nested dicts; a section without keys counts as left out."""
    sections = {section.name for section in dataclasses.fields(Config)}
    flat = {}
    for section, fields in values.items():
        if section not in sections:
            raise ConfigError(f"unknown key {section!r}{_nearest_key(str(section))}")
        if not isinstance(fields, Mapping | type(None)):
            raise ConfigError(f"{section}: must hold keys and values")
        flat.update({f"{section}.{name}": value for name, value in (fields or {}).items()})
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _nearest_key(key: str) -> str:
    """The known key that is meant, by its whole name or by its last part."""
    by_last_part = {known.partition(".")[2]: known for known in known_keys()}
    last_part = key.rpartition(".")[2]
    near = difflib.get_close_matches(key, known_keys(), n=1, cutoff=0.7)
    near = near or difflib.get_close_matches(last_part, by_last_part, n=1, cutoff=0.7)
    if near:
        return f"; did you mean {by_last_part.get(near[0], near[0])!r}?"
    return f"; the sections are {', '.join(field.name for field in dataclasses.fields(Config))}"


def _did_you_mean(word: str, known) -> str:
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
