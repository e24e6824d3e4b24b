"""`efficientdet-data check`: files, counts and exit codes."""

import base64
import io
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from efficientdet_tf.cli import command_line, data, data_check
from efficientdet_tf.data.faults import KINDS, SEVERITIES

REPOSITORY = Path(__file__).resolve().parents[2]


def call(*arguments):
    return command_line.call(data.COMMANDS["check"], list(map(str, arguments)))


def write_set(folder, *boxes, name="set.json", num_images=1):
    """Write a COCO file of images with the given boxes each."""
    folder.mkdir(exist_ok=True)
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    for number in range(1, num_images + 1):
        coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(coarse).resize((640, 480)).save(folder / f"{number}.jpg")
        size = {"width": 640, "height": 480}
        content["images"].append({"id": number, "file_name": f"{number}.jpg", **size})
        for box in boxes:
            entry = {"id": len(content["annotations"]) + 1, "image_id": number, "bbox": box}
            content["annotations"].append(entry | {"category_id": 1})
    (folder / name).write_text(json.dumps(content))
    return folder / name


def test_a_clean_set_has_no_faults_and_exit_code_0(tmp_path, capsys):
    path, output = write_set(tmp_path / "set", [10, 10, 200, 300]), tmp_path / "new" / "out"
    assert call(f"--data={path}", f"--output={output}", "--fail_on=warning") == 0
    assert capsys.readouterr().out == (
        f"{path}: 1 images, of which 1 can be used; 1 objects\n"
        f"no faults\n\nWritten to {output}: check.html, check.json\n"
    )
    content = json.loads((output / "check.json").read_text())
    assert content["counts"] == {} and content["faults"] == []
    assert "None was found." in (output / "check.html").read_text()


def test_a_file_name_that_is_not_utf_8_is_written_with_a_question_mark(tmp_path):
    """Of a ZIP file of Windows: an image that no annotation names."""
    path, output = write_set(tmp_path / "set", [10, 10, 200, 300]), tmp_path / "out"
    os.link(path.parent / "1.jpg", os.fsencode(path.parent) + b"/caf\xe9.jpg")
    assert call(f"--data={path}", f"--output={output}") == 0
    [fault] = json.loads((output / "check.json").read_text(encoding="utf-8"))["faults"]
    name = f"{path.parent}/caf?.jpg"
    assert (fault["file"], fault["image"]) == (name, name)
    assert fault["message"] == f"{name}: no annotation names this image"
    assert f"{name}: no annotation" in (output / "check.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """Annotation file and output folder of a set with 30 boxes beyond their image."""
    folder = tmp_path_factory.mktemp("check")
    path = write_set(folder / "set", [600, 300, 100, 100], [900, 0, 9, 9], num_images=30)
    assert call(f"--data={path}", f"--output={folder / 'out'}", "--fail_on=never") == 0
    return path, folder / "out"


def test_the_json_has_every_fault(checked):
    path, output = checked
    content = json.loads((output / "check.json").read_text())
    assert content["sets"] == [
        {"split": "train", "source": str(path), "images": 30, "usable_images": 0, "objects": 60}
    ]
    assert content["counts"] == {"box_outside": 30, "box_beyond": 30}
    assert len(content["faults"]) == 60
    assert content["faults"][-1] == {
        "kind": "box_beyond",
        "severity": "warning",
        "split": "train",
        "file": str(path),
        "place": "annotation 59",
        "field": "bbox",
        "image": str(path.parent / "30.jpg"),
        "other_image": "",
        "box": [300, 600, 400, 700],
        "message": f"{path}: annotation 59: bbox: reaches beyond the image of 640 x 480 pixels; "
        "clipped",
        "proposal": "clip the box to the image",
    }


def test_the_page_is_one_file_with_thumbnails(checked):
    _, output = checked
    page = (output / "check.html").read_text()
    # 24 of each of two kinds.
    assert page.count('src="data:image/jpeg;base64,') == 48
    assert page.count("... and 6 more.") == 2
    assert not re.search(r'src="(?!data:)|<script|href="(?!#)', page)
    assert "Boxes outside their image: 30" in page
    encoded = re.search('src="data:image/jpeg;base64,([^"]*)"', page).group(1)
    drawn = Image.open(io.BytesIO(base64.b64decode(encoded)))
    # The image of 640 x 480 pixels, grey beyond it, up to 4 pixels around the box at (900, 0).
    assert drawn.size == (280, 148)
    pixels = np.asarray(drawn, int)
    is_grey = (abs(pixels - 160) < 3).all(axis=(0, 2))
    assert not is_grey[:190].any() and is_grey[210:250].all()


def test_the_exit_code_is_2_for_faults_of_the_severity(checked, capsys):
    path, output = checked
    assert call(f"--data={path}", f"--output={output}") == 2
    out, err = capsys.readouterr()
    assert err == "data: 30 errors found; --fail_on=error\n"
    assert "      30  error    Boxes outside their image\n" in out
    assert call(f"--data={path}", f"--output={output}", "--fail_on=warning") == 2
    assert capsys.readouterr().err == "data: 30 errors and 30 warnings found; --fail_on=warning\n"


def test_fix_writes_a_cleaned_copy(tmp_path, capsys):
    path = write_set(tmp_path / "set", [600, 300, 100, 100], [10, 10, 200, 300], num_images=2)
    (tmp_path / "set" / "2.jpg").write_bytes(b"")
    clean, output = tmp_path / "clean", tmp_path / "out"
    assert call(f"--data={path}", f"--output={output}", f"--fix={clean}", "--fail_on=never") == 0
    line = f"Written to {clean}/train.json: 1 images; 1 images and 2 objects are left out\n"
    assert capsys.readouterr().out.endswith(line)
    # A link, which takes no space.
    assert (clean / "train" / "1.jpg").samefile(tmp_path / "set" / "1.jpg")
    assert call(f"--data={clean / 'train.json'}", f"--output={output}", "--fail_on=warning") == 0


def test_fix_tells_what_the_copy_does_not_hold(tmp_path, capsys):
    path = write_set(tmp_path / "set", [10, 10, 200, 300], [10, 10, 0, 300])
    content = json.loads(path.read_text())
    content["annotations"][0]["segmentation"] = [[10, 10, 210, 10, 210, 310, 10, 310]]
    path.write_text(json.dumps(content))
    places = f"--output={tmp_path / 'out'}", f"--fix={tmp_path / 'clean'}"
    assert call(f"--data={path}", *places, "--fail_on=never") == 0
    lines = capsys.readouterr().out.splitlines()[-3:-1]
    assert lines == [
        "train: not kept: segmentation: 1; only the box is written",
        "train: not kept: objects without a valid box: 1; written as difficult objects",
    ]


def test_predictions_of_a_model_add_suspects(tmp_path, capsys):
    path = write_set(tmp_path / "set", [10, 10, 200, 300], num_images=2)
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [12, 10, 200, 300], "score": 0.9},
        {"image_id": 2, "category_id": 1, "bbox": [400, 100, 100, 100], "score": 0.8},
        {"image_id": 2, "category_id": 1, "bbox": [300, 100, 100, 100], "score": 0.3},
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    model = f"--model_path={tmp_path / 'results.json'}"
    assert call(f"--data={path}", f"--output={tmp_path / 'out'}", model) == 0
    content = json.loads((tmp_path / "out" / "check.json").read_text())
    image = path.parent / "2.jpg"
    assert [(f["kind"], f["place"], f["box"], f["message"]) for f in content["faults"]] == [
        (
            "suspect_unlabelled",
            "",
            [100, 400, 200, 500],
            f"{image}: a prediction of 'cat' with a score of 0.80, where no object is annotated",
        ),
        (
            "suspect_unfound",
            "annotation 2",
            [10, 10, 310, 210],
            f"{path}: annotation 2: bbox: no prediction of any score finds this 'cat'",
        ),
    ]
    assert call(f"--data={path}", f"--output={tmp_path / 'out'}", model, "--min_score=0.2") == 0
    assert "       2  note     Confident predictions where no" in capsys.readouterr().out


def test_the_predictions_are_those_of_a_run(tiny_run, photograph, tmp_path):
    names = json.loads((tiny_run / "label_map.json").read_text())
    content = {
        "images": [{"id": 1, "file_name": str(photograph)}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": names[0]["id"], "bbox": [1, 1, 2, 2]}
        ],
        "categories": names,
    }
    (tmp_path / "set.json").write_text(json.dumps(content))
    arguments = (f"--data={tmp_path / 'set.json'}", f"--output={tmp_path / 'out'}")
    assert call(*arguments, f"--model_path={tiny_run}", "--fail_on=never") == 0
    counts = json.loads((tmp_path / "out" / "check.json").read_text())["counts"]
    assert counts["suspect_unfound"] == 1 and counts["suspect_unlabelled"] > 0


def test_a_path_with_both_splits_is_checked_as_both(shared_data, tmp_path, capsys):
    assert call(f"--data={shared_data / 'bccd'}", f"--output={tmp_path}") == 2
    content = json.loads((tmp_path / "check.json").read_text())
    assert [part["split"] for part in content["sets"]] == ["train", "val"]
    # The boxes without width or height that the README of the data names.
    assert content["counts"] == {
        "box_empty": 2,
        "leakage": 1,
        "box_duplicate": 6,
        "box_small": 5,
    }
    places = [f["file"].rpartition("/")[2] for f in content["faults"] if f["kind"] == "box_empty"]
    assert places == ["BloodImage_00343.xml", "BloodImage_00338.xml"]
    assert capsys.readouterr().err == "data: 3 errors found; --fail_on=error\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data is missing: Data set to check."),
        (["--data=digits"], "--data: 'digits' is built in and has no files to check"),
        (["--data=no.json"], "no.json: cannot be read: No such file or directory"),
        (["--data=a.json", "--model_path=no"], "--model_path: no: no such file or folder"),
        (["--data=a.json", "--min_score=2"], "flag --min_score=2: 2.0 is not a number in the ra"),
        (["--data=a.json", "--fail_on=no"], "flag --fail_on=no: value should be one of <error|"),
    ],
)
def test_complains_in_one_line(arguments, message, capsys, tmp_path):
    assert call(*arguments, f"--output={tmp_path / 'out'}") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"data: {message}")


def test_a_split_that_cannot_be_read_is_an_error(tmp_path, capsys):
    (tmp_path / "data.yaml").write_text("train: images\nval: nowhere\nnames: [cat]\n")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (64, 48)).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    arguments = (f"--data={tmp_path / 'data.yaml'}", f"--output={tmp_path / 'out'}")
    assert call(*arguments, "--fail_on=never") == 1
    assert "nowhere" in capsys.readouterr().err


def test_a_folder_of_the_user_for_the_copy_is_refused_before_the_check(tmp_path, capsys):
    path = write_set(tmp_path / "set", [10, 10, 200, 300])
    arguments = (f"--data={path}", f"--output={tmp_path / 'out'}", f"--fix={path.parent}")
    assert call(*arguments) == 1
    assert capsys.readouterr().err.startswith(f"data: --fix: {path.parent} exists and was not ")
    assert not (tmp_path / "out" / "check.json").exists()


def test_files_of_the_user_are_kept(tmp_path, capsys):
    path = write_set(tmp_path / "set", [10, 10, 200, 300])
    (tmp_path / "check.html").write_text("mine")
    assert call(f"--data={path}", f"--output={tmp_path}") == 1
    line = f"data: --output: {tmp_path / 'check.html'} exists and was not written by this command"
    assert capsys.readouterr().err.startswith(line)
    assert (tmp_path / "check.html").read_text() == "mine"


def test_the_documentation_has_every_kind_and_its_severity():
    text = (REPOSITORY / "docs" / "checking-data.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (\w+) \|", text, re.MULTILINE)
    documented = {kind: severity for kinds, severity in rows for kind in re.findall(r"\w+", kinds)}
    assert documented == {kind: each.severity for kind, each in KINDS.items()}


def test_every_kind_has_a_severity_and_a_proposal():
    assert {kind.severity for kind in KINDS.values()} == set(SEVERITIES)
    assert set(data_check._FAILING) == {"error", "warning", "never"}
    assert all(kind.title and kind.proposal for kind in KINDS.values())
