"""The Dockerfile, as far as it can be checked without Docker."""

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
TEXT = (REPOSITORY / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
COPIED = [
    path for line in re.findall(r"^COPY (.+) \S+$", TEXT, re.MULTILINE) for path in line.split()
]


def test_what_it_copies_exists_and_is_sent_to_the_builder():
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    kept = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    assert kept == set(COPIED)
    assert not [path for path in COPIED if not (REPOSITORY / path).exists()]


def test_its_extras_are_those_of_the_package():
    setup = (REPOSITORY / "setup.py").read_text(encoding="utf-8")
    documentation = (REPOSITORY / "docs" / "containers.md").read_text(encoding="utf-8")
    named = ",".join(re.findall(r"EXTRAS=([\w,]+)", TEXT + documentation)).split(",")
    assert set(named) == {"gpu", "pretrained"}
    for extra in {*named, "video", "serving"}:
        assert f'"{extra}": ' in setup


def test_it_does_not_run_as_root():
    instructions = [line.split(maxsplit=1) for line in TEXT.splitlines() if line[:1].isupper()]
    users = [value for name, value in instructions if name == "USER"]
    assert users == ["detector"]
    names = [name for name, _ in instructions]
    assert names.index("USER") < names.index("ENTRYPOINT")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """What `pip install .` puts into the environment, from a folder with the copied files alone."""
    folder = tmp_path_factory.mktemp("docker")
    for name in COPIED:
        source, target = REPOSITORY / name, folder / "context" / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copyfile(source, target)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", f"--wheel-dir={folder}", str(folder / "context")]
    subprocess.run(command, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder / "site")
    return folder / "site"


def test_the_copied_files_suffice_to_install(installed):
    tracked = [
        path.relative_to(REPOSITORY)
        for package in ("efficientdet_tf", "keras_layers", "export")
        for path in (REPOSITORY / package).rglob("*")
        if path.is_file() and not fnmatch.fnmatch(str(path), "*__pycache__*")
    ]
    assert len(tracked) > 100
    assert not [path for path in tracked if not (installed / path).is_file()]


def test_its_command_starts(installed):
    entry = json.loads(re.search(r"^ENTRYPOINT (.+)$", TEXT, re.MULTILINE)[1])
    arguments = json.loads(re.search(r"^CMD (.+)$", TEXT, re.MULTILINE)[1])
    assert entry[0] == "python"
    command = [sys.executable, *entry[1:], *arguments]
    done = subprocess.run(
        command, cwd=installed, env={"PATH": ""}, capture_output=True, text=True, check=True
    )
    assert "predict: " in done.stdout and "train: " in done.stdout
