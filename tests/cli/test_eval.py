"""The eval command: output, files and refusals."""

import json
import shutil
import types

import numpy as np
import PIL.Image
import pytest
import tf_keras as keras

import commands
import tiny
from efficientdet_tf import model as model_lib
from efficientdet_tf.cli import command_line
from efficientdet_tf.cli import eval as command
from efficientdet_tf.config import ConfigError
from efficientdet_tf.data.records import DataError, LabelMap
from efficientdet_tf.errors import UserError
from efficientdet_tf.evaluation.result import METRICS
from efficientdet_tf.run_directory import RunDirectory

CONFIG = tiny.config(**tiny.EFFICIENTNET | {"model.num_classes": 2, "detection.max_detections": 20})
LABELS = LabelMap((4, 9), ("disc", "square"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`run`, a run directory, and `val.json` with `images`: three images."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_data(folder, [{"id": 4, "name": "disc"}, {"id": 9, "name": "square"}])
    config = CONFIG.override(
        {"data.val": str(folder / "val.json"), "data.val_images": str(folder / "images")}
    )
    directory = RunDirectory(folder / "run")
    directory.create(config, LABELS)
    keras.utils.set_random_seed(1)
    model = model_lib.build(config)
    directory.save_weights(model, "best")
    biases = [w for w in model.get_layer("class_head").weights if w.shape == (18,)]
    biases[0].assign(biases[0] + 3.0)
    directory.save_weights(model, "last")
    return folder


def write_data(folder, categories):
    (folder / "images").mkdir(exist_ok=True)
    images, annotations = [], []
    for number in (11, 22, 33):
        name = f"{number}.png"
        pixels = np.random.default_rng(number).integers(0, 255, (48, 80, 3), np.uint8)
        PIL.Image.fromarray(pixels).save(folder / "images" / name)
        images.append({"id": number, "file_name": name, "width": 80, "height": 48})
        annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": categories[number % 2]["id"],
                "bbox": [5, 6, 30, 20],
                "area": 600,
                "iscrowd": 0,
            }
        )
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "val.json").write_text(json.dumps(content))


def options(model_dir, **values):
    defaults = {
        "data": None,
        "format": "auto",
        "images": "",
        "split": "val",
        "weights": "best",
        "nms": None,
        "set": [],
        "runtime": "auto",
        "tta": [],
        "output": None,
    }
    return types.SimpleNamespace(model_path=str(model_dir), **{**defaults, **values})


@pytest.fixture(scope="module")
def measured(folder):
    """Result of the command on `run`."""
    return commands.call("eval.py", f"--model_path={folder / 'run'}")


def test_a_run_is_measured_on_its_own_validation_set(folder, measured):
    assert (measured.returncode, measured.stderr) == (0, "")
    lines = measured.stdout.splitlines()
    assert lines[0] == "3 images"
    assert [line.split()[0] for line in lines[1:13]] == list(METRICS)
    assert [line.split()[:3] for line in lines[15:17]] == [["4", "disc", "1"], ["9", "square", "2"]]
    output = folder / "run" / "evaluation"
    assert lines[-1] == (
        f"Written to {output}: evaluation.json, detections.json, pr_curves.png, diagnosis.json, "
        "diagnosis.png"
    )
    assert lines[18].startswith("Diagnosis: ") and lines[19].startswith("AP50 lost by kind of ")
    diagnosis = json.loads((output / "diagnosis.json").read_text())
    assert f"Diagnosis: {diagnosis['sentence']}" == lines[18]
    assert diagnosis["ground_truth_ap"] == pytest.approx(1.0)
    assert (output / "diagnosis.png").read_bytes().startswith(b"\x89PNG")
    values = json.loads((output / "evaluation.json").read_text())
    assert values["images"] == 3 and list(values["metrics"]) == list(METRICS)
    assert values["evaluated"] == {
        "model_path": str(folder / "run"),
        "weights": "best",
        "data": str(folder / "val.json"),
        "split": "val",
    }
    assert (output / "pr_curves.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((output / "detections.json").read_text())
    assert {item["image_id"] for item in found} == {11, 22, 33}
    assert {item["category_id"] for item in found} <= {4, 9}


def test_the_written_detections_give_the_same_numbers(folder, measured):
    output = folder / "run" / "evaluation"
    again, _, default = command.evaluate(
        options(output / "detections.json", data=str(folder / "val.json"), split="train")
    )
    expected = json.loads((output / "evaluation.json").read_text())
    del expected["evaluated"]
    assert json.loads(again.to_json()) == expected
    # The numbers of another split do not replace those of the validation set.
    assert default == output / "detections.json-evaluation-train"
    assert (default / "evaluation.json").is_file()


def test_detections_of_an_excluded_image_are_passed_over(folder, measured, tmp_path):
    """Its id is in the annotations, so that other tools have detections of it."""
    content = json.loads((folder / "val.json").read_text())
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    content["images"].append(
        content["images"][0] | {"id": 44, "file_name": str(tmp_path / "broken.jpg")}
    )
    for image in content["images"][:-1]:
        image["file_name"] = str(folder / "images" / image["file_name"])
    (tmp_path / "val.json").write_text(json.dumps(content))
    found = json.loads((folder / "run" / "evaluation" / "detections.json").read_text())
    found.append(found[0] | {"image_id": 44})
    (tmp_path / "found.json").write_text(json.dumps(found))
    result, _, _ = command.evaluate(
        options(tmp_path / "found.json", data=str(tmp_path / "val.json"))
    )
    expected = json.loads((folder / "run" / "evaluation" / "evaluation.json").read_text())
    del expected["evaluated"]
    assert json.loads(result.to_json()) == expected
    found[-1]["image_id"] = 45
    (tmp_path / "found.json").write_text(json.dumps(found))
    with pytest.raises(DataError, match="image_id 45 is not in "):
        command.evaluate(options(tmp_path / "found.json", data=str(tmp_path / "val.json")))


def test_the_training_split_of_a_run_is_its_training_data(folder, tmp_path):
    directory = RunDirectory(tmp_path)
    gone = str(tmp_path / "gone.json")
    directory.create(CONFIG.override({"data.train": gone}), LABELS)
    with pytest.raises(DataError) as error:
        command.evaluate(options(tmp_path, split="train"))
    assert str(error.value).startswith(f"{gone}: cannot be read: No such file or directory; ")
    # No validation data are in its config.
    with pytest.raises(UserError) as error:
        command.evaluate(options(tmp_path))
    assert str(error.value) == "--data is missing: the data set to evaluate on"


def test_images_for_testing_are_those_of_a_path_of_several_splits(tmp_path):
    directory = RunDirectory(tmp_path)
    (tmp_path / "data.yaml").write_text("names: [a]\nval: images\n")
    missing = "test: is missing; it names the image folder of this split"
    messages = {
        f"{tmp_path}/data.yaml": f"{tmp_path}/data.yaml: {missing}",
        # One split, which is not that of the images for testing.
        f"{tmp_path}/val.json": "--data is missing: the data set to evaluate on",
    }
    for path, message in messages.items():
        directory.create(CONFIG.override({"data.train": path, "data.val": path}), LABELS)
        with pytest.raises(UserError) as error:
            command.evaluate(options(tmp_path, split="test"))
        assert str(error.value) == message


def test_data_without_objects_are_refused(folder, tmp_path):
    content = json.loads((folder / "val.json").read_text())
    file = tmp_path / "empty.json"
    file.write_text(json.dumps(content | {"annotations": []}))
    images = str(folder / "images")
    with pytest.raises(DataError) as error:
        command.evaluate(options(folder / "run", data=str(file), images=images))
    assert str(error.value) == f"{file}: has no usable object in 3 images"


def test_weights_and_settings_are_those_asked_for(folder, measured, tmp_path):
    def scores(path):
        return [item["score"] for item in json.loads((path / "detections.json").read_text())]

    command.evaluate(
        options(
            folder / "run",
            weights="last",
            nms="hard",
            set=["detection.max_detections=2"],
            output=str(tmp_path / "new" / "folder"),
        )
    )
    best, last = scores(folder / "run" / "evaluation"), scores(tmp_path / "new" / "folder")
    assert len(last) == 3 * 2 < len(best)
    assert max(best) < 0.05 < 0.1 < max(last)


def test_the_file_that_is_evaluated_is_not_overwritten(folder, measured):
    output = folder / "run" / "evaluation"
    given = options(output / "detections.json", data=str(folder / "val.json"), output=str(output))
    with pytest.raises(UserError) as error:
        command.evaluate(given)
    assert str(error.value) == (
        f"--output: {output}/detections.json is the input, which would be overwritten; "
        "choose another folder"
    )


@pytest.mark.parametrize("name", ["evaluation.json", "detections.json", "diagnosis.json"])
def test_files_of_others_are_not_overwritten(folder, tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError) as error:
        command.evaluate(options(folder / "run", output=str(tmp_path)))
    assert str(error.value) == (
        f"--output: {tmp_path / name} exists and was not written by this command; "
        "choose another name or folder, or move it away"
    )


def test_classes_that_the_model_does_not_know_are_named(folder, tmp_path):
    write_data(tmp_path, [{"id": 4, "name": "disc"}, {"id": 9, "name": "triangle"}])
    with pytest.raises(DataError) as error:
        command.evaluate(options(folder / "run", data=str(tmp_path / "val.json")))
    assert str(error.value) == (
        f"{tmp_path / 'val.json'}: class 'triangle' (id 9) is not a class of the model; "
        "its classes: 'disc' (id 4), 'square' (id 9)"
    )


@pytest.mark.parametrize("setting", [{"nms": "hard"}, {"set": ["detection.sigma=0.4"]}])
def test_an_exported_model_cannot_be_set(folder, setting):
    path = folder / "val.json"
    with pytest.raises(UserError) as error:
        command.evaluate(options(path, data="digits", **setting))
    key = "detection.nms" if "nms" in setting else "detection.sigma"
    assert str(error.value) == (
        f"{path}: {key} is only for a run directory; an exported model has fixed settings"
    )


def test_an_exported_model_needs_data(folder):
    with pytest.raises(UserError) as error:
        command.evaluate(options(folder / "val.json"))
    assert str(error.value) == "--data is missing: the data set to evaluate on"


def test_an_unknown_setting_is_named(folder):
    with pytest.raises(ConfigError) as error:
        command.evaluate(options(folder / "run", set=["detection.nns=hard"]))
    assert str(error.value) == "unknown key 'detection.nns'; did you mean 'detection.nms'?"


@pytest.mark.parametrize(
    "setting", ["model.image_size=128", "training.epochs=3", "neck.fusion=sum"]
)
def test_a_setting_of_the_trained_network_or_of_training_is_refused(folder, setting):
    """It would be ignored, or the network has another input or other anchors."""
    with pytest.raises(UserError) as error:
        command.evaluate(options(folder / "run", set=["data.strict=true", setting]))
    assert str(error.value) == (
        f"--set {setting.partition('=')[0]}: is of the trained network or of training; an "
        "evaluation can change settings of detection and data, training.eval_batch_size and "
        "training.xla"
    )


def test_data_of_a_run_that_moved_are_named(folder, tmp_path):
    with pytest.raises(DataError) as error:
        command.evaluate(options(folder / "run", set=[f"data.val={tmp_path}/val.json"]))
    reason = f"{tmp_path}/val.json: cannot be read: No such file or directory"
    advice = "if it has moved, give --data"
    assert str(error.value) == (
        f"{reason}; config.yaml of the run names {tmp_path}/val.json; {advice}"
    )
    with pytest.raises(DataError) as error:
        command.evaluate(options(folder / "run", set=["data.val=gone.json"]))
    seen = "as seen from the folder of its training"
    assert str(error.value).endswith(f"; config.yaml of the run names gone.json, {seen}; {advice}")


def test_weights_are_chosen_of_a_run_only(folder):
    path = folder / "val.json"
    with pytest.raises(UserError) as error:
        command.evaluate(options(path, data="digits", weights="last"))
    assert str(error.value) == f"--weights=last: {path} is no run directory; leave it out"


def test_a_folder_that_cannot_be_written_is_named(folder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError) as error:
        command.evaluate(options(folder / "run", output=str(tmp_path / "file")))
    assert str(error.value) == f"--output {tmp_path / 'file'}: File exists"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "--model_path is missing: Run directory, SavedModel folder, .tflite or .onnx file, "
            "name of a published model, as efficientdet-d0, or .json file of detections in COCO's "
            "results format; several models with commas between them are an ensemble.",
        ),
        (["--model_path=x", "y"], "unexpected argument 'y'; see --help"),
        (["--nms=soft"], "flag --nms=soft: value should be one of <gaussian|hard>; see --help"),
        (
            ["--modelpath=x"],
            "Unknown command line flag 'modelpath'. Did you mean: model_path ?; see --help",
        ),
        (["--model_path=nowhere"], "nowhere: no such file or folder"),
        (
            ["--model_path=efficientdet_D0"],
            "efficientdet_D0: no such file or folder; did you mean 'efficientdet-d0', a published "
            "model?",
        ),
        (["--model_path=docs,docs"], "--model_path: docs is given twice; use distinct models"),
        (["--model_path=docs,nowhere"], "nowhere: no such file or folder"),
        (
            ["--model_path=docs,tests", "--data=digits"],
            "--output is missing: an ensemble has no folder of its own",
        ),
        (["--model_path=docs", "--tta=turn"], "view 'turn': unknown; use flip or scale, or both"),
        *[
            (
                ["--model_path=docs", "--data=digits", f"--set={setting}"],
                f"--set {setting}: training alone chooses it; give a value",
            )
            for setting in ("model.image_size=auto", "anchors.auto=true")
        ],
    ],
)
def test_a_wrong_command_line_is_one_line(arguments, message, capsys):
    assert command_line.call(command.COMMAND, arguments) == 1
    assert capsys.readouterr() == ("", f"eval: {message}\n")


def test_test_time_augmentation_fuses_views(folder, measured, tmp_path):
    given = options(folder / "run", weights="last", tta=["flip"], output=str(tmp_path / "flip"))
    result, _, output = command.evaluate(given)
    assert result.num_images == 3 and output == tmp_path / "flip"
    plain, _, other = command.evaluate(
        options(folder / "run", weights="last", output=str(tmp_path / "plain"))
    )
    fused, single = (
        json.loads((folder / "detections.json").read_text()) for folder in (output, other)
    )
    # Objects that only one of two views has are in the result, too.
    assert len(fused) > 20 * 3 >= len(single)
    assert max(item["score"] for item in fused) <= max(item["score"] for item in single) + 0.05
    for item in fused:
        x, y, width, height = item["bbox"]
        assert x >= 0 and y >= 0 and x + width <= 80.01 and y + height <= 48.01


def test_an_ensemble_has_the_settings_of_the_command(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "other")
    paths = f"{folder / 'run'},{tmp_path / 'other'}"
    settings = {"nms": "hard", "set": ["detection.max_detections=2"], "weights": "last"}
    command.evaluate(options(paths, output=str(tmp_path / "out"), **settings))
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    # Twice the same model has the same two detections in each image, with the same scores.
    assert len(found) == 3 * 2
    assert min(item["score"] for item in found) > 0.1


def test_an_ensemble_of_other_classes_is_refused(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "other")
    label_map = LabelMap((4, 9), ("disc", "ring"))
    (tmp_path / "other" / "label_map.json").write_text(label_map.to_json())
    first, second = folder / "run", tmp_path / "other"
    with pytest.raises(UserError) as error:
        command.evaluate(options(f"{first},{second}", output=str(tmp_path / "out")))
    assert str(error.value) == (
        f"{second}: class 'ring' (id 9) instead of 'square' (id 9) of {first}; an ensemble needs "
        "models of the same classes"
    )


def test_detections_in_a_file_have_no_views(folder):
    with pytest.raises(UserError) as error:
        command.evaluate(options(folder / "val.json", tta=["flip"]))
    assert (
        str(error.value) == f"{folder / 'val.json'}: is no model; --tta and ensembles need models"
    )


def test_help_lists_the_flags():
    done = commands.call("eval.py", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Measure a detector on a data set with COCO's metrics.\n")
    for flag in ("model_path", "data", "format", "images", "split", "weights", "nms", "set"):
        assert f"\n  --{flag}: " in done.stdout
