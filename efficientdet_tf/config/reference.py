"""Reference of all settings, generated from their declarations."""

import textwrap
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from efficientdet_tf.config import MODELS, Config, section_class
from efficientdet_tf.config.declaration import Mark, describe_values, format_value

_INTRODUCTION = """\
# Settings

Set one by `--set key=value`, or several in a YAML file, `--config=file.yaml`. Later ones win: the
defaults of the model, the file or preset, `--set`, other flags such as `--epochs`. A run may be
resumed with other settings; the last column names those that must stay the same, because they
shape its checkpoint, and other consequences.

This page is the output of `python -m efficientdet_tf settings --format=markdown`."""


class Setting(NamedTuple):
    """Row of the reference.

    Args:
      key: dotted key, e.g. "optimizer.momentum".
      takes: type and range or choices, in words.
      default: default value as YAML; D0's if the models differ.
      of_model: whether the default depends on the model.
      meaning: description, one paragraph.
      resuming: effect of another value on a resumed run; empty if it may change freely.
    """

    key: str
    takes: str
    default: str
    of_model: bool
    meaning: str
    resuming: str


def section_settings(section: str) -> Iterator[Setting]:
    """Iterate over the settings of a section of the config, in order."""
    model = section_class(section)
    schemas = model.model_json_schema()["properties"]
    rows = [getattr(Config.for_model(name), section) for name in MODELS]
    for name, field in model.model_fields.items():
        defaults = [format_value(getattr(row, name)) for row in rows]
        yield Setting(
            key=f"{section}.{name}",
            takes=describe_values(schemas[name]),
            default=defaults[0],
            of_model=len(set(defaults)) > 1,
            meaning=" ".join((field.description or "").split()),
            resuming="; ".join(mark.words for mark in field.metadata if isinstance(mark, Mark)),
        )


def format_sections(sections: Iterable[str], style: str = "text") -> str:
    """Format the reference of some sections.

    Args:
      sections: names of sections, fields of `Config`.
      style: "text" for a terminal, or "markdown" for a page with tables. Default "text".
    """
    if style == "text":
        return "\n\n".join(map(_as_text, sections))
    return "\n\n".join([_INTRODUCTION, *map(_as_markdown, sections)])


def _as_text(section: str) -> str:
    lines = [f"{section}: {_summary(section)}"]
    for setting in section_settings(section):
        default = "of the model, e.g. " * setting.of_model + setting.default
        resuming = f" When resumed: {setting.resuming}." if setting.resuming else ""
        lines += [
            f"\n  {setting.key}",
            _indent(f"{setting.takes}; default {default}"),
            _indent(setting.meaning + resuming),
        ]
    return "\n".join(lines)


def _as_markdown(section: str) -> str:
    head = ["Setting", "Takes", "Default", "Meaning", "When resumed"]
    rows = [head, ["---"] * len(head)]
    for key, takes, default, of_model, *rest in section_settings(section):
        default = "of the model, e.g. " * of_model + f"`{default}`"
        rows.append([f"`{key}`", takes, default, *rest])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"## {section}\n\n{_summary(section)}\n\n{table}"


def _summary(section: str) -> str:
    return section_class(section).__doc__ or ""


def _indent(text: str) -> str:
    indent = " " * 6
    return textwrap.fill(text, 98, initial_indent=indent, subsequent_indent=indent)
