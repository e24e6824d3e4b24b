"""`python -m efficientdet_tf draw`: the drawings of the documentation, and refusals."""

import pathlib
import re
import shlex
import xml.etree.ElementTree

import pytest
import tensorflow as tf

import commands as program
from efficientdet_tf.cli import command_line, draw
from efficientdet_tf.visualization.network_drawing import draw_network
from keras_layers.feature_network import NETWORKS, build_feature_network
from keras_layers.network_graph import graph_of

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TEXT = (REPOSITORY / "docs" / "feature-networks.md").read_text(encoding="utf-8")
# Of the levels of the input; those of the backbone are projected to 8 filters.
WIDTHS = (40, 112, 320, 8, 8)
# Which backbone does not matter to a drawing, as long as its levels are projected.
SMALL = ("--set=model.backbone_width=0.25", "--set=model.backbone_depth=0.1")


def documented() -> list[list[str]]:
    """Return the commands of the document, split into words."""
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    [block] = [block for block in blocks if " draw " in block]
    return [shlex.split(line) for line in block.replace("\\\n", " ").splitlines()]


def network(name, repeats, fusion):
    """A network of tiny features, which is built in a fraction of the time of a model."""
    size = 256 if name == "attention_fpn" else 64
    shapes = {level: (size // 2**level, width) for level, width in zip(range(3, 8), WIDTHS)}
    made = build_feature_network(name, num_filters=8, num_repeats=repeats, fusion=fusion)
    made(
        {level: tf.zeros([1, max(1, s), max(1, s), width]) for level, (s, width) in shapes.items()}
    )
    return made


@pytest.mark.parametrize("words", documented(), ids=lambda words: words[4])
def test_the_drawings_of_the_documentation_are_current(words, tmp_path):
    python, *command, output = words
    path = pathlib.Path(output.removeprefix("--output="))
    name, repeats, fusion = (words[i].partition("=")[2] for i in (4, 6, 8))
    assert path.stem == name and f"]({path.relative_to('docs')})" in TEXT
    if name == "rfp":
        # It needs the backbone.
        done = program.call(*command, *SMALL, f"--output={tmp_path}/rfp.svg")
        assert done == (0, f"Written to {tmp_path}/rfp.svg\n", "")
        drawing = (tmp_path / "rfp.svg").read_text(encoding="utf-8")
    else:
        drawing = draw_network(graph_of(network(name, int(repeats), fusion)), name)
    assert drawing == (REPOSITORY / path).read_text(encoding="utf-8")


def test_the_documentation_draws_each_network_of_its_table():
    drawn = [words[4].removeprefix("--neck=") for words in documented()]
    assert drawn == re.findall(r"^\| `(\w+)`", TEXT, re.MULTILINE)
    sections = re.findall(r"^### (\w+)$(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL)
    assert sorted(name for name, _ in sections) == sorted(drawn)
    for name, section in sections:
        # Source, equation and drawing.
        assert "](https://" in section and "```text\n" in section
        assert section.rstrip().endswith(f"](images/feature_networks/{name}.svg)")
    assert {NETWORKS[name] for name in drawn} == set(NETWORKS.values())


def test_a_drawing_of_the_command_is_replaced_and_no_other_file(tmp_path):
    words = ("-m", "efficientdet_tf", "draw", "--neck=fpn", "--set=neck.num_repeats=2", *SMALL)
    path = tmp_path / "new" / "fpn.svg"
    path.parent.mkdir()
    path.write_text(draw_network(graph_of(network("fpn", 1, "sum")), "fpn"))
    done = program.call(*words, f"--output={path}")
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
