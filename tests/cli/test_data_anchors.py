"""`efficientdet-data anchors`: tables, proposals and the plot."""

import PIL.Image
import pytest

from efficientdet_tf import output_files
from efficientdet_tf.cli import command_line, data
from efficientdet_tf.config import Config, parse_assignments


def call(*arguments):
    return command_line.call(data.COMMANDS["anchors"], list(map(str, arguments)))


@pytest.fixture(scope="module")
def coco128(shared_data):
    return shared_data / "coco128" / "annotations" / "instances_train2017_subset.json"


def test_prints_the_recall_of_a_real_set_and_better_settings(coco128, tmp_path, capsys):
    output = tmp_path / "new" / "anchors.png"
    assert call(f"--data={coco128}", f"--output={output}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{coco128}: 717 boxes at 512 x 512 pixels, efficientdet-d0"
    table = {line[:20].strip(): line[20:].split() for line in lines}
    # Numbers of boxes as in the README of the data.
    assert table["all"] == ["717", "0.644", "0.552"]
    assert table["small"] == ["270", "0.119", "0.244"]
    assert table["medium"] == ["223", "0.942", "0.721"]
    assert table["large"] == ["224", "0.982", "0.755"]
    assert table["512 x 512 (chosen)"] == table["all"]
    assert table["sports ball"][:2] == ["4", "0.000"]
    assert "... and 49 classes with higher recall" in lines
    assert "a larger input: recall 0.880 with --set model.image_size=1536" in lines
    proposal = next(i for i, line in enumerate(lines) if line.startswith("other anchors: "))
    assert lines[proposal].startswith("other anchors: recall 0.644 -> 0.8")
    # The printed flags are flags.
    words = lines[proposal + 1].split()
    assert words[::2] == ["--set", "--set"]
    config = Config().override(parse_assignments(words[1::2]))
    assert config.anchors.scale < 3 and len(config.anchors.aspect_ratios) == 3
    assert lines[-1] == f"Written to {output}"
    assert PIL.Image.open(output).size == (1320, 600)
    output_files.check_replaceable(output, output_files.is_own_image)


def test_other_settings_are_measured(coco128, capsys):
    settings = ("--set=model.image_size=384x640", "--set=anchors.scale=2")
    assert call(f"--data={coco128}", "--model=efficientdet-lite0", *settings) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{coco128}: 717 boxes at 384 x 640 pixels, efficientdet-lite0\n")
    assert "384 x 640 (chosen)" in out


def test_an_input_that_is_auto_is_chosen(coco128, capsys):
    assert call(f"--data={coco128}", "--set=model.image_size=auto") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("input: 672x896 pixels, in the shape of the images, instead of ")
    assert lines[1] == f"{coco128}: 717 boxes at 672 x 896 pixels, efficientdet-d0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data is missing: Data set: a path, or 'digits' (built in)."),
        (["--data=a", "--output=x.abc"], "--output: suffix '.abc' has no image format; "),
        (["--data=no.json"], "no.json: cannot be read: No such file or directory"),
    ],
)
def test_complains_in_one_line(arguments, message, capsys):
    assert call(*arguments) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"data: {message}")
