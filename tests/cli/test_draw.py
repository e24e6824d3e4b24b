"""`python -m efficientdet_tf draw`: the drawings of the documentation, and refusals."""

import pathlib
import re
import shlex
import xml.etree.ElementTree

import pytest

import commands as program
from efficientdet_tf.cli import command_line, draw
from keras_layers.feature_network import NETWORKS

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
DOCUMENT = REPOSITORY / "docs" / "feature-networks.md"
# Which backbone does not matter to a drawing, as long as its levels are projected.
SMALL = ("--set=model.backbone_width=0.25", "--set=model.backbone_depth=0.1")


def documented() -> list[list[str]]:
    """Return the commands of the document, split into words."""
    text = DOCUMENT.read_text(encoding="utf-8")
    [block] = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]


@pytest.mark.parametrize("words", documented(), ids=lambda words: words[4])
def test_the_drawings_of_the_documentation_are_current(words, tmp_path):
    python, *words, output = words
    path = pathlib.Path(output.removeprefix("--output="))
    drawn = tmp_path / path.name
    done = program.call(*words, *SMALL, f"--output={drawn}")
    assert done == (0, f"Written to {drawn}\n", "")
    assert drawn.read_bytes() == (REPOSITORY / path).read_bytes()
    assert f"]({path.relative_to('docs')})" in DOCUMENT.read_text(encoding="utf-8")


def test_the_documentation_draws_each_network_as_in_its_table():
    rows = re.findall(r"^\| `(\w+)`.*?\| (\d+) \|", DOCUMENT.read_text(encoding="utf-8"), re.M)
    drawn = [
        (words[4].removeprefix("--neck="), words[6].removeprefix("neck.num_repeats="))
        for words in documented()
    ]
    assert drawn == rows
    assert {NETWORKS[name] for name, _ in drawn} == set(NETWORKS.values())


def test_a_drawing_of_the_command_is_replaced_and_no_other_file(tmp_path):
    words = ("-m", "efficientdet_tf", "draw", "--neck=fpn", "--set=neck.num_repeats=1", *SMALL)
    path = tmp_path / "new" / "fpn.svg"
    for repeats in (1, 2):
        done = program.call(*words, f"--set=neck.num_repeats={repeats}", f"--output={path}")
        assert done.returncode == 0, done.stderr
    texts = [item.text for item in xml.etree.ElementTree.parse(path).getroot().iter()]
    assert "FPN \u00d72" in texts
    path.write_text("<svg>of the user</svg>")
    done = program.call(*words, f"--output={path}")
    assert done.returncode == 1 and path.read_text() == "<svg>of the user</svg>"
    assert done.stderr.startswith(f"draw: --output: {path} exists and was not written by this ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--output is missing: SVG file to write, e.g. bifpn.svg."),
        (["--output=x.png"], "--output: x.png is not named as an SVG file; use e.g. bifpn.svg"),
        (["--output=x.svg", "--neck=bifnp"], "neck.name: "),
        (["--output=x.svg", "more"], "unexpected argument 'more'; see --help"),
        (
            ["--output=x.svg", "--neck=fpg", *SMALL],
            "neck.num_repeats: 3 pathways do not reach level 3; set 5 or more",
        ),
    ],
)
def test_complains_in_one_line(arguments, message, capsys):
    assert command_line.call(draw.COMMAND, arguments) == 1
    out, err = capsys.readouterr()
    [line] = err.splitlines()
    assert line.startswith(f"draw: {message}") and out == ""
