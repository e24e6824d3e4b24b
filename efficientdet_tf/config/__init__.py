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
import pathlib
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from efficientdet_tf.backbones import BACKBONES, Backbone, check_scale
from efficientdet_tf.config.model_table import MODELS, compound_scaling
from efficientdet_tf.config.sections import (
    AnchorConfig,
    AugmentationConfig,
    DataConfig,
    DetectionConfig,
    LossConfig,
    ModelConfig,
    NeckConfig,
    OptimizerConfig,
    TrainingConfig,
)
from efficientdet_tf.config.values import ConfigError, check, coerce, did_you_mean, from_text
from keras_layers.feature_network import build_feature_network

__all__ = [
    "MODELS",
    "AnchorConfig",
    "AugmentationConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "DetectionConfig",
    "LossConfig",
    "ModelConfig",
    "NeckConfig",
    "OptimizerConfig",
    "TrainingConfig",
    "compound_scaling",
    "known_keys",
    "parse_assignments",
]

# Ready-made configs, used by name.
_BUILT_IN = pathlib.Path(__file__).parent / "presets"


# How keys of single options of the neck begin.
_OPTION = "neck.options."


@dataclasses.dataclass(frozen=True)
class Config:
    """The whole configuration of a run. Make one with `Config.for_model`."""

    model: ModelConfig = ModelConfig()
    neck: NeckConfig = NeckConfig()
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
            raise ConfigError(f"unknown model {name!r}{did_you_mean(name, MODELS)}")
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
            from a command line. One option of the neck alone is
            `neck.options.<option>`. With another `model.backbone` go the pixel
            statistics and the survival probability that it needs, unless `values`
            has them.

        Raises:
          ConfigError: for an unknown key or a value of the wrong type.
        """
        config = self
        backbone = str(values.get("model.backbone", self.model.backbone))
        if backbone != self.model.backbone and backbone in BACKBONES:
            values = {**_needs(BACKBONES[backbone]), **values}
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
        option = key.removeprefix(_OPTION)
        if option != key:
            value = from_text(key, value) if isinstance(value, str) else value
            key, value = "neck.options", {**self.neck.options, option: value}
        section_name, _, field_name = key.partition(".")
        if key not in known_keys():
            raise ConfigError(f"unknown key {key!r}{_nearest_key(key)}")
        if key == "model.name" and value != self.model.name:
            # Alone it would change nothing but the name.
            raise ConfigError(f"model.name: is {self.model.name!r} here; choose a model by --model")
        section = getattr(self, section_name)
        value = coerce(key, value, typing.get_type_hints(type(section))[field_name])
        return dataclasses.replace(
            self, **{section_name: dataclasses.replace(section, **{field_name: value})}
        )


def known_keys() -> list[str]:
    """All dotted keys of a `Config`, in order."""
    return [
        f"{section.name}.{field.name}"
        for section in dataclasses.fields(Config)
        for field in dataclasses.fields(section.type)  # type: ignore[arg-type]
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


def _check(config: Config) -> None:
    """Raises `ConfigError` for values that no run could use."""
    for key in known_keys():
        section, field = key.split(".")
        check(key, getattr(getattr(config, section), field))
    _check_scale(config.model)
    _check_options(config)
    if min(config.model.image_size) < 64:
        raise ConfigError(f"model.image_size: {config.model.image_size} has a side below 64 pixels")
    try:
        re.compile(config.model.freeze)
    except re.error as error:
        raise ConfigError(
            f"model.freeze: {config.model.freeze!r} is no regular expression: {error}"
        ) from error
    if not config.anchors.aspect_ratios:
        raise ConfigError("anchors.aspect_ratios: needs at least one")
    if config.augmentation.scale_max < config.augmentation.scale_min:
        raise ConfigError("augmentation.scale_max: is below augmentation.scale_min")
    if not 1 <= config.model.min_level < config.model.max_level:
        raise ConfigError("model.min_level: must be below model.max_level")


def _needs(backbone: Backbone) -> dict[str, Any]:
    """What settings a backbone brings with it."""
    return {
        "model.pixel_mean": backbone.pixel_mean,
        "model.pixel_std": backbone.pixel_std,
        "model.backbone_survival_prob": backbone.survival_prob,
    }


def _check_scale(model: ModelConfig) -> None:
    try:
        check_scale(
            model.backbone,
            survival_prob=model.backbone_survival_prob,
            width=model.backbone_width,
            depth=model.backbone_depth,
        )
    except ValueError as error:
        raise ConfigError(f"model.backbone_{error}") from error


def _check_options(config: Config) -> None:
    """Builds the network's layer, which needs TensorFlow, only if there are options."""
    if not config.neck.options:
        return
    neck = config.neck
    try:
        build_feature_network(
            neck.name,
            neck.options,
            num_filters=neck.num_filters,
            num_repeats=neck.num_repeats,
            fusion=neck.fusion,
            activation=config.model.activation,
        )
    except ValueError as error:
        raise ConfigError(f"neck.{error}") from error


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
