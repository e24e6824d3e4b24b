"""Flags for settings, common to all commands: --model or --phi, --config and --set."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from absl import flags

if TYPE_CHECKING:
    from efficientdet_tf.config import Config


def define_config_flags(values: flags.FlagValues) -> None:
    """Declare the flags that `config_from_flags` reads."""
    flags.DEFINE_string(
        "model",
        None,
        "Architecture, e.g. efficientdet-d0 or efficientdet-lite0.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "phi",
        None,
        "Instead of --model: compound coefficient of EfficientDet, from -2.5 to 7, e.g. 1.5 for a "
        "size between D1 and D2.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "config",
        None,
        "YAML file with any settings, or built in: digits, finetune, paper, retinanet, or "
        "ablation-r50-fpn, ablation-b3-fpn, ablation-b3-bifpn of the paper's table 4.",
        flag_values=values,
    )
    define_set_flag(
        values,
        "One setting as key=value, e.g. optimizer.learning_rate=0.04; all are listed by "
        "'python -m efficientdet_tf settings'",
    )


def define_set_flag(values: flags.FlagValues, meaning: str) -> None:
    """Declare --set, which may be repeated."""
    flags.DEFINE_multi_string("set", [], f"{meaning}; may be repeated.", flag_values=values)


def config_from_flags(values: flags.FlagValues, keys: Mapping[str, str] | None = None) -> "Config":
    """Resolve the config of a command line: --model or --phi, --config, --set, other flags.

    Args:
      values: parsed flags of `define_config_flags` and of `keys`.
      keys: flag name -> key of the setting that the flag overrides. Default none.

    Raises:
      ConfigError: if a setting is unknown or a value invalid, or both --model and --phi are
        given.
    """
    # Imported here, so that --help is fast.
    from efficientdet_tf.config import Config, ConfigError, parse_assignments

    if values.model and values.phi is not None:
        raise ConfigError("--phi and --model: both choose the network; leave out one of them")
    if values.config:
        config = Config.from_yaml(values.config, values.model, values.phi)
    elif values.phi is not None:
        config = Config.for_phi(values.phi)
    else:
        config = Config.for_model(values.model or "efficientdet-d0")
    overrides = parse_assignments(values.set)
    for flag, key in (keys or {}).items():
        if values[flag].value is not None:
            overrides[key] = values[flag].value
    return config.override(overrides)
