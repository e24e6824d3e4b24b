"""Declaration of settings: base class of the sections, marks, and descriptions of values."""

import dataclasses
import os
import re
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError
from yaml.composer import ComposerError

from efficientdet_tf.errors import UserError
from keras_layers.import_path import is_import_path


class ConfigError(UserError):
    """A configuration that cannot be used."""


@dataclasses.dataclass(frozen=True)
class Mark:
    """Mark of a setting: the effect of another value on a resumed run.

    Args:
      words: description of the effect for the user.
    """

    words: str


@dataclasses.dataclass(frozen=True)
class Shapes(Mark):
    """Mark of a setting that shapes the checkpoint.

    Args:
      part_of: function from a value to the part that must stay the same. Default: the value.
    """

    words: str = "must stay the same"
    part_of: Callable[[Any], Any] = lambda value: value


@dataclasses.dataclass(frozen=True)
class MeasuresAP(Mark):
    """Mark of a setting that affects the measured AP: a change makes values incomparable."""

    words: str = "the best AP so far is reset"


@dataclasses.dataclass(frozen=True)
class DerivedFromData(Mark):
    """Mark of a setting that training sets from its data or other files."""

    words: str = "set from the training data"


def named_part(registry: Collection[str]) -> Any:
    """Return the type of a setting that names a part of the network.

    Args:
      registry: the known names; beside them it takes the import path of the user's own.
    """

    def check(name: str) -> str:
        if name not in registry and not is_import_path(name):
            raise PydanticCustomError("part", "unknown, and no import path")
        return name

    choices = [*registry, "module:class"]
    return Annotated[
        str, AfterValidator(check), WithJsonSchema({"type": "string", "enum": choices})
    ]


class Section(BaseModel):
    """Base class of the sections: frozen, and unknown settings are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        use_attribute_docstrings=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        """Parse text of a non-text setting as YAML, and convert a path to text."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if kind is not str and get_origin(kind) is not Literal:
            value = read_text(value)
        elif isinstance(value, os.PathLike):
            value = os.fspath(value)
        # In Python, True equals 1.
        items = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(item, bool) is not (kind is bool) for item in items):
            raise PydanticCustomError("bool", "true and false are values of their own")
        return value


class SettingsLoader(yaml.SafeLoader):
    """YAML loader that refuses a repeated key, of which YAML's own keeps the last value.

    Dates are text: a path may be one, and no setting is. So are 010 and 1:30, which YAML 1.1 reads
    as the numbers 8 and 90; as the value of a number, 010 is then 10.
    """

    yaml_implicit_resolvers = {
        letter: [
            each
            for each in resolvers
            if each[0] not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int")
        ]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping, and check its keys."""
        node = super().compose_mapping_node(anchor)
        known = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in known:
                    problem = f"found key {key.value!r} again"
                    raise ComposerError(None, None, problem, key.start_mark)
                known.add(key.value)
        return node


SettingsLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$"),
    list("-+0123456789"),
)


def read_text(value: Any) -> Any:
    """Parse text as YAML, including numbers that YAML 1.1 reads as text, e.g. 4e-3.

    Other values, and text that cannot be parsed, are returned unchanged.
    """
    if not isinstance(value, str):
        return value
    try:
        read = yaml.load(value, SettingsLoader)
        return float(read) if isinstance(read, str) else read
    except (yaml.YAMLError, ValueError):
        return value


def describe_values(schema: Mapping[str, Any]) -> str:
    """Describe the values that a setting takes, e.g. "a whole number from 0 to 10".

    Args:
      schema: JSON schema of the setting, from `Section.model_json_schema`.
    """
    if "enum" in schema:
        words = f"one of {', '.join(schema['enum'])}"
    elif schema["type"] == "array":
        item = schema.get("items") or schema["prefixItems"][0]
        least = schema.get("minItems", 0)
        count = {0: "a list of", 1: "a list of one or more"}.get(least, str(least))
        each = _bounds(item).replace(" of ", " ")
        words = f"{count} {_KINDS[item['type']].removeprefix('a ')}s{each and ', each' + each}"
    else:
        words = _KINDS[schema["type"]] + _bounds(schema)
    examples = " or ".join(schema.get("examples", ()))
    return f"{words}, e.g. {examples}" if examples else words


_KINDS = {
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "object": "names and values",
    "string": "text",
}


def _bounds(schema: Mapping[str, Any]) -> str:
    if "maximum" in schema:
        return f" from {schema['minimum']:g} to {schema['maximum']}"
    if "exclusiveMinimum" in schema:
        return f" above {schema['exclusiveMinimum']:g}"
    return f" of {schema['minimum']:g} or more" if "minimum" in schema else ""


def format_value(value: Any) -> str:
    """Format a value of a setting as YAML for a message, e.g. [1.0, 2.0]."""
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(format_value, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value) or "''"
