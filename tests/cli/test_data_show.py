"""`efficientdet-data show`: a grid of images, with and without augmentation."""

import json
import re
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import commands as program
from efficientdet_tf import output_files
from efficientdet_tf.cli import command_line, data, data_show
from efficientdet_tf.config import known_keys
from efficientdet_tf.visualization import drawing

REPOSITORY = Path(__file__).resolve().parents[2]
KNOWN = ", ".join(data.COMMANDS)
SMALL = (
    *("--data=digits", "--split=val", "--num_images=5", "--columns=3"),
    "--set=model.image_size=128x160",
)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Written files and printed text of the command, without and with augmentation."""
    folder = tmp_path_factory.mktemp("show")
    words = ("-m", "efficientdet_tf", "data", "show", *SMALL, "--set=augmentation.mosaic=1")
    off = program.call(*words, f"--output={folder}/new/off.png")
    on = program.call(*words, "--augmented", f"--output={folder}/on.png")
    assert (off.returncode, on.returncode) == (0, 0), off.stderr + on.stderr
    assert (off.stderr, on.stderr) == ("", "")
    for path in (folder / "new" / "off.png", folder / "on.png"):
        # The same command may be run again.
        output_files.check_replaceable(path, output_files.is_own_image)
    return {folder / "new" / "off.png": off.stdout, folder / "on.png": on.stdout}


def test_writes_a_grid_and_prints_its_counts(outputs):
    for path, printed in outputs.items():
        # Two rows of three, with gaps.
        assert PIL.Image.open(path).size == (3 * 164 - 4, 2 * 132 - 4)
        assert printed.startswith("5 images with ") and printed.endswith(f", written to {path}\n")


def test_says_the_input_size_that_it_chose(tmp_path):
    words = ("--data=digits", "--split=val", "--num_images=1", "--set=model.image_size=auto")
    done = program.call(
        "-m", "efficientdet_tf", "data", "show", *words, f"--output={tmp_path}/a.png"
    )
    first, last = done.stdout.splitlines()
    height, width = re.match(r"input: (\d+)x(\d+) pixels", first).groups()
    assert PIL.Image.open(tmp_path / "a.png").size == (int(width), int(height))
    assert last.startswith("1 images with ")


def test_ignored_objects_are_grey_and_counted_by_themselves(tmp_path, capsys):
    PIL.Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    boxes = {1: [4, 40, 20, 20], 9: [36, 40, 20, 20]}
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": category, "image_id": 1, "category_id": category, "bbox": box}
            for category, box in boxes.items()
        ],
    }
    (tmp_path / "some.json").write_text(json.dumps(content))
    output = tmp_path / "grid.png"
    arguments = [f"--data={tmp_path / 'some.json'}", f"--output={output}", "--num_images=1"]
    show = data.COMMANDS["show"]
    assert command_line.call(show, [*arguments, "--set=model.image_size=64"]) == 0
    printed = f"1 images with 1 objects and 1 ignored ones in grey, written to {output}\n"
    assert capsys.readouterr().out == printed
    grid = PIL.Image.open(output)
    colors = [grid.getpixel((x, 55)) for x in (4, 36)]
    assert colors == [drawing.class_color("cat"), drawing.IGNORED_COLOR]


def test_a_grid_that_is_too_large_for_a_format_is_refused():
    message = "^--output: JPEG cannot hold an image of 65501 x 1 pixels; use .png$"
    with pytest.raises(output_files.OutputError, match=message):
        output_files.encode_image(PIL.Image.new("RGB", (65501, 1)), ".jpg")


def test_a_format_without_colours_is_refused():
    with pytest.raises(output_files.OutputError) as error:
        output_files.encode_image(PIL.Image.new("RGB", (2, 1)), ".xbm")
    assert str(error.value) == (
        "--output: XBM cannot be written: cannot write mode RGB as XBM; use .png"
    )


@pytest.mark.parametrize("side", [4, 8])
@pytest.mark.filterwarnings("error")
def test_a_grid_of_more_pixels_than_pillow_opens_is_recognised(tmp_path, monkeypatch, side):
    image = PIL.Image.new("RGB", (side, side))
    # It warns of more than these, and refuses twice as many.
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 10)
    for name in ("a.png", "a.jpg"):
        (tmp_path / name).write_bytes(output_files.encode_image(image, name[1:]))
        assert output_files.is_own_image(tmp_path / name)
        image.save(tmp_path / name)
        assert not output_files.is_own_image(tmp_path / name)


def test_augmented_only_on_demand(outputs):
    counts = [int(printed.split()[3]) for printed in outputs.values()]
    # A mosaic has the objects of four images.
    assert counts[1] > 1.5 * counts[0]
    off, on = (np.asarray(PIL.Image.open(path)) for path in outputs)
    assert not np.array_equal(off, on)


def test_without_augmentation_all_of_it_is_off():
    switches = {key for key in known_keys() if key.startswith("augmentation.")}
    # These do nothing by themselves.
    switches -= {"augmentation.rand_num_layers", "augmentation.rand_magnitude"}
    switches -= {"augmentation.plain_epochs"}
    assert set(data_show._NOT_AUGMENTED) == switches


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], f"the first argument has to be one of: {KNOWN}; see --help"),
        (["shw", "--data=digits"], f"'shw' is not one of: {KNOWN}; see --help"),
        (["--data=digits", "show"], f"the first argument has to be one of: {KNOWN}; see --help"),
        (["show", "--output=x.png"], "--data is missing: Data set: a path, or"),
        (["show", "--data=digits"], "--output is missing: Image file to write, e.g. grid.png."),
        (["show", "more"], "unexpected argument 'more'; see --help"),
        (
            ["show", *SMALL, "--output=x.png", "--set=augmentation.policy=v4"],
            "augmentation.policy: 'v4' is not one of none, v0, v1, v2, v3, rand",
        ),
        (["show", *SMALL, "--output=x.abc"], "--output: suffix '.abc' has no image format; "),
        (["show", *SMALL, "--output=x"], "--output: a name without a suffix has no image "),
        (
            ["show", *SMALL, f"--output={REPOSITORY / 'docs' / 'detections.png'}"],
            f"--output: {REPOSITORY / 'docs' / 'detections.png'} exists and was not written by ",
        ),
    ],
)
def test_complains_in_one_line(arguments, message, capsys):
    assert command_line.call(*command_line.choose("data", data.COMMANDS, arguments)) == 1
    out, err = capsys.readouterr()
    [line] = err.splitlines()
    assert line.startswith(f"data: {message}") and out == ""
