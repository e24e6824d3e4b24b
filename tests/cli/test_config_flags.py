"""Flags for settings: order of precedence of model, coefficient, file and overrides."""

import pytest
from absl import flags

from efficientdet_tf.cli.config_flags import config_from_flags, define_config_flags
from efficientdet_tf.config import Config


def parse(*arguments) -> Config:
    values = flags.FlagValues()
    define_config_flags(values)
    values(["train", *arguments])
    return config_from_flags(values)


@pytest.mark.parametrize("phi", [-1.5, 0, 1.5])
def test_a_coefficient_chooses_the_model(phi):
    assert parse(f"--phi={phi}") == Config.for_phi(phi)


def test_files_and_overrides_win_over_the_coefficient():
    config = parse("--phi=1.5", "--config=finetune", "--set=neck.num_filters=40")
    expected = Config.from_yaml("finetune", phi=1.5).override({"neck.num_filters": 40})
    assert config == expected
    assert (config.model.backbone, config.optimizer.name) == ("efficientnet-b2", "adam")
