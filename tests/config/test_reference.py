"""Reference of the settings: the page, the command, and the description of each."""

import pathlib
import re

import pytest

from efficientdet_tf.cli import command_line
from efficientdet_tf.cli import settings as settings_command
from efficientdet_tf.cli import train as train_command
from efficientdet_tf.config import Config, reference, settings

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "settings.md"


def printed(capsys, *arguments) -> str:
    assert command_line.call(settings_command.COMMAND, arguments) == 0
    return capsys.readouterr().out


def test_the_page_is_current(capsys):
    assert PAGE.read_text(encoding="utf-8") == printed(capsys, "--format=markdown"), (
        "run: python -m efficientdet_tf settings --format=markdown > docs/settings.md"
    )


@pytest.mark.parametrize("key", settings())
def test_each_setting_is_described_in_a_sentence(key):
    description = settings()[key].description
    assert description and description[0].isupper() and description.endswith(".")
    # A column ends there.
    assert "|" not in description


def test_a_setting_has_all_that_is_declared_of_it():
    rows = {
        row.key: row for name in Config.model_fields for row in reference.section_settings(name)
    }
    assert list(rows) == list(settings())
    assert rows["augmentation.rand_num_layers"] == (
        "augmentation.rand_num_layers",
        "a whole number from 1 to 10",
        "2",
        False,
        "RandAugment: number of consecutive operations.",
        "",
    )
    assert rows["optimizer.ema_decay"].resuming == "whether it is 0 must stay the same"
    assert rows["model.num_classes"].resuming == "must stay the same; set from the training data"
    assert rows["data.val"].resuming == "the best AP so far is reset"
    assert (rows["neck.num_filters"].default, rows["neck.num_filters"].of_model) == ("64", True)


def test_one_section(capsys):
    text = printed(capsys, "anchors")
    assert text.startswith("anchors: Anchor grid.\n\n  anchors.scale\n")
    assert text.count("\n  anchors.") == len(Config.model_fields["anchors"].annotation.model_fields)
    assert "      a number of 0.01 or more; default of the model, e.g. 4.0\n" in text
    assert text == printed(capsys, "--section=anchors")
    assert printed(capsys, "anchors", "--format=markdown").count("\n## ") == 1


def test_all_sections(capsys):
    text = printed(capsys)
    assert [key for key in settings() if f"\n  {key}\n" not in text] == []
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimiser"], "settings: 'optimiser' is not a section; did you mean 'optimizer'?\n"),
        (["loss", "data"], "settings: unexpected argument 'data'; see --help\n"),
    ],
)
def test_a_wrong_section_is_one_line(capsys, arguments, message):
    assert command_line.call(settings_command.COMMAND, arguments) == 1
    assert capsys.readouterr() == ("", message)


def test_the_help_of_train_says_how_to_list_them(capsys):
    assert command_line.call(train_command.COMMAND, ["--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "all are listed by 'python -m efficientdet_tf settings'" in text


@pytest.mark.parametrize(
    ("page", "pattern"),
    [
        ("from-automl.md", rf"`((?:{'|'.join(Config.model_fields)})\.[a-z_]+)"),
        ("from-model-maker.md", r"--set ([a-z_.]+)="),
    ],
)
def test_settings_for_those_who_come_from_elsewhere_exist(page, pattern):
    named = re.findall(pattern, (PAGE.parent / page).read_text(encoding="utf-8"))
    assert len(named) > 2
    assert [key for key in named if key not in settings()] == []
