"""Configuration: every hyper-parameter of the project, declared once in `sections`.

A `Config` is a frozen pydantic model with one section for each concern. It is built in four
layers, of which later ones win:

1. the table of models (`MODELS`) and the declared defaults,
2. a YAML file or a preset (`Config.from_yaml`, the `--config` flag),
3. dotted overrides (`config.override({"optimizer.learning_rate": 0.04})`, the
   `--set` flag),
4. flags of common settings, which are overrides too.

An unknown key or an invalid value raises `ConfigError` with a message of one line that names
the key and the nearest known one, or the values that the setting takes.
"""

import difflib
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from efficientdet_tf.backbones import Backbone, find
from efficientdet_tf.config.declaration import (
    ConfigError,
    Mark,
    Section,
    SettingsLoader,
    describe_values,
    format_value,
    read_text,
)
from efficientdet_tf.config.model_table import MODELS, compound_model, compound_scaling
from efficientdet_tf.config.sections import (
    AnchorConfig,
    AugmentationConfig,
    DataConfig,
    DetectionConfig,
    DistillationConfig,
    LossConfig,
    ModelConfig,
    NeckConfig,
    OptimizerConfig,
    TrainingConfig,
)
from keras_layers.options import did_you_mean

__all__ = [
    "MODELS",
    "AnchorConfig",
    "AugmentationConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "DetectionConfig",
    "DistillationConfig",
    "LossConfig",
    "ModelConfig",
    "NeckConfig",
    "OptimizerConfig",
    "TrainingConfig",
    "auto_switch",
    "compound_model",
    "compound_scaling",
    "format_value",
    "known_keys",
    "marked",
    "parse_assignments",
    "settings",
]

# Presets, used by name.
_BUILT_IN = pathlib.Path(__file__).parent / "presets"


# Prefix of keys of single options of the neck.
_OPTION = "neck.options."

M = TypeVar("M", bound=Mark)
# {setting: (value in one config, value in another)}
Differences = dict[str, tuple[Any, Any]]


class Config(BaseModel):
    """Configuration of a run. Build one with `Config.for_model`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: ModelConfig = ModelConfig()
    neck: NeckConfig = NeckConfig()
    anchors: AnchorConfig = AnchorConfig()
    loss: LossConfig = LossConfig()
    data: DataConfig = DataConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()
    distillation: DistillationConfig = DistillationConfig()
    detection: DetectionConfig = DetectionConfig()

    @classmethod
    def for_model(cls, name: str, **overrides: Any) -> "Config":
        """Build the published configuration of a model, e.g. "efficientdet-d0".

        Args:
          name: name of the model, a key of `MODELS`.
          **overrides: dotted keys and values, see `override`.
        """
        if not isinstance(name, str) or name not in MODELS:
            raise ConfigError(f"unknown model {name!r}{did_you_mean(name, MODELS)}")
        config = cls(**MODELS[name])
        return config.override(overrides)

    @classmethod
    def for_phi(cls, phi: float, **overrides: Any) -> "Config":
        """Build the configuration of a compound coefficient, see `compound_model`.

        Args:
          phi: the coefficient, -2.5 to 7; fractions give models between the published ones.
          **overrides: dotted keys and values, see `override`.

        Raises:
          ConfigError: if the coefficient is outside of the range.
        """
        name, settings = compound_model(phi)
        return cls.for_model(name).override(settings).override(overrides)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Config":
        """Build a config from nested dicts, on top of the model table.

        `values["model"]["name"]` selects the row of the table; the other values
        override it.
        """
        flat = _flatten(values)
        return cls.for_model(flat.get("model.name", ModelConfig().name)).override(flat)

    @classmethod
    def from_yaml(cls, path: str, model: str | None = None, phi: float | None = None) -> "Config":
        """Build a config from a YAML file with the keys of `to_dict`, all optional.

        Args:
          path: path of the file, or name of a preset, e.g. "digits".
          model: row of the model table to use instead of the file's `model.name`.
            Default None.
          phi: compound coefficient of the model to use instead, see `for_phi`.
            Default None.

        Raises:
          ConfigError: if the file cannot be read or is invalid, or phi is outside of its range.
        """
        scaled = None if phi is None else cls.for_phi(phi)
        built_in = _BUILT_IN / f"{path}.yaml"
        try:
            with open(built_in if built_in.is_file() else path, encoding="utf-8") as file:
                values = yaml.load(file, SettingsLoader) or {}
        except OSError as error:
            names = ", ".join(sorted(file.stem for file in _BUILT_IN.glob("*.yaml")))
            raise ConfigError(f"config {path}: {error.strerror}; built in: {names}") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"config {path}: not valid YAML: {reason}") from error
        if not isinstance(values, Mapping):
            raise ConfigError(f"config {path}: must hold keys and values")
        try:
            flat = _flatten(values)
            name = flat.pop("model.name", ModelConfig().name)
            return (scaled or cls.for_model(model or name)).override(flat)
        except ConfigError as error:
            raise ConfigError(f"config {path}: {error}") from error

    def override(self, values: Mapping[str, Any]) -> "Config":
        """Return a config with dotted keys replaced.

        Args:
          values: dotted keys and values, e.g. `{"optimizer.learning_rate": 0.04,
            "model.image_size": "384x640"}`. Strings are parsed as YAML, so values
            may be passed on from a command line. `auto` as a value of `<section>.<name>`
            sets `<section>.auto_<name>` where there is such a setting, and another value
            unsets it, unless `values` contains it. A single option of the neck is
            `neck.options.<option>`. Another `model.backbone` also sets its pixel
            statistics and survival probability, and the width and depth of one of
            fixed size, unless `values` contains them.

        Raises:
          ConfigError: if a key is unknown or a value invalid.
        """
        values = _with_switches(values)
        backbone = str(values.get("model.backbone", self.model.backbone))
        if backbone != self.model.backbone:
            values = {**_needs(find(backbone)), **values}
        sections: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            setting = "neck.options" if key.startswith(_OPTION) else key
            self._check_key(setting, value)
            section, name = setting.split(".")
            given = sections.setdefault(section, dict(getattr(self, section)))
            if setting != key:
                option, others = key.removeprefix(_OPTION), read_text(given[name])
                is_mapping = isinstance(others, Mapping)
                value = {**others, option: read_text(value)} if is_mapping else others
            given[name] = value
        try:
            return Config.model_validate({**dict(self), **sections})
        except ValidationError as error:
            raise _first_error(error, sections) from error

    def differences(self, other: "Config") -> Differences:
        """Return the settings that differ: {key: (value here, value in the other)}."""
        ours, theirs = self.to_dict(), other.to_dict()
        return {
            f"{section}.{name}": (value, theirs[section][name])
            for section, fields in ours.items()
            for name, value in fields.items()
            if value != theirs[section][name]
        }

    def to_dict(self) -> dict:
        """Convert to nested dicts of plain YAML values; `from_dict` is the inverse."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Convert to YAML text, which `from_yaml` reads back."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def _check_key(self, key: str, value: Any) -> None:
        if key not in settings():
            raise ConfigError(f"unknown key {key!r}{_nearest_key(key)}")
        if key == "model.name" and value != self.model.name:
            # It would change the name only.
            raise ConfigError(f"model.name: is {self.model.name!r} here; choose a model by --model")


def settings() -> dict[str, FieldInfo]:
    """Return all settings of a `Config` by their dotted keys, in order."""
    return {
        f"{section}.{name}": field
        for section in Config.model_fields
        for name, field in section_class(section).model_fields.items()
    }


def section_class(section: str) -> type[Section]:
    """Return the class that declares a section."""
    kind = Config.model_fields[section].annotation
    assert isinstance(kind, type) and issubclass(kind, Section)
    return kind


def known_keys() -> list[str]:
    """Return all dotted keys of a `Config`, in order."""
    return list(settings())


def marked(kind: type[M]) -> dict[str, M]:
    """Return the settings with a mark of a kind, and the mark."""
    return {
        key: mark
        for key, field in settings().items()
        for mark in field.metadata
        if isinstance(mark, kind)
    }


def parse_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """Parse `["optimizer.momentum=0.8"]` to `{"optimizer.momentum": "0.8"}`.

    Raises:
      ConfigError: if an item has no "=".
    """
    values = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: expected key=value")
        values[key.strip()] = value.strip()
    return values


def auto_switch(key: str) -> str:
    """Return the key of the setting that asks for the choice of another one, if it is there."""
    return key.replace(".", ".auto_", 1)


def _with_switches(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replace `auto` by the setting that turns it on, which another value turns off."""
    known, replaced = settings(), {}
    for key, value in values.items():
        switch = auto_switch(key)
        if switch in known and value == "auto":
            replaced[switch] = True
            continue
        replaced[key] = value
        if switch in known:
            replaced[switch] = values.get(switch, False)
    return replaced


def _needs(backbone: Backbone) -> dict[str, Any]:
    """Return the settings that depend on the backbone."""
    # Those of the backbone before, e.g. of a preset, mean nothing to one of fixed size.
    size = {} if backbone.is_scalable else {"model.backbone_width": 1, "model.backbone_depth": 1}
    return {
        "model.pixel_mean": backbone.pixel_mean,
        "model.pixel_std": backbone.pixel_std,
        "model.backbone_survival_prob": backbone.survival_prob,
        **size,
    }


def _first_error(error: ValidationError, sections: Mapping[str, Mapping]) -> ConfigError:
    """Convert the first of the errors to one line that begins with the setting.

    Args:
      error: the validation error.
      sections: {section: {name: value as given}}.
    """
    first = error.errors(include_url=False)[0]
    section, name = map(str, (*first["loc"][:2], "")[:2])
    if first["type"] == "value_error":
        # From our own validators; those of a whole section name the setting themselves.
        text = str(first["ctx"]["error"])
        return ConfigError(f"{section}.{name}: {text}" if name else f"{section}.{text}")
    schema = section_class(section).model_json_schema()["properties"][name]
    value = sections[section][name]
    return ConfigError(f"{section}.{name}: {value!r} is not {describe_values(schema)}")


def _flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten nested dicts to dotted keys; a section without keys is ignored."""
    flat = {}
    for section, fields in values.items():
        if section in settings():
            group, _, name = section.partition(".")
            raise ConfigError(f"{section}: in a file, write {name} below {group}")
        if section not in Config.model_fields:
            raise ConfigError(f"unknown key {section!r}{_nearest_key(str(section))}")
        if not isinstance(fields, Mapping | type(None)):
            raise ConfigError(f"{section}: must hold keys and values")
        flat.update({f"{section}.{name}": value for name, value in (fields or {}).items()})
    return flat


def _nearest_key(key: str) -> str:
    """Suggest the nearest known section or setting, or list those that there are."""
    section, _, name = key.rpartition(".")
    section = key if key in Config.model_fields else section
    own = section_class(section).model_fields if section in Config.model_fields else {}
    near = difflib.get_close_matches(name, own, n=1, cutoff=0.6)
    if near and key != section:
        return f"; did you mean {f'{section}.{near[0]}'!r}?"
    keys = {known.partition(".")[2]: known for known in known_keys()}
    if not section:
        keys |= {known: known for known in Config.model_fields}
    near = difflib.get_close_matches(name, keys, n=1, cutoff=0.7)
    if near and key != section:
        return f"; did you mean {keys[near[0]]!r}?"
    if own:
        return f"; the settings of {section} are {', '.join(own)}"
    return f"; the sections are {', '.join(Config.model_fields)}"
