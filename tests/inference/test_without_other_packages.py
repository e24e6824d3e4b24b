"""Detection in files with the packages alone that docs/mobile.md names for it."""

import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from efficientdet_tf.detector import Detector

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "mobile.md").read_text(encoding="utf-8")
# Runs the code of the second argument where no distribution can be imported but those of the first.
ALONE = """
import importlib.metadata, json, re, sys
allowed = set(json.loads(sys.argv[1]))
owners = importlib.metadata.packages_distributions()
class Missing:
    @staticmethod
    def find_spec(name, path=None, target=None):
        packages = {re.sub("[-_.]+", "-", owner).lower() for owner in owners.get(name, [])}
        if packages and not packages & allowed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing)
code, sys.argv = sys.argv[2], sys.argv[2:]
exec(code)
"""
DETECT = """
from efficientdet_tf.detector import Detector
[found] = Detector.load(sys.argv[1]).detect(sys.argv[2])
print(json.dumps(found.boxes.tolist()))
"""
COMMAND = "from efficientdet_tf import __main__; __main__.main()"


def requirements() -> list[str]:
    [section] = re.findall(r"## Small computers and servers\n(.+?)\n## ", PAGE, re.DOTALL)
    return re.findall(r'"([^"]+)"', section)


def name_of(requirement: str) -> str:
    return re.sub("[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()


@pytest.fixture(scope="module")
def alone():
    """Function that runs code with the packages of the page and with what these require."""
    allowed, new = {"efficientdet-tf"}, {name_of(text) for text in requirements()}
    while new:
        allowed |= new
        lines = [line for name in new for line in importlib.metadata.requires(name) or []]
        new = {name_of(line) for line in lines if "extra ==" not in line} - allowed
        new &= {name_of(one.metadata["Name"]) for one in importlib.metadata.distributions()}
    assert not {"tensorflow", "tf-keras", "pandas", "h5py"} & allowed

    def run(code: str, *arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", ALONE, json.dumps(sorted(allowed)), code]
        command += map(str, arguments)
        return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)

    return run


def test_they_are_requirements_of_the_package():
    setup = (REPOSITORY / "setup.py").read_text(encoding="utf-8")
    assert len(requirements()) == 10
    for requirement in requirements():
        assert f'"{requirement}",' in setup


def test_they_suffice_to_detect(alone, exported, photograph):
    done = alone(DETECT, exported / "model.tflite", photograph)
    assert done.returncode == 0, done.stderr
    [expected] = Detector.load(exported / "model.tflite").detect(photograph)
    np.testing.assert_array_equal(np.array(json.loads(done.stdout)), expected.boxes)


def test_they_suffice_for_the_command(alone, exported, photograph, tmp_path):
    arguments = (f"--model_path={exported / 'model_raw.tflite'}", f"--input={photograph}")
    done = alone(COMMAND, "predict", *arguments, f"--output={tmp_path / 'found'}")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "found").iterdir()}
    assert names == {"detections.json", photograph.name}


@pytest.mark.parametrize("model", ["tiny_run", "exported"])
def test_other_models_are_refused_in_one_line(alone, photograph, tmp_path, model, request):
    path = request.getfixturevalue(model)
    path = path if model == "tiny_run" else path / "saved_model"
    arguments = (f"--model_path={path}", f"--input={photograph}", f"--output={tmp_path}")
    done = alone(COMMAND, "predict", *arguments)
    assert done.returncode == 1
    assert done.stderr == (
        f"predict: {path}: needs tensorflow, which is not installed; use an exported .tflite or "
        ".onnx file, or install the package with all it requires\n"
    )


def test_other_commands_are_refused_in_one_line(alone, tmp_path):
    arguments = ("--train_data=digits", "--val_data=digits", f"--model_dir={tmp_path / 'run'}")
    done = alone(COMMAND, "train", *arguments)
    assert done.returncode == 1
    assert done.stderr == (
        "train: tensorflow is not installed; without it, there is only predict with a .tflite or "
        ".onnx file: install the package with all it requires\n"
    )
